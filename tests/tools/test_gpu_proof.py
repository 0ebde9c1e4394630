"""The visit to a GPU, in dry form: bounds, resuming, goals and the page; no GPU is needed."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from benchmark.suite import Suite
from gpu_proof import goals
from gpu_proof.__main__ import STEPS_LEFT, TOTAL_MINUTES, main
from gpu_proof.camvid import train_and_kill
from gpu_proof.one_process import norm_difference, plain_norm, written_out_norm
from gpu_proof.stages import Place, all_steps
from gpu_proof.steps import FILE, LOG, MOST_TRIES, Step, open_steps, read_records, run_steps
from nlseg.errors import UserError

ROOT = Path(__file__).parents[2]


def python(code: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code, *arguments)


def take(steps: list[Step], folder: Path, seconds: float = 60.0) -> dict[str, Any]:
    return run_steps(steps, folder, time.monotonic() + seconds, lambda _: None)


def test_steps_are_recorded_with_what_they_found_and_a_failure_stays_alone(tmp_path: Path) -> None:
    write = "import sys; print('said'); open(sys.argv[1], 'w').write('{\"n\": 3}')"
    steps = [
        Step("fails", 1, python("raise SystemExit(4)"), 30),
        Step("finds", 1, python(write, "{result}"), 30),
        Step("cannot", 1, python("raise SystemExit(5)"), 30, left_out="no such thing"),
    ]
    records = take(steps, tmp_path)
    assert records == read_records(tmp_path)
    assert {name: record["state"] for name, record in records.items()} == {
        "fails": "failed", "finds": "done",
    }  # fmt: skip
    assert records["fails"]["code"] == 4
    assert records["fails"]["found"] == {}
    assert records["finds"]["found"] == {"n": 3}
    assert "said" in (tmp_path / LOG).read_text()
    assert open_steps(steps, records) == []


def test_a_step_that_takes_too_long_is_killed_with_what_it_started(tmp_path: Path) -> None:
    code = (
        "import subprocess, time; subprocess.Popen(['sleep', '61']); print('on', flush=True);"
        "time.sleep(61)"
    )
    started = time.monotonic()
    step = Step("long", 1, python(code), 3)
    record = take([step], tmp_path)["long"]
    assert time.monotonic() - started < 30
    assert (record["state"], record["code"], record["tries"]) == ("out of time", None, 1)
    assert "on" in (tmp_path / LOG).read_text()
    assert open_steps([step], read_records(tmp_path)) == [step]  # the next call takes it again
    gave_up = {"long": {**record, "tries": MOST_TRIES}}
    assert open_steps([step], gave_up) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_call_that_is_ended_ends_its_step(number: signal.Signals, tmp_path: Path) -> None:
    words = [str(tmp_path / "out"), "--work", str(tmp_path), "--stages", "3", "--dry"]
    call = subprocess.Popen(
        [sys.executable, "-m", "gpu_proof", *words], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tools'}"},
    )  # fmt: skip
    with call:
        assert call.stdout is not None
        next(line for line in call.stdout if line.startswith("=== stage 3"))
        children = Path(f"/proc/{call.pid}/task/{call.pid}/children")
        while not (found := children.read_text().split()):
            assert call.poll() is None
            time.sleep(0.01)
        call.send_signal(number)
        call.communicate(timeout=60)
    assert call.returncode == 128 + number
    assert [pid for pid in found if Path(f"/proc/{pid}").exists()] == []


def write_wheel(folder: Path, name: str) -> None:
    """Write a wheel of one module."""
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", "")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def wait_for_end(pid: int) -> None:
    """Wait for a process that was killed; fail where it lives on."""
    stat, deadline = Path(f"/proc/{pid}/stat"), time.monotonic() + 30
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline, stat.read_text()
        time.sleep(0.01)


@pytest.mark.parametrize("script", ["gpu_proof.sh", "run_emulated_gpu_tests.sh"])
def test_help_is_the_comment_that_a_script_begins_with(script: str) -> None:
    command = ["bash", ROOT / "tools" / script, "--help"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert f"Usage: bash tools/{script}" in lines[1]
    assert all(line.startswith("# ") for line in lines)


def test_wheels_that_come_later_are_installed_too(tmp_path: Path) -> None:
    wheels, site = tmp_path / "wheels", tmp_path / "work" / "site"
    wheels.mkdir()
    command = ["bash", ROOT / "tools/gpu_proof.sh", tmp_path / "out", wheels, "--help"]
    env = {**os.environ, "PYTHON": sys.executable, "PROOF_WORK": str(tmp_path / "work")}
    for name in ("first_wheel", "second_wheel"):
        write_wheel(wheels, name)
        subprocess.run(command, env=env, check=True, capture_output=True, timeout=120)
        assert (site / f"{name}.py").is_file()
    assert (site / "first_wheel.py").is_file()
    (site / "mark").touch()
    subprocess.run(command, env=env, check=True, capture_output=True, timeout=120)
    assert (site / "mark").is_file()  # the same wheels are not installed again


def test_paths_are_those_of_the_folder_of_the_call(tmp_path: Path) -> None:
    shown = tmp_path / "python"
    shown.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    shown.chmod(0o755)
    command = [
        "bash",
        ROOT / "tools/gpu_proof.sh",
        "out",
        "--data",
        "my data",
        "--stages",
        "1",
        "2",
    ]
    env = {**os.environ, "PYTHON": str(shown), "PROOF_WORK": "work"}
    done = subprocess.run(
        command, env=env, check=True, capture_output=True, text=True, cwd=tmp_path
    )
    told = done.stdout.splitlines()
    assert told[told.index("gpu_proof") + 1 :] == [
        f"{tmp_path}/out", "--work", f"{tmp_path}/work", "--data", f"{tmp_path}/my data",
        "--stages", "1", "2",
    ]  # fmt: skip


def test_wheels_that_are_missing_are_named_together(tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    command = ["bash", ROOT / "tools/gpu_proof.sh", tmp_path / "out", "--dry"]
    env = {**os.environ, "PYTHON": str(bare), "PROOF_WORK": str(tmp_path / "work")}
    done = subprocess.run(
        command, env=env, check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "lacks mmengine, mmcv-lite, addict, " in line
    assert "yapf: put their wheels into WHEELS, as requirements/gpu_proof.txt says" in line


def test_the_end_of_the_minutes_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(tmp_path), "--work", str(tmp_path / "work"), "--stages", "3", "--dry"]
    spent = {"state": "done", "seconds": 60 * TOTAL_MINUTES, "stage": 1, "tries": 1, "found": {}}
    (tmp_path / FILE).write_text(json.dumps({"train fp32": {**spent, "code": 0}}))
    assert main(words) == 1
    said = capsys.readouterr().out
    assert "the 45 minutes are used up; not taken: speed of ms+flip, " in said
    assert "call again" not in said


def test_a_call_too_short_for_a_step_is_refused(tmp_path: Path) -> None:
    words = [str(tmp_path), "--work", str(tmp_path), "--stages", "3", "--dry", "--minutes", "0.5"]
    with pytest.raises(UserError, match=r"--minutes 0.5: '.+' takes up to [\d.]+, so it would"):
        main(words)


def test_norms_are_compared_by_gradients_that_are_not_rounding() -> None:
    assert norm_difference("cpu", (written_out_norm, plain_norm)) < 1e-5

    def wrong(*tensors: Any) -> Any:
        return written_out_norm(*tensors) + 1e-3 * tensors[0]

    assert norm_difference("cpu", (wrong, plain_norm)) > 1e-4


def test_a_later_call_goes_on_after_what_is_done(tmp_path: Path) -> None:
    count = "import sys; open(sys.argv[1], 'a').write('x')"
    steps = [
        Step(name, 1, python(count, str(tmp_path / name)), seconds, resumes=resumes)
        for name, seconds, resumes in (("short", 20, False), ("long", 500, False),
                                       ("resumes", 500, True))
    ]  # fmt: skip
    first = take(steps, tmp_path, 100)
    assert set(first) == {"short", "resumes"}  # 500 s are more than the call has left
    assert [step.name for step in open_steps(steps, first)] == ["long"]
    second = take(steps, tmp_path, 600)
    assert set(second) == {"short", "long", "resumes"}
    assert [(tmp_path / name).read_text() for name in ("short", "long", "resumes")] == ["x"] * 3


def test_every_step_fits_into_a_call_and_all_of_them_into_the_visit(tmp_path: Path) -> None:
    steps = all_steps(Place(tmp_path, tmp_path, tmp_path, "cuda", dry=False))
    assert sum(step.seconds for step in steps) <= 60 * TOTAL_MINUTES
    assert max(step.seconds for step in steps) <= 60 * 9.5
    assert [step.stage for step in steps] == sorted(step.stage for step in steps)
    assert {step.stage for step in steps} == {1, 2, 3, 4}
    assert len({step.name for step in steps}) == len(steps)
    dry = all_steps(Place(tmp_path, tmp_path, tmp_path, "cuda", dry=True))
    assert [step.seconds for step in dry] == [3 * step.seconds for step in steps]
    assert all(step.seconds <= 60 * 9.5 or step.resumes for step in dry)


def benchmark_tool() -> Any:
    """Load ``tools/benchmark.py``, beside which there is a package of its name."""
    spec = importlib.util.spec_from_file_location("benchmark_tool", ROOT / "tools/benchmark.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("dry", [False, True])
def test_the_benchmark_takes_the_options_that_it_is_given(
    tmp_path: Path, dry: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path, tmp_path, tmp_path, "cpu", dry)
    commands = [s.command[1:] for s in all_steps(place) if s.command[1].endswith("benchmark.py")]
    assert len(commands) == 7
    for command in commands:
        monkeypatch.setattr(sys, "argv", list(command))
        args = benchmark_tool().parse_args()
        assert args.one_process
        assert args.quick == dry


def test_goals_are_reached_missed_or_not_run() -> None:
    goal = goals.Goal("least", 2.0, False, lambda r, _: r.get("n"))  # type: ignore[arg-type,return-value]
    assert goal.cells({}, {}) == ["least", "≥ 2", "", "not run"]
    assert [goal.verdict(n) for n in (1.9, 2.0, None)] == ["missed", "reached", "not run"]
    most = goals.Goal("most", 0, True, lambda *_: None, " GB")
    assert [most.verdict(n) for n in (0, 1)] == ["reached", "missed"]
    assert most.cells({}, {})[1] == "≤ 0 GB"


def test_goals_are_read_off_records_and_benchmark() -> None:
    found = {
        "train fp32": {"waits": 0}, "train bf16": {"waits": 2}, "train fp16": {"waits": 1},
        "deterministic": {"losses": [1.0], "weights": "a"},
        "deterministic again": {"losses": [1.0], "weights": "b"},
        "CamVid R-18": {"scores": {"summary": {"mIoU": 40.5}}},
    }  # fmt: skip
    records: Any = {name: {"state": "done", "found": f} for name, f in found.items()}
    best = {"share": 0.5, "time_ratio": 0.3, "failure": None}
    frame = {
        way: {"memory": gb * 10**9, "failure": None} for way, gb in (("nlseg", 5), ("best", 7))
    }
    sections = {
        "train": {"rows": [{"name": goals.STEP, "ways": {"best": best}}]},
        "tta": {"rows": [{"name": goals.FRAME, "ways": frame}]},
    }
    cells = [goal.cells(records, sections) for goal in goals.GOALS]
    assert [(shown, verdict) for _, _, shown, verdict in cells] == [
        ("50 %", "reached"), ("0.3", "reached"), ("7 GB", "missed"), ("3", "missed"),
        ("", "not run"), ("1", "missed"), ("40.5", "reached"), ("", "not run"),
    ]  # fmt: skip
    records["train bf16"]["state"] = "failed"
    best["failure"] = "out of memory"
    unknown = [goal.cells(records, sections)[3] for goal in goals.GOALS]
    assert unknown.count("not run") == 5


def test_goals_name_rows_of_the_benchmark() -> None:
    suite = Suite("cuda")
    assert goals.STEP in {row.name for row in suite.train()}
    assert {goals.FRAME: {"nlseg", "best"}}.items() <= {
        row.name: set(row.ways) for row in suite.tta()
    }.items()


def test_the_command_writes_a_page_and_says_that_steps_are_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    given = [str(folder), "--work", str(tmp_path), "--dry", "--minutes", "0"]
    assert main(given) == STEPS_LEFT
    page = (folder / "gpu_proof.md").read_text()
    assert page.count("not run") >= len(goals.GOALS)
    assert "A dry run" in page
    assert "left out: CUDA graphs are not emulated" in page
    assert "steps left; call again" in capsys.readouterr().out
    with pytest.raises(UserError, match="no images/ in it"):
        main([*given, "--data", str(tmp_path)])


def test_a_done_visit_ends_well_and_a_failed_step_is_taken_again_when_asked(tmp_path: Path) -> None:
    steps = all_steps(Place(tmp_path, tmp_path, None, "cpu", dry=True))
    state = {s.name: {"state": "done", "seconds": 1.0, "tries": 1, "found": {}} for s in steps}
    state["tests"]["state"] = "failed"
    (tmp_path / "proof.json").write_text(json.dumps(state))
    given = [str(tmp_path), "--work", str(tmp_path), "--dry", "--stages", "1", "--minutes", "0"]
    assert main(given) == 1
    assert main([*given, "--again"]) == STEPS_LEFT
    state["tests"]["state"] = "done"
    (tmp_path / "proof.json").write_text(json.dumps(state))
    assert main(given) == 0


def test_a_training_is_killed_at_its_first_checkpoint(tmp_path: Path) -> None:
    code = (
        "import os, subprocess, sys, time; worker = subprocess.Popen(['sleep', '62']).pid;"
        "found = f'{os.getpgrp()} {os.getpid()} {worker}';"
        "open(sys.argv[1] + '/pids', 'w').write(found);"
        "open(sys.argv[1] + '/last_checkpoint', 'w').write('run/iter_250.pth'); time.sleep(61)"
    )
    assert train_and_kill(list(python(code, str(tmp_path))), tmp_path) == 250
    group, *processes = map(int, (tmp_path / "pids").read_text().split())
    assert group == os.getpgrp()  # what ends the step ends its training
    for pid in processes:
        wait_for_end(pid)
    (tmp_path / "last_checkpoint").unlink()
    with pytest.raises(UserError, match="before its first checkpoint"):
        train_and_kill(list(python("pass")), tmp_path)
