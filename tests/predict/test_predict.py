"""``nlseg predict`` on files: images, broken ones, lists shared by processes, videos, rasters."""

import csv
import math
import os
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from nlseg.api import inference_model, inference_pipeline, init_model
from nlseg.commands.main import main
from nlseg.config import load_config
from nlseg.memory import peak_memory
from nlseg.models import BaseCascadeDecodeHead
from nlseg.predict.labeller import Network, Preparer, as_rgb
from nlseg.predict.outputs import Writer
from nlseg.predict.raster import RasterLabeller
from nlseg.predict.sources import Source
from nlseg.registry import MODELS
from nlseg.visualization.painter import Painter
from tests.cases import each_case
from tests.run import prepared
from tests.run.real_processes import environment
from tests.run.tiny_segmentor import tiny_config

ROOT = Path(__file__).parents[2]
NAME = "nonlocal_r18-d8_1xb4-300_synthetic-96x192"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = init_model(NAME, device="cpu")
    torch.nn.init.normal_(model.decode_head.conv_seg.weight, std=1.0)
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.save({"state_dict": model.state_dict(), "meta": {}}, path)
    return path


def picture(seed: int, size: tuple[int, int] = (64, 96)) -> np.ndarray:
    small = np.random.RandomState(seed).randint(0, 255, (8, 12, 3), dtype=np.uint8)
    return cv2.resize(small, size[::-1], interpolation=cv2.INTER_LINEAR)


def folder_of_images(root: Path, number: int) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for i in range(number):
        cv2.imwrite(str(root / f"{i}.png"), picture(i))
    return root


def rows(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((out / "summary.csv").read_text().splitlines()))


