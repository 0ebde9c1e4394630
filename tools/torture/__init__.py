"""The faults of tools/torture.py, group by group.

A group is a module of this package with a ``GROUP`` (see ``rows``); ``GROUPS`` names them in the
order in which they run and are printed. What a fault does lives in tests/, so that tests can do it,
too.
"""

GROUPS = (
    "kills", "saving", "resume", "identity", "workers", "terminals", "files", "ranks", "nodes",
    "shared_folder",
)  # fmt: skip
