"""tools/sweep.py: planning, going on with unfinished runs, scores."""

import json
import math
import os
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from scipy import stats

from nlseg.compare import sweep, sweep_scores
from nlseg.compare.sweep import SweepRun
from nlseg.config import load_config
from nlseg.errors import ConfigError, UserError

ROOT = Path(__file__).parents[2]
QUICK = ROOT / "configs/quickstart/nonlocal_r18-d8_1xb4-300_synthetic-96x192.py"
FAKE_TRAINING = """
import json, pathlib, sys
config, folder = sys.argv[1:3]
text = pathlib.Path(config).read_text()
if "lr=0.5," in text and "seed=1," in text and not pathlib.Path(folder, "again").exists():
    pathlib.Path(folder, "again").touch()
    sys.exit(1)
score = (10 if "lr=0.5," in text else 20) + text.count("seed=1,")
lines = [{"kind": "val", "step": 5, "mIoU": 99.0}, {"kind": "val", "step": 9, "mIoU": score}]
pathlib.Path(folder, "scalars.jsonl").write_text("".join(json.dumps(e) + "\\n" for e in lines))
"""


def call(monkeypatch: pytest.MonkeyPatch, *args: object) -> int:
    monkeypatch.setattr("sys.argv", ["sweep.py", *map(str, args)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "tools/sweep.py"), run_name="__main__")
    return int(end.value.code or 0)


def test_grid_is_split_at_outer_commas() -> None:
    grid = sweep.parse_grid(["lr=0.01,0.005", "crop_size=(64,128),(96,192)"])
    assert grid == {"lr": ["0.01", "0.005"], "crop_size": ["(64,128)", "(96,192)"]}
    with pytest.raises(ConfigError, match="each key once"):
        sweep.parse_grid(["lr=1", "lr=2"])
    with pytest.raises(ConfigError, match="each key once"):
        sweep.parse_grid(["lr="])


def test_runs_are_named_by_what_they_change(tmp_path: Path) -> None:
    grid = {"optim_wrapper.optimizer.lr": ["0.1", "0.2"], "model.decode_head.mode": ["gaussian"]}
    runs = sweep.plan(grid, [0, 1], tmp_path)
    assert [run.folder.name for run in runs] == [
        "lr=0.1_mode=gaussian_seed=0",
        "lr=0.1_mode=gaussian_seed=1",
        "lr=0.2_mode=gaussian_seed=0",
        "lr=0.2_mode=gaussian_seed=1",
    ]
    assert runs[1].overrides() == [
        "optim_wrapper.optimizer.lr=0.1",
        "model.decode_head.mode=gaussian",
        "randomness.seed=1",
        f"work_dir={tmp_path}/lr=0.1_mode=gaussian_seed=1",
    ]


def test_short_names_tell_keys_apart() -> None:
    keys = ["model.decode_head.channels", "model.auxiliary_head.channels", "lr"]
    assert list(sweep.short_names(keys).values()) == [
        "decode_head.channels",
        "auxiliary_head.channels",
        "lr",
    ]


def test_configs_are_resolved_and_other_values_are_refused(tmp_path: Path) -> None:
    run = SweepRun((("lr", "0.5"),), 3, tmp_path / "run")
    sweep.write_config(QUICK, run, ["max_iters=60"])
    config = load_config(run.config)
    assert config.optim_wrapper.optimizer.lr == 0.5
    assert config.randomness.seed == 3
    assert config.param_scheduler[0].end == 60
    assert config.work_dir == str(run.folder)
    sweep.write_config(QUICK, run, ["max_iters=60"])
    with pytest.raises(ConfigError, match=r"holds a run of other values(.|\n)*max_iters = 50"):
        sweep.write_config(QUICK, run, ["max_iters=50"])


