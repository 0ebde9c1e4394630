"""Our config files as mmsegmentation has them."""

import re
from pathlib import Path

CONFIGS = Path(__file__).parents[2] / "configs"


def write_foreign_tree(root: Path) -> None:
    """Write all config files with the scope ``mmseg``, some prefixed types and a custom import."""
    for path in CONFIGS.rglob("*.py"):
        text = path.read_text().replace("default_scope = 'nlseg'", "default_scope = 'mmseg'")
        text = re.sub(r"type='(NLHead|GCHead|EncoderDecoder|Resize)'", r"type='mmseg.\1'", text)
        if path.stem == "default_runtime":
            text += "custom_imports = dict(imports=['mmseg.models', 'json'])\n"
        target = root / path.relative_to(CONFIGS)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
