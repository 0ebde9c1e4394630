"""The shapes of data that plans are compared on, and the config that they are compared with."""

import json
from pathlib import Path

import pytest

import data_shapes
from nlseg.config import load_config
from nlseg.config.published import find_config
from nlseg.start.planning import read_folder
from nlseg.start.request import Request

CLASSES = {
    "thin lines, 0 and 255": 2, "11 classes, three rare": 11, "grey, 12 of 16 bits": 2,
    "3,000 px, few labels": 3,
}  # fmt: skip


@pytest.mark.parametrize("name", [n for n in CLASSES if not n.startswith("3,000")])
def test_shapes_are_read_as_they_are_meant(name: str, tmp_path: Path) -> None:
    data_shapes.draw(name, tmp_path / "data")
    request = Request(
        tmp_path / "data", tmp_path / "planned.py", 60.0, classes=data_shapes.SHAPES[name][4]
    )
    found = read_folder(request, progress=False)
    assert len(found.labels.classes) == CLASSES[name]
    assert {s: len(p) for s, p in found.layout.splits().items()} == {"train": 24, "test": 4}


def test_the_base_differs_in_data_classes_and_weights_alone(tmp_path: Path) -> None:
    planned = tmp_path / "planned.py"
    planned.write_text(
        "_base_ = 'BASE'\ndata = dict(_delete_=True, type='BaseSegDataset', data_root='mine',\n"
        "    metainfo=dict(classes=('a', 'b')), data_prefix=dict(img_path='i', seg_map_path='m'),\n"
        "    pipeline=[])\ntrain_dataloader = dict(dataset=data)\n"
        "test_dataloader = dict(dataset=data)\n".replace("BASE", str(find_config(data_shapes.BASE)))
    )
    base = tmp_path / "base.py"
    base.write_text(data_shapes.base_text(planned, 2))
    theirs, ours = load_config(data_shapes.BASE), load_config(base)
    changed = {
        key for key in {*theirs, *ours}
        if theirs.get(key) != ours.get(key) and key not in ("train", "test", "data_check")
    }  # fmt: skip
    assert changed == {"model", "train_dataloader", "val_dataloader", "test_dataloader"}
    assert ours.model.pretrained is None
    assert ours.train_dataloader.dataset.pipeline == theirs.train_pipeline
    model = ours.model.to_dict()
    model["pretrained"] = theirs.model.pretrained
    for head in ("decode_head", "auxiliary_head"):
        assert model[head].pop("num_classes") == 2
        theirs.model[head].pop("num_classes")
    assert model == theirs.model.to_dict()


def test_the_table_has_means_and_extremes() -> None:
    row = {"shape": "x", "seconds": 10.0, "base_seconds": 12.0, "steps": 90, "base_steps": 2}
    rows = [{**row, "seed": s, "planned": 50.0 + s, "base": 20.0 + 2 * s} for s in range(3)]
    last = data_shapes.table(json.loads(json.dumps(rows))).splitlines()[-1]
    assert "51.00 (50.00 to 52.00)" in last
    assert "22.00 (20.00 to 24.00)" in last
