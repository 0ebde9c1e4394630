"""Processes and their end: ranks, launchers, signals, time limits, the owner of a run folder."""