def scored(folder: Path, *scores: float) -> None:
    folder.mkdir(parents=True)
    lines = [{"kind": "val", "step": step, "mIoU": score} for step, score in enumerate(scores)]
    (folder / "scalars.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / sweep.FINISHED).touch()


def test_mean_spread_and_confidence_by_hand(tmp_path: Path) -> None:
    runs = sweep.plan({"lr": ["1", "2"]}, [0, 1, 2], tmp_path)
    for run, score in zip(runs, (10.0, 12.0, 14.0), strict=False):
        scored(run.folder, 50.0, score)
    one, two = sweep_scores.summarize(runs, "mIoU")
    assert (one.mean, one.spread) == (12.0, 2.0)
    assert one.confidence == pytest.approx(4.303 * 2 / math.sqrt(3))
    assert two.scores == ()
    assert two.unfinished == 3
    assert math.isnan(two.mean)
    assert sweep_scores.summarize(runs, "mIoU", best=True)[0].mean == 50.0
    table = sweep_scores.as_table([one, two], "mIoU").splitlines()
    assert table[0].split() == ["setting", "runs", "mIoU", "spread", "95", "%", "confidence"]
    assert table[1].split() == ["lr=1", "3", "12.00", "2.00", "+-", "4.97"]
    assert table[2].split() == ["lr=2", "0", "of", "3", "-", "-", "-"]
    with pytest.raises(UserError, match="--metric mIuO: no run was validated by it; there are mIo"):
        sweep_scores.summarize(runs, "mIuO")


def test_quantiles_are_student_s() -> None:
    for degrees, quantile in enumerate(sweep_scores.T_QUANTILES, 1):
        assert quantile == pytest.approx(stats.t.ppf(0.975, degrees), abs=6e-4)


def test_commands_for_a_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    template = "srun train {config} --to {folder}"
    args = [QUICK, "--grid", "lr=0.5,0.25", "--out", tmp_path, "--print", "--command", template]
    assert call(monkeypatch, *args) == 0
    first, second = capsys.readouterr().out.splitlines()
    folder = tmp_path / "lr=0.5_seed=0"
    assert shlex.split(first) == [
        "srun", "train", str(folder / "config.py"), "--to", str(folder), "&&", "touch",
        str(folder / "finished"),
    ]  # fmt: skip
    (folder / "finished").touch()
    call(monkeypatch, *args)
    assert capsys.readouterr().out.splitlines() == [second]


def test_sweep_runs_goes_on_and_compares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "train.py"
    script.write_text(FAKE_TRAINING)
    out = tmp_path / "out"
    args = [QUICK, "--grid", "lr=0.5,0.25", "--repeat", 2, "--out", out]
    args += ["--command", f"{sys.executable} {script} {{config}} {{folder}}"]
    assert call(monkeypatch, *args) == 1  # one run fails the first time
    printed = capfd.readouterr().out
    assert "[4/4] lr=0.25_seed=1" in printed
    assert "lr=0.5   1 of 2  10.00" in printed
    assert call(monkeypatch, *args) == 0
    printed = capfd.readouterr().out
    assert printed.splitlines()[0] == "[1/1] lr=0.5_seed=1"
    rows = (out / "scores.csv").read_text().splitlines()
    assert rows[0] == "lr,mean,spread,confidence,scores"
    assert rows[1].startswith("0.5,10.5,")
    assert rows[2].endswith(",20.0 21.0")
    assert (out / "scores.png").read_bytes().startswith(b"\x89PNG")


STAND_IN_SBATCH = """#!/usr/bin/env bash
# Stands in for sbatch: runs the tasks of an array one after the other, and a wrapped job at once.
set -euo pipefail
echo "$@" >> "$JOBS"
[ "$1" = --parsable ]
array= wrap= script=
for word; do
    case $word in
        --array=*) array=${word#--array=0-};;
        --wrap) wrap=next;;
        *) if [ "$wrap" = next ]; then wrap=$word; else script=$word; fi;;
    esac
done
if [ -n "$wrap" ]; then bash -c "$wrap" > "$JOBS.table"; echo 8; exit; fi
for task in $(seq 0 "$array"); do
    SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=$task bash "$script" >&2 || true
done
echo "7;cluster"
"""
STAND_IN_SRUN = """#!/usr/bin/env bash
[ "$1" = --kill-on-bad-exit=1 ] && shift
exec "$@"
"""


@pytest.mark.slow
def test_slurm_gets_one_array_and_a_job_that_gathers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, text in (
        ("sbatch", STAND_IN_SBATCH), ("srun", STAND_IN_SRUN), ("train.py", FAKE_TRAINING),
        ("scontrol", '#!/bin/sh\necho "$@" >> "$JOBS"\n'),
    ):  # fmt: skip
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    jobs = tmp_path / "jobs"
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("JOBS", str(jobs))
    monkeypatch.setenv("SBATCH_ARGS", "--gres=gpu:1 --time=4:00:00")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    out = tmp_path / "with blank" / "out"
    args = [QUICK, "--grid", "lr=0.5,0.25", "--slurm", "--repeat", 2, "--out", out, "--command"]
    args += [f"{sys.executable} {tmp_path}/train.py {{config}} {{folder}}"]
    assert call(monkeypatch, *args) == 0
    assert "array job 7: 4 runs" in capfd.readouterr().out
    array, gather = jobs.read_text().splitlines()
    assert "--array=0-3" in array
    assert "--gres=gpu:1 --time=4:00:00" in array
    assert "--dependency=afterany:7" in gather
    table = (tmp_path / "jobs.table").read_text()
    assert "lr=0.5   1 of 2  10.00" in table  # one run fails the first time
    assert call(monkeypatch, *args) == 0
    assert "array job 7: 1 runs" in capfd.readouterr().out
    assert "lr=0.5   2     10.50" in (tmp_path / "jobs.table").read_text()
    assert call(monkeypatch, *args) == 0
    assert "all runs are finished" in capfd.readouterr().out

    # a task that is stopped after saving goes back into the queue
    (tmp_path / "train.py").write_text("raise SystemExit(143)")
    args[5], args[7] = 1, tmp_path / "stopped"
    assert call(monkeypatch, *args) == 0
    assert jobs.read_text().count("requeue 7_") == 2
    assert not list((tmp_path / "stopped").rglob(sweep.FINISHED))


def test_without_sbatch_slurm_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    args = [QUICK, "--grid", "lr=0.5", "--out", tmp_path / "out", "--slurm"]
    assert call(monkeypatch, *args) == 2
    assert "there is no sbatch on PATH" in capsys.readouterr().err
    (tmp_path / "sbatch").write_text("#!/bin/sh\necho 'invalid partition' >&2; exit 1\n")
    (tmp_path / "sbatch").chmod(0o755)
    assert call(monkeypatch, *args) == 2
    assert "sbatch refuses: invalid partition" in capsys.readouterr().err


def test_plot_of_words_and_of_numbers(tmp_path: Path) -> None:
    rows = [
        sweep_scores.SettingScores((("mode", "gaussian"),), (1.0, 2.0), 0),
        sweep_scores.SettingScores((("mode", "dot_product"),), (3.0,), 0),
    ]
    sweep_scores.plot(rows, "mIoU", tmp_path / "words.png")
    assert [sweep_scores._name(row) for row in rows] == ["mode=gaussian", "mode=dot_product"]
    assert [sweep_scores._place(row) for row in rows] == [None, None]
    numbers = [sweep_scores.SettingScores((("lr", text),), (1.0,), 0) for text in ("0.5", "1")]
    assert [sweep_scores._place(row) for row in numbers] == [0.5, 1.0]
    assert (tmp_path / "words.png").stat().st_size > 1000
