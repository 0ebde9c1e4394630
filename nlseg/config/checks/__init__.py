"""Checking a config before anything is built."""

from nlseg.config.checks.check import check_config

__all__ = ["check_config"]
