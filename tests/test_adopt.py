"""``nlseg adopt``: a run folder that mmengine's own runner has written is gone on with here."""

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner as MMRunner
from PIL import Image

from nlseg.adopt import adopt, read_curve
from nlseg.commands.adopt import main
from nlseg.config import load_config
from nlseg.errors import CheckpointError, UserError
from nlseg.evaluation import IoUMetric
from nlseg.registry import DATASETS, MODELS, SCOPE
from nlseg.run.checkpoint import plain, read_record
from nlseg.run.console import best_checkpoint
from nlseg.run.logs import read_scalars
from nlseg.run.runner import Runner
from nlseg.weights.files import read_checkpoint
from tests.run.tiny_segmentor import tiny_config

CLASSES = tuple("abcde")


def mmseg_config(root: Path) -> Config:
    """Write data, and the config of mmsegmentation for it."""
    for i in range(6):
        rng = np.random.RandomState(i)
        for name, shape, top in (("img", (48, 48, 3), 256), ("lab", (48, 48), 5)):
            (root / name).mkdir(parents=True, exist_ok=True)
            array = rng.randint(0, top, shape).astype(np.uint8)
            Image.fromarray(array).save(root / f"{name}/{i}.png")
    pipeline = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"},
                {"type": "PackSegInputs"}]  # fmt: skip
    dataset = {
        "type": "BaseSegDataset", "data_root": str(root), "img_suffix": ".png",
        "data_prefix": {"img_path": "img", "seg_map_path": "lab"},
        "metainfo": {"classes": CLASSES, "palette": [[i, i, i] for i in range(5)]},
        "pipeline": pipeline,
    }  # fmt: skip
    loader = {"batch_size": 2, "num_workers": 0, "dataset": dataset}
    model = tiny_config()
    model["type"] = "mmseg.EncoderDecoder"
    val = {**loader, "batch_size": 1, "sampler": {"type": "DefaultSampler", "shuffle": False}}
    schedule = {"type": "PolyLR", "eta_min": 1e-4, "power": 0.9, "begin": 0, "end": 8,
                "by_epoch": False}  # fmt: skip
    return Config({
        "default_scope": "mmseg",
        "model": model,
        "train_dataloader": {**loader, "sampler": {"type": "InfiniteSampler", "shuffle": True}},
        "val_dataloader": val, "test_dataloader": val,
        "val_evaluator": {"type": "IoUMetric", "iou_metrics": ["mIoU"]},
        "test_evaluator": {"type": "IoUMetric", "iou_metrics": ["mIoU"]},
        "train_cfg": {"type": "IterBasedTrainLoop", "max_iters": 8, "val_interval": 2},
        "val_cfg": {"type": "ValLoop"}, "test_cfg": {"type": "TestLoop"},
        "optim_wrapper": {"type": "OptimWrapper", "clip_grad": None,
                          "optimizer": {"type": "SGD", "lr": 0.01, "momentum": 0.9}},
        "param_scheduler": [schedule],
        "default_hooks": {
            "checkpoint": {"type": "CheckpointHook", "interval": 2, "by_epoch": False},
            "logger": {"type": "LoggerHook", "interval": 1, "log_metric_by_epoch": False},
        },
        "log_processor": {"by_epoch": False}, "randomness": {"seed": 3},
        "launcher": "none", "work_dir": "./work_dirs/old", "resume": False, "load_from": None,
    })  # fmt: skip


