"""Semantic segmentation with non-local and global-context networks, driven by config files."""

__version__ = "0.1.0"
