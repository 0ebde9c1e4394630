import inspect
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from PIL import Image

from nlseg.api import (
    MMSegInferencer,
    inference_model,
    inference_pipeline,
    init_default_scope,
    init_model,
    register_all_modules,
    show_result_pyplot,
)
from nlseg.commands.test import main as run_test
from nlseg.config import load_config
from nlseg.errors import CheckpointError, ConfigError, DataError, UserError
from nlseg.registry import METRICS
from nlseg.structures import SegDataSample
from nlseg.visualization.painter import Painter
from tests import tiny_data
from tests.cases import each_case
from tests.run import prepared
from tests.run.real_processes import environment

CONFIG = (
    Path(__file__).parents[1] / "configs/quickstart/nonlocal_r18-d8_1xb4-300_synthetic-96x192.py"
)


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return init_model(CONFIG, device="cpu")


def picture() -> np.ndarray:
    return np.random.RandomState(0).randint(0, 255, (64, 128, 3), dtype=np.uint8)


def test_model_knows_its_classes(model: torch.nn.Module) -> None:
    assert model.dataset_meta["classes"][0] == "road"
    assert not model.training


def test_file_and_picture_give_the_same(model: torch.nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), picture())
    from_file, from_array = inference_model(model, str(path)), inference_model(model, picture())
    assert from_file.pred_sem_seg.data.shape == (1, 64, 128)
    assert torch.equal(from_file.pred_sem_seg.data, from_array.pred_sem_seg.data)
    assert from_file.seg_logits.data.shape == (19, 64, 128)
    assert torch.equal(from_file.seg_logits.data.argmax(0), from_file.pred_sem_seg.data[0])
    # a picture before a file must not change how files are read
    again = inference_model(model, [picture(), path])
    assert torch.equal(again[1].pred_sem_seg.data, from_file.pred_sem_seg.data)


def test_config_is_not_changed(model: torch.nn.Module) -> None:
    before = model.cfg.pretty_text
    inference_model(model, picture())
    assert model.cfg.pretty_text == before
    assert any(step["type"] == "LoadAnnotations" for step in model.cfg.test_pipeline)
    assert len(inference_pipeline(model.cfg).transforms) == len(model.cfg.test_pipeline) - 1


def test_weights_must_fit_and_bring_their_classes(model: torch.nn.Module, tmp_path: Path) -> None:
    state = model.state_dict()
    torch.save(
        {"meta": {"CLASSES": ("x",), "PALETTE": [[1, 2, 3]]}, "state_dict": state},
        tmp_path / "a.pth",
    )
    other = init_model(CONFIG, tmp_path / "a.pth", device="cpu")
    assert other.dataset_meta["classes"] == ("x",)
    assert torch.equal(
        other.state_dict()["decode_head.conv_seg.bias"], state["decode_head.conv_seg.bias"]
    )
    state.pop("decode_head.conv_seg.bias")
    torch.save({"state_dict": state}, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match=r"missing \(1\):\n    decode_head\.conv_seg\.bias"):
        init_model(CONFIG, tmp_path / "b.pth", device="cpu")


def test_wrong_picture_is_refused(model: torch.nn.Module) -> None:
    with pytest.raises(DataError, match=r"shape \(64, 128\)"):
        inference_model(model, picture()[:, :, 0])


