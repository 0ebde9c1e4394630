"""Every config loads; the 32 published ones hold the recorded values."""

import ast
import gzip
import json
from pathlib import Path

from nlseg.config import load_config
from tests.cases import each_case

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(path for path in (ROOT / "configs").rglob("*.py") if "_base_" not in path.parts)
RECORDED = json.loads(gzip.decompress((ROOT / "tests/golden/configs_literal.json.gz").read_bytes()))


@each_case("name", sorted(RECORDED))
def test_published_config_has_recorded_values(name: str) -> None:
    expected = ast.literal_eval(RECORDED[name])
    assert expected.pop("default_scope") == "mmseg"
    config = load_config(ROOT / "configs" / f"{name}.py").to_dict()
    assert config.pop("default_scope") == "nlseg"
    assert config == expected


@each_case("path", CONFIGS)
def test_config_loads(path: Path) -> None:
    config = load_config(path)
    assert config.model.type == "EncoderDecoder"


def test_the_published_tables_are_complete() -> None:
    tails = (
        "4xb2-40k_cityscapes-512x1024", "4xb2-80k_cityscapes-512x1024",
        "4xb2-40k_cityscapes-769x769", "4xb2-80k_cityscapes-769x769",
        "4xb4-80k_ade20k-512x512", "4xb4-160k_ade20k-512x512",
        "4xb4-20k_voc12aug-512x512", "4xb4-40k_voc12aug-512x512",
    )  # fmt: skip
    recipes = (
        "1xb16-60e_voc12aug-512x512", "1xb16-130e_ade20k-512x512", "1xb8-220e_cityscapes-512x1024",
    )  # fmt: skip
    depths = ("r50", "r101")
    wanted = {f"{m}_{d}-d8_{t}" for m in ("nonlocal", "gcnet") for d in depths for t in tails}
    wanted |= {f"nonlocal_{d}-{s}_{r}" for d in depths for s in ("d8", "d16") for r in recipes}
    assert len(wanted) == 44
    assert wanted <= {path.stem for path in CONFIGS}
