"""Configs of mmsegmentation 0.x in the present form."""

from nlseg.migrate.config import migrate_config, migrate_name

__all__ = ["migrate_config", "migrate_name"]