def mask(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_a_folder_with_a_broken_file(
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = folder_of_images(tmp_path / "in", 3)
    (images / "broken.jpg").write_text("no picture")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    code = main(["predict", NAME, str(weights), str(images), "--out", str(tmp_path / "out")])
    said = capsys.readouterr()
    assert code == 1
    assert "3 labelled, 0 skipped, 1 failed" in said.out
    assert re.search(r"^at most \d+ MiB of memory$", said.out, re.M)
    assert "broken.jpg" in said.err
    assert [Path(row["file"]).name for row in rows(tmp_path / "out")] == [
        "0.png", "1.png", "2.png", "broken.jpg",
    ]  # fmt: skip
    model = init_model(NAME, weights, device="cpu")
    expected = inference_model(model, images / "1.png").pred_sem_seg.data[0]
    assert (mask(tmp_path / "out/masks/1.png") == expected.numpy()).all()
    assert len(np.unique(expected)) > 1
    assert list((tmp_path / "empty").iterdir()) == []


def test_resume_labels_what_is_missing_only(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = folder_of_images(tmp_path / "in", 3)
    command = ["predict", NAME, str(weights), str(images), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    (tmp_path / "out/masks/1.png").unlink()
    before = (tmp_path / "out/masks/0.png").stat().st_mtime_ns
    assert main([*command, "--resume"]) == 0
    assert "1 labelled, 2 skipped, 0 failed" in capsys.readouterr().out
    assert (tmp_path / "out/masks/1.png").is_file()
    assert (tmp_path / "out/masks/0.png").stat().st_mtime_ns == before
    assert len(rows(tmp_path / "out")) == 3


def test_nothing_that_can_be_read_is_an_error_of_the_user(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    out = ["--out", str(tmp_path / "out")]
    assert main(["predict", NAME, str(weights), str(tmp_path / "a.png"), *out]) == 2
    assert "a.png" in capsys.readouterr().err
    for option in (["--every", "0"], ["--smooth", "1"], ["--alpha", "2"], ["--window", "0", "5"]):
        with pytest.raises(SystemExit, match="2"):
            main(["predict", NAME, str(weights), str(tmp_path / "a.png"), *out, *option])
        assert f"error: {option[0]}" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_share_a_list(weights: Path, tmp_path: Path) -> None:
    images = folder_of_images(tmp_path / "in", 5)
    out = tmp_path / "out"
    command = ["-m", "nlseg", "predict", NAME, str(weights), str(images), "--out", str(out)]
    started = []
    for rank in range(2):
        share = environment(SLURM_ARRAY_TASK_ID=str(rank), SLURM_ARRAY_TASK_COUNT="2")
        started.append(prepared.Prepared(*command, env=share))
    said = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert "3 labelled" in said[0]
    assert "2 labelled" in said[1]
    assert [Path(row["file"]).name for row in rows(out)] == [f"{i}.png" for i in range(5)]
    assert sorted(path.name for path in (out / "masks").iterdir()) == [f"{i}.png" for i in range(5)]


def write_video(path: Path, frames: int) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 12.0, (96, 64))
    for i in range(frames):
        writer.write(picture(i // 3))
    writer.release()


def test_video_keeps_rate_size_and_number_of_frames(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_video(tmp_path / "film.mp4", 7)
    command = ["predict", NAME, str(weights), str(tmp_path / "film.mp4")]
    out = tmp_path / "out"
    options = ["--every", "3", "--smooth", "0.5", "--write", "overlay", "mask"]
    assert main([*command, "--out", str(out), *options]) == 0
    labelled = cv2.VideoCapture(str(out / "overlays/film.mp4"))
    facts = [cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FRAME_WIDTH]
    assert [labelled.get(key) for key in facts] == [12.0, 7.0, 96.0]
    masks = sorted((out / "masks/film").iterdir())
    assert len(masks) == 7
    assert (mask(masks[0]) == mask(masks[2])).all()  # labelled once for three frames
    assert [p.name for p in (out / "overlays").iterdir()] == ["film.mp4"]
    capsys.readouterr()

    data = (tmp_path / "film.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 3])
    assert main(["predict", NAME, str(weights), str(tmp_path / "cut.mp4"), "--out", str(out)]) == 2
    assert "cut.mp4" in capsys.readouterr().err


def test_raster_equals_sliding_windows_over_the_whole(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rasterio = pytest.importorskip("rasterio")
    from rasterio.transform import from_origin

    from nlseg.predict import raster

    image = picture(3, (150, 210))
    place = from_origin(500000.0, 4100000.0, 0.5, 0.5)
    profile = {
        "driver": "GTiff", "height": 150, "width": 210, "count": 3, "dtype": "uint8",
        "crs": "EPSG:32633", "transform": place, "nodata": 0,
    }  # fmt: skip
    shown = np.maximum(image, 1)
    shown[100:, 180:] = 0  # no data
    with rasterio.open(tmp_path / "map.tif", "w", **profile) as file:
        file.write(np.moveaxis(shown[..., ::-1], 2, 0))
    monkeypatch.setattr(raster, "_SUM_BYTES", 20 * 4 * 64 * 64)
    monkeypatch.setattr(raster, "_BLOCK", 64)
    windows = ["--window", "64", "96", "--stride", "40", "64"]
    out = tmp_path / "out"
    source = str(tmp_path / "map.tif")
    assert main(["predict", NAME, str(weights), source, "--out", str(out), *windows]) == 0
    with rasterio.open(out / "masks/map.tif") as labelled:
        found = labelled.read(1)
        assert (labelled.crs.to_epsg(), labelled.transform) == (32633, place)
        assert (labelled.nodata, labelled.profile["tiled"]) == (255, True)
    slide = {
        "model.test_cfg": {"mode": "slide", "crop_size": (64, 96), "stride": (40, 64)},
        "test_pipeline": [{"type": "LoadImageFromFile"}, {"type": "PackSegInputs"}],
    }
    model = init_model(NAME, weights, device="cpu", cfg_options=slide)
    expected = inference_model(model, shown).pred_sem_seg.data[0].numpy().copy()
    expected[100:, 180:] = 255
    assert (found == expected).all()
    assert len(np.unique(expected)) > 2


@MODELS.register_module()
class Second(BaseCascadeDecodeHead):
    def forward(self, inputs: Any, prev_output: Any) -> Any:
        return self.cls_seg(self._transform_inputs(inputs)[:, : self.channels]) + prev_output


@pytest.mark.filterwarnings("ignore::UserWarning")  # the raster has no place on earth
def test_raster_of_a_cascade_with_one_logit(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    from nlseg.predict.raster import RasterLabeller

    torch.manual_seed(0)
    config = tiny_config()
    loss = {"type": "CrossEntropyLoss", "use_sigmoid": True}
    head = {**config["decode_head"], "num_classes": 2, "out_channels": 1, "loss_decode": loss}
    second = {**head, "type": "Second"}
    config.update(type="CascadeEncoderDecoder", num_stages=2, auxiliary_head=None,
                  decode_head=[{**head, "threshold": 0.9}, second])  # fmt: skip
    model = MODELS.build(config).eval()
    model.test_cfg = model.test_cfg.from_cfg(
        {"mode": "slide", "crop_size": (48, 48), "stride": (32, 32)}
    )
    image = picture(5, (64, 64))
    inputs = {"inputs": [torch.from_numpy(np.moveaxis(image, 2, 0).copy())]}
    with torch.no_grad():
        logits = model.inference(model.data_preprocessor(inputs, False)["inputs"])
    model.last_head.threshold = float(logits.sigmoid().median())
    profile = {"driver": "GTiff", "height": 64, "width": 64, "count": 3, "dtype": "uint8"}
    with rasterio.open(tmp_path / "map.tif", "w", **profile) as file:
        file.write(np.moveaxis(image[..., ::-1], 2, 0))
    writer = Writer(tmp_path, ["mask"], Painter(("a", "b"), [[0, 0, 0], [9, 9, 9]]))
    source = Source(tmp_path / "map.tif", Path("map"), "image")
    caches = []
    RasterLabeller(model, writer).run(
        source, lambda done, total: caches.append(rasterio.env.getenv()["GDAL_CACHEMAX"])
    )
    assert caches == [64 << 20]  # without it GDAL keeps tiles up to a share of the machine's memory
    with rasterio.open(tmp_path / "masks/map.tif") as labelled:
        found = labelled.read(1)
    (sample,) = model.test_step(inputs)
    want = sample.pred_sem_seg.data[0].numpy()
    assert 0 < want.mean() < 1
    assert (found == want).mean() > 0.999


def test_probabilities_of_one_and_of_several_channels_by_their_formulas(weights: Path) -> None:
    """One channel: p = 1 / (1 + exp(-z)) of class 1, and 1 - p; several: a softmax."""
    head = ["model.decode_head.num_classes=2", "model.decode_head.out_channels=1",
            "model.decode_head.loss_decode.use_sigmoid=True",
            "model.auxiliary_head.num_classes=2", "model.auxiliary_head.out_channels=1",
            "model.auxiliary_head.loss_decode.use_sigmoid=True"]  # fmt: skip
    classes = [
        f"{part}_dataloader.dataset.metainfo.classes=('road','car')"
        for part in ("train", "val", "test")
    ]
    for overrides, channels in (([*head, *classes], 1), ([], 19)):
        torch.manual_seed(0)
        config = load_config(NAME, overrides)
        model = init_model(config, device="cpu")
        torch.nn.init.normal_(model.decode_head.conv_seg.weight, std=0.5)
        network = Network(model, probabilities=True)
        prepared = Preparer(inference_pipeline(config)).take(picture(3), "picture")
        label, probabilities = network.label(prepared)
        seen = []
        model.decode_head.register_forward_hook(lambda _, __, out, seen=seen: seen.append(out))
        network.label(prepared)
        logits = torch.nn.functional.interpolate(
            seen[0].float(), prepared.item["inputs"].shape[1:], mode="bilinear"
        )
        logits = torch.nn.functional.interpolate(logits, label.shape, mode="bilinear")[0]
        assert logits.shape[0] == channels
        for row, column in ((0, 0), (63, 95), (20, 40)):
            scores = logits[:, row, column].tolist()
            if channels == 1:
                one = 1 / (1 + math.exp(-scores[0]))
                expected = [1 - one, one]
                threshold = model.decode_head.threshold
                assert label[row, column] == (one > threshold)
            else:
                total = sum(math.exp(z) for z in scores)
                expected = [math.exp(z) / total for z in scores]
            np.testing.assert_allclose(probabilities[:, row, column], expected, atol=2e-3)
        assert network.confidence is not None
        np.testing.assert_allclose(network.confidence, probabilities.max(0))


@each_case(
    "channels, side",
    [(1, 4096), (18, 1024), (30, 1024), (31, 1024), (32, 512), (149, 512), (1000, 512)],
)
def test_blocks_of_a_raster_hold_128_mib_of_sums_at_most(channels: int, side: int) -> None:
    labeller = RasterLabeller.__new__(RasterLabeller)
    labeller.channels = channels
    size = (side + 100, 2 * side + 1)
    blocks = list(labeller.blocks(size))
    largest = max((b.bottom - b.top) * (b.right - b.left) for b in blocks)
    assert largest == side * side
    assert side == 512 or largest * (channels + 1) * 4 <= 128 * 2**20
    assert (side + 512) ** 2 * (channels + 1) * 4 > 128 * 2**20
    seen = np.zeros(size, np.uint8)
    for block in blocks:
        seen[block.top : block.bottom, block.left : block.right] += 1
    assert (seen == 1).all()
    assert all(block.top % 512 == block.left % 512 == 0 for block in blocks)


def test_peak_memory_is_that_of_this_process(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("VmPeak:\t 9999 kB\nVmHWM:\t  2048 kB\nVmRSS:\t 1024 kB\n")
    assert peak_memory(tmp_path / "status") == 2 * 2**20
    held = np.ones(64 << 20, np.uint8)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    assert peak_memory() >= pages * os.sysconf("SC_PAGE_SIZE") - (1 << 20) > held.nbytes
    assert peak_memory(tmp_path / "absent") > held.nbytes  # where the system has no such file


def test_pictures_to_look_at_are_rgb_whatever_the_network_gets() -> None:
    grey = np.array([[100, 600], [1100, 350]], np.uint16)
    shown = as_rgb(grey)
    assert (shown[..., 0] == [[0, 128], [255, 64]]).all()  # 100..1100 to 0..255; nothing mirrored
    assert (shown == shown[..., :1]).all()
    assert as_rgb(np.array([[[1, 2, 3]]], np.uint8)).tolist() == [[[3, 2, 1]]]
    assert as_rgb(np.array([[[1.4, 2.6, 300]]], np.float32)).tolist() == [[[255, 3, 1]]]
    assert as_rgb(np.array([[7, 9]], np.uint8))[0].tolist() == [[7] * 3, [9] * 3]
