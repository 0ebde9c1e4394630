"""Checkpoint files: written whole, found again, gone on from."""
