"""``nlseg export``: every mode, stride and way of looking becomes a file that says the same."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nlseg.api import inference_model, init_model
from nlseg.commands.main import main
from nlseg.config import load_config
from nlseg.export.int8 import RawSamples
from nlseg.export.parity import SINGLE, compare, drawn, reference, shapes_for, with_loud_blocks
from nlseg.export.runtime import OnnxNetwork
from nlseg.export.tracing import associated, attend_in_blocks, relu_sum, traceable
from tests import tiny_data

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
ROOT = Path(__file__).parents[2]
SMALL = ["--parity-size", "96", "136", "--max-size", "96", "136"]
CONFIG = """
_base_ = '{root}/configs/quickstart/nonlocal_r18-d8_1xb4-300_synthetic-96x192.py'
model = dict(
    backbone=dict(depth=18, base_channels=4, stem_channels=4, {stride}),
    decode_head=dict(_delete_=True, {head}, in_channels=32, in_index=3, channels=8, num_classes=19,
                     norm_cfg=dict(type='BN')),
    auxiliary_head=None, test_cfg=dict(crop_size=(64, 80), stride=(40, 48)))
"""
STRIDES = {8: "", 16: "strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2)"}


def written(folder: Path, head: str, stride: int = 8) -> tuple[str, str]:
    """Write a config and random weights; returns both names."""
    folder.mkdir(exist_ok=True)
    config = folder / "tiny.py"
    config.write_text(CONFIG.format(root=ROOT, head=head, stride=STRIDES[stride]))
    torch.manual_seed(1)
    model = init_model(config, device="cpu")
    torch.nn.init.normal_(model.decode_head.conv_seg.weight, std=1.0)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2.0)
    model = with_loud_blocks(model)
    torch.save({"state_dict": model.state_dict(), "meta": {}}, folder / "tiny.pth")
    return str(config), str(folder / "tiny.pth")


NL = "type='NLHead', mode='{}', dropout_ratio=0.1, reduction=2, use_scale=True"
GC = "type='GCHead', ratio=0.25, pooling_type='{}', fusion_types={}"
CASES: list[tuple[str, int, list[str]]] = [
    (NL.format("embedded_gaussian"), 8, ["--max-size", "512", "1024"]),
    (NL.format("gaussian"), 16, ["--slide", "--argmax"]),
    (NL.format("dot_product"), 8, ["--slide", "--with-preprocessing"]),
    (NL.format("concatenation"), 16, ["--whole"]),
    (GC.format("att", "('channel_add',)"), 8, ["--with-preprocessing", "--argmax"]),
    (GC.format("att", "('channel_mul',)"), 16, ["--whole"]),
    (GC.format("avg", "('channel_add',)"), 8, ["--slide"]),
    (GC.format("avg", "('channel_add', 'channel_mul')"), 16, ["--half"]),
]


@pytest.mark.slow
@pytest.mark.parametrize(("head", "stride", "options"), CASES)
def test_the_file_says_what_the_network_says(
    head: str, stride: int, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, weights = written(tmp_path, head, stride)
    file = tmp_path / "tiny.onnx"
    words = ["export", config, weights, "--format", "onnx", "--out", str(file), *SMALL, *options]
    code = main(words)
    said = capsys.readouterr().out
    assert code == 0, said
    assert said.count("100.0000") >= 5 or "--half" in options
    proto = onnx.load(file)
    domains = {node.domain for node in proto.graph.node}
    domains |= {node.domain for function in proto.functions for node in function.node}
    assert not any("nlseg" in domain for domain in domains)
    facts = {each.key: json.loads(each.value) for each in proto.metadata_props}
    (opset,) = (each.version for each in proto.opset_import if each.domain == "")
    assert facts["opset"] == opset == 20


def qkv(seed: int, length: int, keys: int, width: int = 6) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(seed)
    return torch.randn(2, length, width), torch.randn(2, keys, width), torch.randn(2, keys, 5)


@pytest.mark.parametrize("number", [1, 4, 7, 13])
def test_attention_in_blocks_is_attention(number: int) -> None:
    query, key, value = qkv(0, 13, 9)
    expected = (0.3 * query @ key.mT).softmax(2) @ value
    torch.testing.assert_close(attend_in_blocks(query, key, value, 0.3, number), expected)


def test_association_is_the_weights_times_the_values() -> None:
    query, key, value = qkv(1, 11, 8)
    torch.testing.assert_close(associated(query, key, value), query @ key.mT / 8 @ value)


def test_a_rank_among_sorted_keys_gives_the_sum_of_relus() -> None:
    a, b, value = torch.randn(2, 11), torch.randn(2, 8), torch.randn(2, 8, 5)
    a[0, :3] = -b[0, :3]  # ties weigh nothing
    b[1, 3] = b[1, 4]
    expected = torch.relu(a[:, :, None] + b[:, None]) @ value
    torch.testing.assert_close(relu_sum(a, b, value), expected)


def test_the_number_of_blocks_follows_the_largest_size() -> None:
    model = init_model("nonlocal_r18-d8_1xb4-300_synthetic-96x192", device="cpu")
    for size, number, mib in (((512, 512), 1, 64), ((512, 1024), 4, 64), ((1024, 2048), 64, 64)):
        (plan,) = traceable(model, size)[1]
        assert (plan.positions, plan.num_blocks) == (size[0] * size[1] // 64, number)
        assert plan.score_mib == mib == plan.positions**2 * 4 / number / 2**20


def test_five_sizes_odd_ones_and_batches_of_one_and_three() -> None:
    for largest in ((96, 136), (257, 385), (96, 96)):
        shapes = shapes_for(largest)
        assert len(set(shapes)) == 5
        assert {batch for batch, _, _ in shapes} == {1, 3}
        assert any(height % 2 and width % 2 for _, height, width in shapes)
        assert shapes[0][1:] == largest
        assert min(min(shape[1:]) for shape in shapes) >= 40


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, Path]:
    """Return config, weights and ONNX file of a trained-like network with an untrained block."""
    folder = tmp_path_factory.mktemp("exported")
    config, weights = written(folder, NL.format("embedded_gaussian"))
    content = torch.load(weights)
    content["state_dict"]["decode_head.nl_block.conv_out.bn.weight"].zero_()
    torch.save(content, weights)
    file = folder / "net.onnx"
    assert main(["export", config, weights, "--format", "onnx", "--out", str(file), *SMALL]) == 0
    return config, weights, file


def test_an_untrained_block_is_compared_with_random_weights(
    exported: tuple[str, str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    config, weights, file = exported
    model = init_model(config, weights, "cpu")
    loud = with_loud_blocks(model)
    pictures = drawn((1, 96, 136), 3, 0)
    change = (reference(model, pictures) - reference(loud, pictures)).abs().max()
    assert change > 1e-2, "the random block has to be seen in the logits"
    facts = {e.key: json.loads(e.value) for e in onnx.load(file).metadata_props}
    parity = compare(loud, file, facts, [(1, 96, 136)], SINGLE)
    assert not parity.holds, "the file holds the silent block, so it differs from the loud one"
    assert compare(model, file, facts, [(1, 96, 136)], SINGLE).holds


def test_a_file_that_says_something_else_is_rejected(
    exported: tuple[str, str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    config, weights, _ = exported
    content = torch.load(weights)
    content["state_dict"]["decode_head.nl_block.conv_out.bn.weight"].fill_(1)
    torch.save(content, tmp_path / "trained.pth")
    monkeypatch.setattr(  # the exported attention alone gets another temperature
        "nlseg.export.tracing.attend_in_blocks",
        lambda q, k, v, scale, number: attend_in_blocks(q, k, v, 1.05 * scale, number),
    )
    file = tmp_path / "wrong.pt2"
    words = ["export", config, str(tmp_path / "trained.pth"), "--format", "pt2", "--out", str(file)]
    assert main([*words, *SMALL]) == 1
    assert not file.exists()
    assert (tmp_path / "wrong.pt2.rejected").is_file()
    assert "rejected" in capsys.readouterr().out


WITHOUT_TORCH = """
import sys
from nlseg.commands.main import main
code = main(sys.argv[1:])
found = {name.split('.')[0] for name in sys.modules} & {'torch', 'mmengine', 'mmcv', 'onnx'}
assert not found, found
sys.exit(code)
"""


def run_alone(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *words], cwd=cwd, env=environment,
        capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_int8_prints_the_miou_that_it_costs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, weights = written(tmp_path, NL.format("embedded_gaussian"))
    data = tiny_data.cityscapes(tmp_path / "data")
    file = tmp_path / "net.onnx"
    words = ["export", config, weights, "--format", "onnx", "--out", str(file), *SMALL]
    assert main([*words, "--int8", "2", "--cfg-options", f"data_root={data}"]) == 0
    said = capsys.readouterr().out
    numbers = r"float32 ([\d.]+), int8 ([\d.]+) \(([+-][\d.]+)\), calibrated on 2 images"
    found = re.search(rf"mIoU on the 1 validation images: {numbers}", said)
    assert found is not None, said
    before, after, cost = map(float, found.groups())
    assert after - before == pytest.approx(cost, abs=0.011)
    small = tmp_path / "net.int8.onnx"
    operators = {node.op_type for node in onnx.load(small).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear", "MatMul"} <= operators
    assert small.stat().st_size < file.stat().st_size
    samples = RawSamples(load_config(config, [f"data_root={data}"]), "val_dataloader")
    picture, label = next(iter(samples))
    network = OnnxNetwork(file)
    assert not network.session.get_session_options().enable_cpu_mem_arena  # it doubles the memory
    own = np.asarray(network.label(picture))
    union = [
        ((own == k) & (label == k)).sum() / ((own == k) | (label == k))[label != 255].sum()
        for k in range(19)
        if ((own == k) | (label == k))[label != 255].any()
    ]
    assert before == pytest.approx(100 * np.mean(union), abs=0.005)


def test_predict_labels_by_a_file_without_torch(
    exported: tuple[str, str, Path], tmp_path: Path
) -> None:
    import cv2
    from PIL import Image

    config, weights, file = exported
    images = tmp_path / "in"
    images.mkdir()
    for i, size in enumerate(((64, 96), (100, 150), (301, 200))):
        cv2.imwrite(str(images / f"{i}.png"), drawn((1, *size), 3, i)[0])
    (images / "broken.png").write_text("no picture")
    done = run_alone("predict", str(file), str(images), "--out", "out", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "3 labelled, 0 skipped, 1 failed" in done.stdout
    assert "broken.png: is no image" in done.stderr
    model = init_model(config, weights, "cpu")
    for i in range(3):
        found = np.asarray(Image.open(tmp_path / f"out/masks/{i}.png"))
        expected = inference_model(model, images / f"{i}.png").pred_sem_seg.data[0].numpy()
        assert found.shape == expected.shape
        assert (found == expected).mean() > 0.9999
        assert (tmp_path / f"out/overlays/{i}.jpg").is_file()
    again = run_alone("predict", str(file), str(images), "--out", "out", "--resume", cwd=tmp_path)
    assert "0 labelled, 3 skipped, 1 failed" in again.stdout
    (images / "broken.png").unlink()
    alone = run_alone("predict", str(file), str(images / "0.png"), "--out", "one", cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--format", "onnx", "--out", "net.pt2"], "ends in .onnx"),
        (["--format", "pt2", "--out", "net.pt2", "--int8", "2"], "--int8"),
        (["--format", "onnx", "--out", "net.onnx", "--max-size", "8", "8"], "--max-size"),
        (["--format", "onnx", "--out", "net.onnx", "--opset", "9"], "--opset 9"),
    ],
)
def test_what_means_nothing_is_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["export", "nonlocal_r18-d8_1xb4-300_synthetic-96x192", "weights.pth", *words])
    assert said in capsys.readouterr().err


def test_a_foreign_file_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.onnx").write_bytes(b"no network")
    (tmp_path / "x.png").write_bytes(b"")
    with pytest.raises(SystemExit, match="2"):
        main(["predict", str(tmp_path / "x.onnx"), str(tmp_path / "x.png"), "--out", "o"])
    assert "x.onnx: onnxruntime cannot read it" in capsys.readouterr().err


def test_facts_say_what_an_image_needs(exported: tuple[str, str, Path]) -> None:
    facts: dict[str, Any] = {
        each.key: json.loads(each.value) for each in onnx.load(exported[2]).metadata_props
    }
    assert facts["classes"][:2] == ["road", "sidewalk"]
    assert facts["palette"][0] == [128, 64, 128]
    assert facts["mean"] == [123.675, 116.28, 103.53]
    assert facts["std"] == [58.395, 57.12, 57.375]
    assert (facts["channel_order"], facts["layout"]) == ("RGB", "NCHW")
    assert facts["resize"] == {"scale": [256, 128], "keep_ratio": True}
    (given,) = onnx.load(exported[2]).graph.input
    names = [d.dim_param or d.dim_value for d in given.type.tensor_type.shape.dim]
    assert names == ["batch", 3, "height", "width"]


def test_the_lines_of_the_docs_need_nothing_of_ours(
    exported: tuple[str, str, Path], tmp_path: Path
) -> None:
    (lines,) = [
        block.split("```")[0]
        for block in (ROOT / "docs/models.md").read_text().split("```python\n")
        if "onnxruntime.InferenceSession" in block
    ]
    (tmp_path / "model.onnx").write_bytes(exported[2].read_bytes())
    code = f"{lines}\nimport sys\nassert 'nlseg' not in sys.modules\nprint(logits.shape)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(1, 19, 512, 1024)"


def test_options_that_need_the_network_are_refused_with_a_file(
    exported: tuple[str, str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for option, value in (("--every", "2"), ("--set", "a=1"), ("--write", "probabilities")):
        with pytest.raises(SystemExit, match="2"):
            main(["predict", str(exported[2]), "x.png", "--out", "o", option, value])
        assert f"{option}" in capsys.readouterr().err