@pytest.fixture(scope="module")
def sure(model: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights whose predictions hold several classes."""
    torch.manual_seed(0)
    other = init_model(CONFIG, device="cpu")
    torch.nn.init.normal_(other.decode_head.conv_seg.weight, std=1.0)
    path = tmp_path_factory.mktemp("weights") / "sure.pth"
    torch.save({"state_dict": other.state_dict(), "meta": {}}, path)
    return path


def label_of(result: Any) -> np.ndarray:
    return result.pred_sem_seg.data[0].numpy()


def test_the_same_label_maps_as_a_test_run(sure: Path, tmp_path: Path) -> None:
    tiny_data.cityscapes(tmp_path / "data")
    run_test([
        str(CONFIG), str(sure), "--out", str(tmp_path / "out"), "--work-dir", str(tmp_path / "run"),
        "--set", f"data_root={tmp_path}/data", "num_workers=0",
    ])  # fmt: skip
    (image,) = (tmp_path / "data/leftImg8bit/val").rglob("*.png")
    (tested,) = (tmp_path / "out").rglob("*.png")
    label = label_of(inference_model(init_model(CONFIG, sure, "cpu"), image))
    assert len(np.unique(label)) > 1
    with Image.open(tested) as written:
        assert np.array_equal(label, np.asarray(written))


def test_config_by_bare_name_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    named = init_model(CONFIG.stem, device="cpu", cfg_options={"model.decode_head.num_classes": 3})
    assert named.decode_head.num_classes == 3
    with pytest.raises(ConfigError, match=CONFIG.stem):
        init_model(CONFIG.stem[:-1], device="cpu")


def test_loaded_config_that_says_mmseg(model: torch.nn.Module) -> None:
    text = load_config(CONFIG).pretty_text
    text = text.replace("default_scope = 'nlseg'", "default_scope = 'mmseg'")
    text = text.replace("type='NLHead'", "type='mmseg.NLHead'")
    foreign = init_model(Config.fromstring(text, ".py"), device="cpu")
    assert type(foreign.decode_head) is type(model.decode_head)
    assert inference_model(foreign, picture()).pred_sem_seg.data.shape == (1, 64, 128)


def test_lists_batches_and_pillow_images(sure: Path, tmp_path: Path) -> None:
    model = init_model(CONFIG, sure, "cpu")
    other = np.ascontiguousarray(picture()[:, ::-1])
    cv2.imwrite(str(tmp_path / "a.png"), picture())
    pillow = Image.fromarray(picture()[..., ::-1])
    one = label_of(inference_model(model, picture()))
    two = label_of(inference_model(model, other))
    assert not np.array_equal(one, two)
    small = picture()[:32]
    results = inference_model(model, [tmp_path / "a.png", other, pillow, small], batch_size=3)
    assert [label_of(r).shape for r in results] == [(64, 128)] * 3 + [(32, 128)]
    for result, expected in zip(results, (one, two, one), strict=False):
        assert (label_of(result) == expected).mean() > 0.999  # sums of a batch may round elsewise
    batch = inference_model(model, np.stack([picture(), other]))
    assert np.array_equal(label_of(batch[1]), two)
    assert np.array_equal(label_of(inference_model(model, images=pillow)), one)


def test_pillow_image_is_turned_and_coloured_like_its_file(
    model: torch.nn.Module, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture()[..., 0]).save(tmp_path / "grey.png", exif=exif)
    with Image.open(tmp_path / "grey.png") as opened:
        results = inference_model(model, [tmp_path / "grey.png", opened])
    assert label_of(results[0]).shape == (128, 64)
    assert torch.equal(results[0].seg_logits.data, results[1].seg_logits.data)


def test_array_gets_the_type_that_the_config_loads(tmp_path: Path) -> None:
    config = load_config(CONFIG)
    config.test_pipeline[0].to_float32 = True
    (resize,) = [step for step in config.test_pipeline if step["type"] == "Resize"]
    resize.scale = (96, 48)  # fractions of levels stay, where the array was made float before
    floats = init_model(config, device="cpu")
    cv2.imwrite(str(tmp_path / "a.png"), picture())
    a, b = inference_model(floats, [tmp_path / "a.png", picture()])
    assert torch.equal(a.seg_logits.data, b.seg_logits.data)


def test_broken_images_do_not_lose_the_others(model: torch.nn.Module, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    images = [picture(), tmp_path / "broken.png", picture()[:, :, 0], 3, tmp_path / "absent.png"]
    with pytest.warns(UserWarning, match="its result is None") as caught:
        results = inference_model(model, [*images, picture()], batch_size=2)
    assert [result is None for result in results] == [False, True, True, True, True, False]
    said = [str(warning.message) for warning in caught]
    for text in ("broken.png", "image 2: a picture has shape (64, 128)", "image 3: is a int"):
        assert sum(text in line for line in said) == 1
    assert all(Path(warning.filename).name == "test_api.py" for warning in caught)
    with pytest.raises(DataError, match=r"broken\.png"):
        inference_model(model, tmp_path / "broken.png")


def test_device_that_is_not_there() -> None:
    for name, told in (("cuda:99", "is not there"), ("gpu", "none of PyTorch's")):
        with pytest.raises(UserError, match=f"device: '{name}' .*{told}"):
            init_model(CONFIG, device=name)


def test_picture_of_a_result(sure: Path, tmp_path: Path) -> None:
    model = init_model(CONFIG, sure, "cpu")
    cv2.imwrite(str(tmp_path / "a.png"), picture())
    result = inference_model(model, tmp_path / "a.png")
    drawn = show_result_pyplot(
        model, str(tmp_path / "a.png"), result, opacity=0.3, with_labels=False, show=False,
        out_file=tmp_path / "new/out.png", save_dir=tmp_path / "all",
    )  # fmt: skip
    meta = model.dataset_meta
    painter = Painter(meta["classes"], meta["palette"], 0.3)
    expected = painter.draw(picture()[..., ::-1], label_of(result), captions=False)
    assert np.array_equal(drawn, expected)
    for file in ("new/out.png", "all/a.png"):
        assert np.array_equal(cv2.imread(str(tmp_path / file))[..., ::-1], expected)
    from_array = show_result_pyplot(
        model, picture(), result, opacity=0.3, with_labels=False, show=False
    )
    assert np.array_equal(from_array, expected)
    result.gt_sem_seg = result.pred_sem_seg
    both = show_result_pyplot(model, picture(), result, show=False)
    assert both.shape[1] > 2 * 128
    assert show_result_pyplot(model, picture(), result, draw_gt=False, show=False).shape[1] == 128
    with pytest.raises(ConfigError, match="opacity"):
        show_result_pyplot(model, picture(), result, opacity=2, show=False)


def test_window_opens_for_a_result(model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib.pyplot as plt

    shown = []
    monkeypatch.setattr(plt, "show", lambda *, block: shown.append((plt.gcf().axes, block)))
    show_result_pyplot(model, picture(), inference_model(model, picture()), title="street")
    ((axes,), block) = shown[0]
    assert axes.images[0].get_array().shape == (64, 128, 3)
    assert block
    assert plt.get_fignums() == []


def test_inferencer_labels_a_folder(sure: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), picture())
    cv2.imwrite(str(folder / "b.jpg"), picture())
    (folder / "c.png").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("no image at all")
    inferencer = MMSegInferencer(CONFIG.stem, sure, device="cpu")
    expected = label_of(inference_model(inferencer.model, picture()))
    with pytest.warns(UserWarning, match=r"c\.png"):
        results = inferencer(str(folder), batch_size=2, out_dir=tmp_path / "out", return_vis=True)
    assert results["predictions"][2] is None
    assert results["visualization"][2] is None
    assert results["visualization"][0].shape == (64, 128, 3)
    written = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*"))
    pred = ["pred/00000000_pred.png", "pred/00000001_pred.png"]
    assert written == [*pred, "vis/a.png", "vis/b.jpg"]
    for label in (results["predictions"][0], cv2.imread(str(tmp_path / "out" / pred[0]), -1)):
        assert (label == expected).mean() > 0.999
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image in this folder"):
        inferencer(tmp_path / "empty")


def test_inferencer_returns_what_it_is_asked_for(sure: Path, tmp_path: Path) -> None:
    model = init_model(CONFIG, sure, "cpu")
    inferencer = MMSegInferencer(model)
    expected = label_of(inference_model(model, picture()))
    alone = inferencer(picture(), show_dir=tmp_path / "shown")
    assert np.array_equal(alone["predictions"], expected)
    assert alone["visualization"] == []
    assert [p.name for p in (tmp_path / "shown").iterdir()] == ["00000000_vis.jpg"]
    sample = inferencer(picture(), return_datasamples=True)
    assert isinstance(sample, SegDataSample)
    assert sample.seg_logits.data.shape == (19, 64, 128)
    samples = inferencer([picture(), picture()], return_datasamples=True, out_dir=tmp_path / "o")
    assert [isinstance(s, SegDataSample) for s in samples] == [True, True]
    names = sorted(p.name for p in (tmp_path / "o").rglob("*.*"))
    assert names == ["00000002_pred.png", "00000002_vis.jpg", "00000003_pred.png",
                     "00000003_vis.jpg"]  # fmt: skip


def test_inferencer_takes_other_classes(model: torch.nn.Module) -> None:
    named = MMSegInferencer(init_model(CONFIG, device="cpu"), dataset_name="cityscapes")
    assert named.model.dataset_meta["classes"][-1] == "bicycle"
    own = MMSegInferencer(init_model(CONFIG, device="cpu"), classes=["a"] * 19)
    assert own.model.dataset_meta["classes"] == ["a"] * 19
    with pytest.raises(ConfigError, match="scope: 'mmdet'"):
        MMSegInferencer(model, scope="mmdet")
    with pytest.raises(ConfigError, match="weights"):
        MMSegInferencer(model, "x.pth")
    with pytest.warns(UserWarning, match="no weights"):
        MMSegInferencer(CONFIG, device="cpu")


@pytest.mark.parametrize("style", ["ours", "mmseg"])
def test_inferencer_takes_a_checkpoint_that_holds_its_config(
    style: str, sure: Path, tmp_path: Path
) -> None:
    content = torch.load(sure, weights_only=True)
    config = load_config(CONFIG)
    config.env_cfg = {"path": "{{$HOME:}}"}  # what prediction does not read does not matter
    text = config.pretty_text
    if style == "mmseg":
        config.default_scope, config.model.decode_head.type = "mmseg", "mmseg.NLHead"
        text = Config(config.to_dict()).pretty_text  # as mmengine writes it
    torch.save({**content, "meta": {"cfg": text}}, tmp_path / "alone.pth")
    alone = MMSegInferencer(tmp_path / "alone.pth", device="cpu")
    expected = label_of(inference_model(init_model(CONFIG, sure, "cpu"), picture()))
    assert np.array_equal(alone(picture())["predictions"], expected)
    same = MMSegInferencer(weights=str(tmp_path / "alone.pth"), device="cpu")
    assert same.model.dataset_meta["classes"][0] == "road"


@each_case(
    "text, told",
    [
        (None, r"holds no config \(meta\.cfg\); give the config beside it"),
        ("import os", "the text is no resolved config: line 1 is no assignment"),
        ("model = dict(type='os.system')", r"meta\.cfg\.model\.type: 'os\.system' is refused"),
        ("train_cfg = dict()", "has no 'model'"),
    ],
)
def test_a_checkpoint_without_a_usable_config_is_refused(
    text: str | None, told: str, tmp_path: Path
) -> None:
    torch.save({"state_dict": {}, "meta": {"cfg": text}}, tmp_path / "a.pth")
    with pytest.raises(ConfigError, match=told):
        MMSegInferencer(tmp_path / "a.pth")


def test_the_name_of_a_published_model_stands_for_its_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise CheckpointError(f"asked for {args[0]}")

    monkeypatch.setattr("nlseg.api.read_checkpoint", refuse)  # nothing is downloaded in a test
    name = "gcnet_r50-d8_4xb2-40k_cityscapes-512x1024"
    for given in ({"model": name}, {"model": name, "weights": name}):
        with pytest.raises(CheckpointError, match=f"asked for {name}"):
            MMSegInferencer(**given, device="cpu")


def test_a_video_is_not_taken_for_an_image(model: torch.nn.Module) -> None:
    with pytest.raises(DataError, match=r"film\.mp4: is a video.*nlseg predict CONFIG CHECKPOINT"):
        inference_model(model, "film.mp4")


def test_registering_all_modules_sets_the_scope() -> None:
    register_all_modules()
    assert DefaultScope.get_current_instance().scope_name == "nlseg"
    assert METRICS.get("IoUMetric") is not None
    init_default_scope("nlseg")


@each_case(
    "function, first",
    [
        (init_model, "config checkpoint device cfg_options"),
        (inference_model, "model img"),
        (
            show_result_pyplot,
            "model img result opacity title draw_gt draw_pred wait_time show with_labels save_dir "
            "out_file",
        ),
        (MMSegInferencer, "model weights classes palette dataset_name device scope"),
        (
            MMSegInferencer.__call__,
            "self inputs return_datasamples batch_size return_vis show wait_time out_dir "
            "img_out_dir pred_out_dir opacity with_labels",
        ),
        (register_all_modules, "init_default_scope"),
    ],
)
def test_arguments_are_called_as_in_mmseg_apis(function: Any, first: str) -> None:
    names = list(inspect.signature(function).parameters)
    assert names[: len(first.split())] == first.split()


def test_the_lines_of_the_readme_label_an_image(sure: Path, tmp_path: Path) -> None:
    readme = (CONFIG.parents[2] / "README.md").read_text()
    block = readme.split("### From Python")[1].split("```python\n")[1].split("```")[0]
    cv2.imwrite(str(tmp_path / "street.png"), picture())
    script = block.replace('"CONFIG"', repr(CONFIG.stem)).replace('"CHECKPOINT"', repr(str(sure)))
    script = script.replace('"IMAGE"', '"street.png"')
    assert "street.png" in script
    env = environment(MPLBACKEND="Agg")
    done = prepared.run("-c", script, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert cv2.imread(str(tmp_path / "labelled.png")).shape == (64, 128, 3)


def test_options_and_inputs_that_are_wrong_are_refused_by_name() -> None:
    for options, told in (
        ({"modle": 3}, "the config has no 'modle'; did you mean 'model'?"),
        ({"model.decode_head.num_clases": 3}, "did you mean 'num_classes'?"),
    ):
        with pytest.raises(ConfigError, match=re.escape(told)):
            init_model(CONFIG, device="cpu", cfg_options=options)
    with pytest.raises(ConfigError, match="config is 3, which is no file"):
        init_model(3, device="cpu")
    for wrong in (3, torch.zeros(3, 8, 8)):
        with pytest.raises(DataError, match="is no image; give a file"):
            inference_model(torch.nn.Identity(), wrong)
