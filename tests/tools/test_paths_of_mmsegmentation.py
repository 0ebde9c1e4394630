"""Scripts that people call by mmsegmentation's paths do the same, or say what to call."""

import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from nlseg.api import init_model

ROOT = Path(__file__).parents[2]
NAME = "nonlocal_r18-d8_1xb4-300_synthetic-96x192"


def call(monkeypatch: pytest.MonkeyPatch, script: str, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", [script, *map(str, words)])
    runpy.run_path(str(ROOT / script), run_name="__main__")


def test_a_published_model_labels_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state = init_model(NAME, device="cpu").state_dict()
    torch.save({"meta": {"iter": 3}, "state_dict": state, "optimizer": {}}, tmp_path / "a.pth")
    call(monkeypatch, "tools/misc/publish_model.py", tmp_path / "a.pth", tmp_path / "new/b.pth")
    published = Path(capsys.readouterr().out.strip())
    assert published.parent == tmp_path / "new"
    assert published.name.startswith("b-")
    assert sorted(torch.load(published, weights_only=True)) == ["meta", "state_dict"]
    image = np.random.RandomState(0).randint(0, 255, (64, 96, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    out = tmp_path / "labelled.png"
    call(
        monkeypatch, "demo/image_demo.py", tmp_path / "a.png", NAME, published,
        "--out-file", out, "--device", "cpu", "--opacity", "1",
    )  # fmt: skip
    drawn = cv2.imread(str(out))
    assert drawn.shape == image.shape
    assert not np.array_equal(drawn, image)


@pytest.mark.parametrize(
    ("name", "named"),
    [("benchmark", "tools/benchmark.py inference"), ("visualization_cam", "nlseg attend")],
)
def test_what_is_not_here_names_what_to_call(
    name: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit) as caught:
        call(monkeypatch, f"tools/analysis_tools/{name}.py", "CONFIG", "CHECKPOINT")
    assert named in str(caught.value.code)
    assert "\n" not in str(caught.value.code)


@pytest.mark.parametrize("folder", ["analysis_tools", "misc"])
def test_browse_is_reached(
    folder: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        call(monkeypatch, f"tools/{folder}/browse_dataset.py", "--help")
    assert caught.value.code == 0
    assert "--draws" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("script", "option", "told"),
    [
        ("tools/misc/browse_dataset.py", "--show-interval", "leave it out"),
        ("tools/test.py", "--show", "--show-dir DIR writes the pictures"),
        ("tools/test.py", "--wait-time", "--show-dir DIR writes the pictures"),
    ],
)
def test_an_option_for_a_window_names_what_to_use(
    script: str, option: str, told: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    with pytest.raises(SystemExit, match="2"):
        call(monkeypatch, script, "CONFIG", "CHECKPOINT"[: 10 * ("test" in script)], option, "2")
    assert f"{option}: no window is opened" in (said := capsys.readouterr().err)
    assert told in said
