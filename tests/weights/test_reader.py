"""What the one reader refuses before weights are looked at, through real files."""

import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.logging import MMLogger
from torch import nn

from nlseg.errors import CheckpointError
from nlseg.run import checkpoint
from nlseg.weights.files import read_checkpoint
from nlseg.weights.fitting import load_strictly, load_what_fits, weights_in
from nlseg.weights.safetensors_file import write_safetensors
from tests.cases import each_case


def content() -> dict[str, Any]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
    return {"meta": {"iter": 4, "note": "x" * 200}, "state_dict": module.state_dict()}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return sorted(one, key=str) == sorted(other, key=str) and all(
            same(one[key], other[key]) for key in one
        )
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


@pytest.mark.parametrize("legacy", [False, True])
def test_both_layouts_are_read_as_pytorch_reads_them(tmp_path: Path, legacy: bool) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    original = {
        **content(),
        "view": base[1:3, ::2], "base": base, "transposed": base.t(), "empty": torch.empty(0, 3),
        "half": base.half(), "bfloat": base.bfloat16(), "bool": base > 3, "scalar": base[0, 5],
        "complex": torch.ones(2, dtype=torch.complex64), "uint16": torch.ones(2).to(torch.uint16),
        "parameter": nn.Parameter(base), "size": base.shape, "device": torch.device("cpu"),
        "dtype": torch.float16, "set": {1, 2}, "nested": [(1, None, True), {"a": 2.5, 3: "b"}],
        "number": -(1 << 70), "milestones": Counter([2, 2, 3]),
    }  # fmt: skip
    if legacy:
        del original["uint16"]  # which PyTorch itself does not read back from this layout
    original["parameter"].note = original["half"].note = "an attribute"
    torch.save(original, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    read = read_checkpoint(tmp_path / "a.pth")
    expected = torch.load(tmp_path / "a.pth", weights_only=False)
    assert read.pop("device") == str(expected.pop("device"))
    assert read.pop("size") == tuple(expected.pop("size"))
    assert same(read, expected)
    assert {k: v.dtype for k, v in read.items() if hasattr(v, "dtype")} == {
        k: v.dtype for k, v in expected.items() if hasattr(v, "dtype")
    }
    read["base"][1, 0] = -1
    assert read["view"][0, 0] == -1  # what shared memory still does


def written(path: Path, kind: str) -> None:
    if kind == "safetensors":
        write_safetensors(content()["state_dict"], path)
    elif kind == "legacy":
        torch.save(content(), path, _use_new_zipfile_serialization=False)
    else:
        torch.save(content(), path)


def named_by_its_hash(path: Path) -> Path:
    return path.rename(path.with_name(f"{path.stem}-{checkpoint.sha256_of(path)[:8]}{path.suffix}"))


@each_case("kind", ["pth", "legacy", "safetensors"])
@each_case("guard", ["json", "name"])
def test_one_flipped_bit_is_refused_wherever_it_is(tmp_path: Path, kind: str, guard: str) -> None:
    path = tmp_path / ("a.safetensors" if kind == "safetensors" else "a.pth")
    written(path, kind)
    if guard == "name":
        path = named_by_its_hash(path)
    else:
        checkpoint.write_record(
            path, checkpoint.Record(path.name, path.stat().st_size, checkpoint.sha256_of(path))
        )
    read_checkpoint(path)
    whole = path.read_bytes()
    dice = random.Random(0)
    for _ in range(25):
        damaged = bytearray(whole)
        damaged[dice.randrange(len(whole))] ^= 1 << dice.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=str(path)):
            read_checkpoint(path)