def train_there(root: Path, cfg: Config, name: str, loop: dict[str, Any]) -> Path:
    """Train by mmengine's runner, with parts of ours in mmsegmentation's place."""
    torch.set_num_threads(1)
    folder = root / "run"
    (root / f"{name}.py").write_text(cfg.pretty_text)
    cfg = Config.fromfile(root / f"{name}.py")
    with DefaultScope.overwrite_default_scope(SCOPE):
        train, val = (
            {**cfg[f"{name}_dataloader"].to_dict(), "dataset": DATASETS.build(
                {**cfg.train_dataloader.dataset.to_dict(), "test_mode": name == "val"})}
            for name in ("train", "val")
        )  # fmt: skip
        model = MODELS.build({**cfg.model.to_dict(), "type": "EncoderDecoder"})
    runner = MMRunner(
        model=model, work_dir=str(folder), train_dataloader=train, val_dataloader=val,
        train_cfg=loop, val_cfg={},
        val_evaluator=[IoUMetric()], optim_wrapper=cfg.optim_wrapper.to_dict(),
        param_scheduler=cfg.param_scheduler, default_hooks=cfg.default_hooks.to_dict(),
        log_processor=cfg.log_processor.to_dict(), randomness={"seed": 3},
        default_scope="mmengine", experiment_name=name, cfg=cfg,
    )  # fmt: skip
    runner.train()
    return folder


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train four iterations."""
    root = tmp_path_factory.mktemp("old")
    cfg = mmseg_config(root / "data")
    return train_there(root, cfg, "old", {"by_epoch": False, "max_iters": 4, "val_interval": 2})


def test_the_layout_is_that_of_mmengine(old: Path) -> None:
    assert (old / "old.py").is_file()
    assert Path((old / "last_checkpoint").read_text()).is_absolute()
    assert len(list(old.glob("*/vis_data/scalars.json"))) == 1
    content = torch.load(old / "iter_4.pth", weights_only=False)
    assert "nlseg_version" not in content["meta"]
    assert "runtime_info" in content["message_hub"]


def test_a_run_goes_on_where_it_was(old: Path, tmp_path: Path, capfd: Any) -> None:
    files = [path for path in old.rglob("*") if path.is_file()]
    before = {p: p.read_bytes() for p in files if p.suffix != ".log"}  # a logger here is still open
    new = tmp_path / "new"
    main([str(old), "--out", str(new)])
    said = capfd.readouterr().out
    assert f"nlseg train {new}/old.py --work-dir {new} --resume" in said
    assert {path: path.read_bytes() for path in before} == before
    rows = {line[:16].strip(): line[16:].split() for line in said.splitlines()}
    assert rows["iteration"] == ["4", "equal"]
    assert rows["curve"] == ["6", "lines", "equal", "up", "to", "this", "iteration"]
    assert rows["classes"] == ["5", "equal"]
    assert rows["order of samples"][:3] == ["its", "sampler's", "ours"]

    theirs = torch.load(old / "iter_4.pth", weights_only=False)
    cfg = load_config(new / "old.py")
    cfg.work_dir, cfg.resume, cfg.experiment_name = str(new), True, "adopted"
    cfg.data_check = "warn"  # it validates on the images that it trains on
    runner = Runner.from_cfg(cfg)
    runner._choose_start()
    runner.prepare_training()
    runner.load_or_resume()
    assert (runner.iter, runner.seed) == (4, 3)
    for name, value in runner.model.state_dict().items():
        assert torch.equal(value, theirs["state_dict"][name]), name
    mine = runner.optim_wrapper.optimizer.state_dict()
    for key, entry in theirs["optimizer"]["state"].items():
        assert torch.equal(mine["state"][key]["momentum_buffer"], entry["momentum_buffer"])
    rate = theirs["optimizer"]["param_groups"][0]["lr"]
    assert mine["param_groups"][0]["lr"] == pytest.approx(rate, rel=1e-9)
    runner.close()

    cfg.experiment_name = "adopted_on"
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.iter == 8
    curve = read_scalars(new / "scalars.jsonl")
    steps = [line["step"] for line in curve if line["kind"] == "train"]
    assert steps == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [line["step"] for line in curve if line["kind"] == "val"] == [2, 4, 6, 8]
    first = json.loads(next(old.glob("*/vis_data/scalars.json")).read_text().splitlines()[0])
    assert curve[0]["loss"] == first["loss"]


def test_both_checkpoints_score_as_was_recorded(old: Path, tmp_path: Path, capfd: Any) -> None:
    new = tmp_path / "new"
    main([str(old), "--out", str(new), "--verify"])
    said = capfd.readouterr().out
    recorded = [line for line in read_curve(old) if line["kind"] == "val"][-1]
    (row,) = (line for line in said.splitlines() if line.startswith("mIoU"))
    assert row.split()[1:] == [f"{recorded['mIoU']:.2f}"] * 3


def test_what_cannot_be_adopted_is_named(old: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such folder"):
        adopt(tmp_path / "none", tmp_path / "new")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="configs in it: none; name the one"):
        adopt(tmp_path / "empty", tmp_path / "new")
    with pytest.raises(UserError, match="is not empty"):
        adopt(old, old.parent)
    weights = torch.load(old / "iter_4.pth", weights_only=False)
    weights.pop("optimizer")
    weights.pop("message_hub")
    torch.save(weights, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="holds no optimizer"):
        adopt(old, tmp_path / "new", checkpoint=tmp_path / "weights.pth")
    other = load_config(old / "old.py", check=False)
    other.model.decode_head.channels = 8
    (tmp_path / "other.py").write_text(other.pretty_text)
    with pytest.raises(CheckpointError, match="decode_head"):
        adopt(old, tmp_path / "new", config=tmp_path / "other.py")
    assert not (tmp_path / "new").exists()


def test_the_newest_checkpoint_is_that_of_the_pointer_or_of_the_largest_number(
    old: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(old, tmp_path / "old")
    (folder / "last_checkpoint").write_text("/of/another/machine/iter_2.pth")
    assert adopt(folder, tmp_path / "a").source == folder / "iter_2.pth"
    shutil.copy(folder / "iter_4.pth", folder / "epoch_10.pth")
    shutil.copy(folder / "iter_4.pth", folder / "iter_best.pth")
    for pointer in ("iter_3.pth", None):  # it leads nowhere, or is not there
        (folder / "last_checkpoint").unlink()
        if pointer:
            (folder / "last_checkpoint").write_text(pointer)
        target = tmp_path / f"b{pointer}"
        assert adopt(folder, target).source == folder / "epoch_10.pth"
    cut = (folder / "epoch_10.pth").read_bytes()[:9000]  # killed while it was written
    (folder / "epoch_10.pth").write_bytes(cut)
    with pytest.raises(CheckpointError, match=r"damaged.*: --checkpoint \S+/iter_4\.pth$"):
        adopt(folder, tmp_path / "c")
    assert adopt(folder, tmp_path / "c", checkpoint=folder / "iter_4.pth").scores
    for name in ("iter_2.pth", "iter_4.pth", "epoch_10.pth"):
        (folder / name).unlink()
    with pytest.raises(UserError, match=r"old: no checkpoint in it \(iter_\*\.pth or epoch_"):
        adopt(folder, tmp_path / "d")


def test_a_curve_holds_numbers_alone(tmp_path: Path) -> None:
    (tmp_path / "20260101_1/vis_data").mkdir(parents=True)
    line = {"loss": 1.5, "lr": 0.1, "epoch": 3, "iter": 20, "step": 2, "note": "text"}
    (tmp_path / "20260101_1/vis_data/scalars.json").write_text(json.dumps(line))
    assert read_curve(tmp_path) == [{"kind": "train", "step": 20, "loss": 1.5, "lr": 0.1}]


def test_curves_of_several_starts_are_one(tmp_path: Path) -> None:
    for time, steps in (("20260101_1", (1, 2, 3, 4)), ("20260102_1", (3, 4, 5))):
        folder = tmp_path / time / "vis_data"
        folder.mkdir(parents=True)
        lines = [json.dumps({"loss": float(time[7]), "iter": s, "step": s}) for s in steps]
        lines.append(json.dumps({"mIoU": 50.0, "time": 1.0, "step": steps[-1]}))
        (folder / "scalars.json").write_text("\n".join([*lines, '{"loss": 1']))
    curve = read_curve(tmp_path)
    assert [line["loss"] for line in curve if line["kind"] == "train"] == [1, 1, 2, 2, 2]
    assert [(line["step"], line["mIoU"]) for line in curve if line["kind"] == "val"] == [(5, 50.0)]


def table(folder: Path, target: Path, **more: Any) -> dict[str, tuple[str, str]]:
    """Adopt a run, and return what it is there and here by what is compared."""
    rows = adopt(folder, target, **more).rows
    return {row.what: (row.there, row.here) for row in rows}


def test_the_table_holds_what_is_compared(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rate = torch.load(old / "iter_4.pth", weights_only=False)["optimizer"]["param_groups"][0]["lr"]
    rows = table(old, tmp_path / "same")
    same = ("network", "optimizer", "iteration", "learning rate", "classes", "curve", "seed")
    assert {rows[what][1] for what in same} == {"equal"}
    assert rows["learning rate"][0] == f"{rate:.6g}"
    assert rows["best score"] == ("none", "none")  # the config keeps no best checkpoint

    other = load_config(old / "old.py", check=False)
    other.optim_wrapper.optimizer.lr = 0.02
    other.param_scheduler[0].eta_min = 2e-4
    other.default_hooks.checkpoint.save_best = "auto"
    (tmp_path / "other.py").write_text(other.pretty_text)
    rows = table(old, tmp_path / "two", config=tmp_path / "other.py")
    assert rows["learning rate"] == (f"{rate:.6g}", f"{2 * rate:.6g}")
    best = max(line["aAcc"] for line in read_curve(old) if line["kind"] == "val")
    assert rows["best score"] == ("none", f"{best:.2f}")  # the first score counts
    other.param_scheduler[0].update(by_epoch=True, end=3)
    other.train_dataloader.sampler.type = "DefaultSampler"
    other.train_cfg = {"type": "EpochBasedTrainLoop", "max_epochs": 3, "val_interval": 1}
    (tmp_path / "other.py").write_text(other.pretty_text)
    rows = table(old, tmp_path / "three", config=tmp_path / "other.py")
    assert rows["learning rate"][1] == "at the start"

    def damaged(content: Any) -> Any:
        content["optimizer"]["state"][0]["momentum_buffer"].zero_()
        content["meta"]["seed"] = 4
        return plain(content)

    monkeypatch.setattr("nlseg.adopt.plain", damaged)
    rows = table(old, tmp_path / "four")
    assert rows["seed"] == ("3", "differs")


def test_a_run_of_epochs_keeps_its_validations_at_their_iterations(tmp_path: Path) -> None:
    cfg = mmseg_config(tmp_path / "data")
    cfg.train_dataloader.sampler.type = "DefaultSampler"
    loop = {"type": "EpochBasedTrainLoop", "max_epochs": 4, "val_interval": 1}
    cfg.train_cfg, cfg.log_processor.by_epoch = loop, True
    warm_up = {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "begin": 0, "end": 4}
    cfg.param_scheduler = [warm_up, {"type": "MultiStepLR", "milestones": [1], "by_epoch": True}]
    cfg.default_hooks.checkpoint.update(interval=1, by_epoch=True, save_best="mIoU")
    cfg.default_hooks.logger.log_metric_by_epoch = True
    two = {"by_epoch": True, "max_epochs": 2, "val_interval": 1}
    folder = train_there(tmp_path, cfg, "epochs", two)
    adopted = adopt(folder, tmp_path / "new")
    curve = read_scalars(tmp_path / "new/scalars.jsonl")
    assert [line["step"] for line in curve if line["kind"] == "val"] == [3, 6]
    assert adopted.scores["mIoU"] == curve[-1]["mIoU"]
    rows = {row.what: (row.there, row.here) for row in adopted.rows}
    assert rows["learning rate"] == ("0.001", "equal")  # 0.01, a tenth from the second epoch on
    best = max(line["mIoU"] for line in curve if line["kind"] == "val")
    assert rows["best score"][1] == f"{best:.2f}"

    (file,) = folder.glob("*/vis_data/scalars.json")  # and now the first validation is the best
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    next(line for line in lines if "mIoU" in line)["mIoU"] = 99.5
    file.write_text("\n".join(map(json.dumps, lines)))
    name, new = "best_mIoU_epoch_1.pth", tmp_path / "first"
    shutil.copy(folder / "epoch_1.pth", folder / name)
    assert table(folder, new)["best score"][1] == "99.50"
    kept = {"mIoU": {"score": 99.5, "file": name, "iter": 1}}
    assert read_checkpoint(new / "iter_6.pth")["meta"]["best"] == kept
    assert read_record(new / name).scores["mIoU"] == 99.5  # type: ignore[union-attr]
    runner = Runner.from_cfg(load_config(new / "epochs.py", [f"work_dir={new}", "resume=True"]))
    runner._choose_start()
    runner.prepare_training()
    runner.load_or_resume()
    runner.checkpoints.before_train(runner)
    assert runner.checkpoints.best.kept == kept
    assert best_checkpoint(runner) == new / name
    runner.close()


def test_an_average_a_scaler_and_a_best_score_are_in_the_table(old: Path, tmp_path: Path) -> None:
    content = torch.load(old / "iter_4.pth", weights_only=False)
    content["ema_state_dict"] = {f"module.{k}": v for k, v in content["state_dict"].items()}
    content["optimizer"]["loss_scaler"] = {"scale": 512.0, "growth_factor": 2.0}
    noted = {"best_score": 12.345, "best_ckpt": r"D:\runs\best_mIoU_iter_2.pth"}
    content["message_hub"]["runtime_info"] |= noted
    torch.save(content, tmp_path / "iter_4.pth")
    cfg = load_config(old / "old.py", check=False)
    cfg.custom_hooks = [{"type": "EMAHook"}]
    (tmp_path / "averaged.py").write_text(cfg.pretty_text)
    more: dict[str, Any] = {"checkpoint": tmp_path / "iter_4.pth"}
    rows = table(old, tmp_path / "new", config=tmp_path / "averaged.py", **more)
    assert rows["average of the weights"][1] == "equal"
    assert rows["loss scaler"] == ("scale 512", "equal")
    assert rows["best score"] == ("12.35", "none")
    assert "custom hooks" not in rows  # its state is that average
    for file in old.glob("*/vis_data/scalars.json"):  # without a curve what was noted counts
        noted_alone = shutil.copytree(old, tmp_path / "old")
        (noted_alone / file.relative_to(old)).unlink()
    cfg.default_hooks.checkpoint.save_best = "mIoU"
    (tmp_path / "averaged.py").write_text(cfg.pretty_text)
    more["config"] = tmp_path / "averaged.py"
    (row,) = (row for row in adopt(noted_alone, tmp_path / "noted", **more).rows
              if row.what == "best score")  # fmt: skip
    assert (row.there, row.here) == ("12.35", "12.35")
    assert row.why.endswith("best_mIoU_iter_2.pth is not there any more")
    content["message_hub"]["runtime_info"]["best_ckpt"] = "best.pth"  # which says no iteration
    torch.save(content, tmp_path / "iter_4.pth")
    (row,) = (row for row in adopt(noted_alone, tmp_path / "unnumbered", **more).rows
              if row.what == "best score")  # fmt: skip
    assert row.here == "begins anew"


def test_a_target_that_is_a_file_and_names_with_blanks(
    old: Path, tmp_path: Path, capfd: Any
) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="file: is a file; give a new folder by --out"):
        adopt(old, tmp_path / "file")
    main([str(old), "--out", str(tmp_path / "my run")])
    command = shlex.split(capfd.readouterr().out.splitlines()[-1])
    config = str(tmp_path / "my run/old.py")
    assert command == ["nlseg", "train", config, "--work-dir", str(tmp_path / "my run"), "--resume"]
