"""Reading config files: inheritance, overrides, OpenMMLab's names."""

from nlseg.config.load import load_config

__all__ = ["load_config"]