def test_an_archive_alone_never_gives_other_content_after_a_flipped_bit(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    written(path, "pth")
    whole, original, refused = path.read_bytes(), read_checkpoint(path), 0
    dice = random.Random(1)
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[dice.randrange(len(whole))] ^= 1 << dice.randrange(8)
        path.write_bytes(damaged)
        try:
            assert same(read_checkpoint(path), original)  # in a date, or between the entries
        except CheckpointError:
            refused += 1
    assert refused > 80


@each_case("kind", ["pth", "legacy", "safetensors"])
def test_a_truncated_file_is_refused_at_every_length(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("a.safetensors" if kind == "safetensors" else "a.pth")
    written(path, kind)
    whole = path.read_bytes()
    for length in [0, 1, 7, 8, 9, 100, *range(200, len(whole), 501), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=str(path)):
            read_checkpoint(path)


def test_a_json_of_another_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    written(path, "pth")
    record = checkpoint.Record(path.name, path.stat().st_size, "0" * 64)
    checkpoint.write_record(path, record)
    with pytest.raises(CheckpointError, match=r"the JSON beside it says 0000.* or a\.pth\.json is"):
        read_checkpoint(path)
    for text in ("", "{}", "[1]", '{"size": 1', '{"size": "x", "sha256": 3}', "[" * 100_000):
        path.with_name("a.pth.json").write_text(text)
        assert read_checkpoint(path)["meta"]["iter"] == 4


def test_a_day_at_the_end_of_a_name_is_no_hash(tmp_path: Path) -> None:
    for name, fine in (("a-20240229.pth", True), ("a-20240230.pth", False), ("a-x.pth", True)):
        written(tmp_path / name, "pth")
        if fine:
            read_checkpoint(tmp_path / name)
        else:
            with pytest.raises(CheckpointError, match="its name ends in 20240230"):
                read_checkpoint(tmp_path / name)


def _page(path: Path) -> None:
    path.write_text("\n <!DOCTYPE html><html><body>Sign in</body></html>")


def _pointer(path: Path) -> None:
    path.write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 200123456\n"
    )


def _gzip(path: Path) -> None:
    path.write_bytes(b"\x1f\x8b\x08" + bytes(100))


def _no_checksums(path: Path) -> None:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        written(path, "pth")
    finally:
        torch.serialization.set_crc32_options(before)


def _cut(path: Path) -> None:
    written(path, "pth")
    path.write_bytes(path.read_bytes()[:2000])


NO_WEIGHTS: list[tuple[Callable[[Path], Any], str]] = [
    (_page, "is a web page, not weights.*download the file itself"),
    (_pointer, "is a git-lfs pointer.*run 'git lfs pull'"),
    (_gzip, "is a compressed file; unpack it first"),
    (_cut, "is damaged: its end is missing; copy or download it again"),
    (_no_checksums, "is refused: it was written without checksums.*set_crc32_options"),
    (lambda path: path.write_bytes(b""), "is empty; copy or download it again"),
    (lambda path: path.write_bytes(bytes(5000)), "is refused: it is empty space, all zeros"),
    (lambda path: path.write_text("some notes"), "is damaged or no checkpoint"),
    (lambda path: path.mkdir(), "is a folder, not a checkpoint"),
    (lambda path: path.symlink_to(path), "cannot be read: Too many levels"),
    (lambda path: torch.save([1], path), "holds a list, not a checkpoint's dict"),
]


@each_case("make, message", NO_WEIGHTS)
def test_what_is_no_weight_file_is_named_with_the_remedy(
    tmp_path: Path, make: Callable[[Path], Any], message: str
) -> None:
    make(tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=rf"a\.pth: {message}"):
        read_checkpoint(tmp_path / "a.pth")


def test_safetensors_are_known_by_their_content(tmp_path: Path) -> None:
    written(tmp_path / "a.pth", "safetensors")
    assert same(read_checkpoint(tmp_path / "a.pth")["state_dict"], content()["state_dict"])


def test_more_than_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "a.pth", "pth")
    monkeypatch.setattr("nlseg.weights.files.free_memory", lambda: 1000)
    with pytest.raises(CheckpointError, match="0 MiB do not fit into the 0 MiB of memory"):
        read_checkpoint(tmp_path / "a.pth")
    monkeypatch.setattr("nlseg.weights.files.free_memory", lambda: None)
    read_checkpoint(tmp_path / "a.pth")


@each_case(
    "value, message",
    [
        (None, r"state_dict\.0\.bias: is None where a tensor belongs"),
        ("text", r"state_dict\.0\.bias: is a str where"),
        (3.5, r"state_dict\.0\.bias: is 3\.5 where"),
        ({"a": 1}, r"state_dict\.0\.bias: is a dict where"),
        (torch.ones(3).to_sparse(), r"state_dict\.0\.bias: is a sparse tensor; save a plain one"),
        (torch.ones(3, device="meta"), r"state_dict\.0\.bias: is a meta \(it has a shape and no"),
    ],
)
def test_what_is_no_tensor_is_refused_with_its_name(
    tmp_path: Path, value: Any, message: str
) -> None:
    state = content()
    state["state_dict"]["0.bias"] = value
    torch.save(state, tmp_path / "a.pth")
    read = read_checkpoint(tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=rf"f: {message}"):
        weights_in(read, "f")


