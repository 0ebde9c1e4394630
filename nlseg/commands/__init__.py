"""The commands: each module holds its arguments and what they set in motion."""