@each_case(
    "checkpoint, message",
    [
        ({"optimizer": {}, "meta": {}}, "the state of an optimizer.*that has a 'state_dict'"),
        ({"param_groups": [], "state": {}}, "the state of an optimizer"),
        ({"net": {"a": torch.ones(1)}, "epoch": 3}, "keys: net, epoch.; save its 'net' as a file"),
        ({"state_dict": {}}, "its 'state_dict' is a dict"),
        ({"state_dict": {"a": None}}, r"state_dict\.a: is None where a tensor belongs"),
        ({"state_dict": {3: torch.ones(1)}}, r"state_dict\.3: the key is a int, not a name"),
        ({"module.a": torch.ones(1), "a": torch.ones(1)}, "one name with and without 'module.'"),
        ({}, r"holds no weights \(keys: none\)"),
    ],
)
def test_checkpoints_without_weights_say_what_they_are(checkpoint: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=f"f: .*{message}"):
        weights_in(checkpoint, "f")


class Whole(nn.Module):
    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1))
        self.decode_head = nn.Module()
        self.decode_head.conv_seg = nn.Conv2d(2, classes, 1)


def test_nan_is_refused_or_asked_for() -> None:
    weights = Whole().state_dict()
    weights["backbone.0.weight"][0] = torch.nan
    weights["backbone.0.bias"][0] = torch.inf
    for load in (load_strictly, load_what_fits):
        model = Whole()
        with pytest.raises(CheckpointError, match=r"2 of its weights.*backbone\.0\.weight, backbo"):
            load(model, weights, "f")
        assert model.backbone[0].weight.isfinite().all()
        load(model, weights, "f", finite=False)
        assert model.backbone[0].weight.isnan().any()


def test_infinity_of_the_models_own_is_no_fault() -> None:
    model = nn.Module()
    model.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    load_strictly(model, {"mask": torch.tensor([-torch.inf, 0.0])}, "f")


def test_whole_numbers_and_real_ones_are_not_mixed() -> None:
    weights = Whole().state_dict()
    weights["backbone.0.weight"] = weights["backbone.0.weight"].half()  # the same kind
    load_strictly(Whole(), weights, "f")
    weights["backbone.1.running_mean"] = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(CheckpointError, match=r"wrong type.*\n.*torch.int64 in the file, torch.fl"):
        load_strictly(Whole(), weights, "f")


def test_batch_counters_that_old_files_lack_are_no_loss() -> None:
    weights = {k: w for k, w in Whole().state_dict().items() if "num_batches" not in k}
    load_strictly(Whole(), weights, "f")


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.kept: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.kept.append(record.getMessage())


@pytest.fixture
def warned() -> Iterator[list[str]]:
    logger, handler = MMLogger.get_current_instance(), Kept()
    logger.addHandler(handler)
    yield handler.kept
    logger.removeHandler(handler)


def test_less_than_half_is_a_warning_with_names(warned: list[str]) -> None:
    model = Whole()
    own = model.state_dict()
    some = {key: own[key] for key in list(own)[:4]}
    load_what_fits(Whole(), own, "f")
    assert warned == []
    text = load_what_fits(Whole(), some, "f")
    assert text.startswith("f: 4 of the model's 11 weights were loaded, of 4 in the file")
    assert len(warned) == 1
    assert warned[0].startswith("less than half fits: f: 4 of")
    assert "decode_head.conv_seg.weight" in warned[0]


def test_almost_nothing_is_an_error() -> None:
    model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(10)))
    weights = {f"layer.{i}.weight": torch.ones(1) for i in range(40)}
    weights["0.bias"] = torch.ones(1)
    with pytest.raises(CheckpointError, match="only 1 of its 41 weights fit the model"):
        load_what_fits(model, weights, "f")
    weights["1.bias"] = torch.ones(1)
    assert load_what_fits(model, weights, "f").startswith("f: 2 of the model's 20")


def test_causes_are_told_with_the_remedy() -> None:
    model = Whole()
    with pytest.raises(CheckpointError, match="is for 7 classes, the model for 4: set num_classes"):
        load_strictly(model, Whole(7).state_dict(), "f")
    with pytest.raises(
        CheckpointError, match=r"those of the backbone; give the file as model\.pre"
    ):
        load_what_fits(model, model.backbone.state_dict(), "f")
    with pytest.raises(CheckpointError, match=r"without their 'backbone\.'.*prefix='backbone\.'"):
        load_what_fits(model.backbone, model.state_dict(), "f")
    theirs = {"backbone_net.stem.0.weight": torch.ones(1)}
    with pytest.raises(CheckpointError, match=r"SSSegmentation's names; rename them by 'python to"):
        load_what_fits(model, theirs, "f")


def test_names_from_a_file_are_shown_safely() -> None:
    weights = {"a\x1b[2Jb": torch.ones(1), "c" * 10_000: torch.ones(1)}
    with pytest.raises(CheckpointError) as caught:
        load_what_fits(Whole(), weights, "f")
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 2000
