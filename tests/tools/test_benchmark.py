"""The tool: what it writes, and what it keeps of what was written before."""

import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmark import loading, results, tables
from benchmark.chart import draw
from benchmark.driver import Request, run, slug
from benchmark.measure import Plan, Result
from benchmark.peer import OPERATORS, check_peer, leave_out_operators
from benchmark.suite import Comparison, Suite, Target
from gpu_proof.goals import STEP
from nlseg.errors import UserError

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools/benchmark.py"
MIB = 2**20


def section(*names: str, time: float = 1.0) -> dict[str, Any]:
    """Make a section whose rows took so long as baseline and half of it ours."""
    rows = []
    for name in names:
        row = Comparison(name, print, targets={"nlseg": Target(0.4, 0.1)})
        measured = {
            "baseline": Result([time, time], 100 * MIB, 10**9, "fp32", 10**10),
            "nlseg": Result([time / 2, time / 2], 5 * MIB, 10**9, "fp32", 10**10),
        }
        rows.append(results.row_record(row, measured))
    return {"rows": rows, "date": "2026-01-01", "command": "c", "machine": {"torch": "2"}}


def test_a_row_holds_ratios_and_targets() -> None:
    way = section("a", time=2.0)["rows"][0]["ways"]["nlseg"]
    assert way["median_s"] == 1.0
    assert way["time_ratio"] == 0.5
    assert way["memory_ratio"] == 0.05
    assert way["share"] == pytest.approx(0.1)  # 1 GFLOP a second of 10
    assert way["targets"] == {"time": 0.4, "memory": 0.1}


def test_a_section_is_updated_alone() -> None:
    found: results.Results = {}
    results.merge(found, "m", "loss", section("a", "b"), partly=False)
    results.merge(found, "m", "count", section("c"), partly=False)
    results.merge(found, "m", "loss", section("d"), partly=False)
    assert [row["name"] for row in found["m"]["loss"]["rows"]] == ["d"]
    assert [row["name"] for row in found["m"]["count"]["rows"]] == ["c"]


def test_chosen_rows_are_updated_alone() -> None:
    found: results.Results = {}
    results.merge(found, "m", "loss", section("a", "b"), partly=False)
    results.merge(found, "m", "loss", section("b", time=8.0), partly=True)
    rows = {row["name"]: row["ways"]["baseline"]["median_s"] for row in found["m"]["loss"]["rows"]}
    assert rows == {"a": 1.0, "b": 8.0}


def test_another_machines_file_is_taken_over(tmp_path: Path) -> None:
    results.write(tmp_path, {"gpu": {"loss": section("a")}})
    found: results.Results = {"cpu": {"loss": section("b")}}
    results.merge_files(found, [tmp_path / results.FILE])
    assert set(found) == {"cpu", "gpu"}
    assert results.read(tmp_path) == {"gpu": {"loss": section("a")}}
    assert results.read(tmp_path / "empty") == {}


def test_older_files_call_the_baseline_customary(tmp_path: Path) -> None:
    new = section("a")
    new["growth"] = [{"name": "g", "ways": {"baseline": {}, "nlseg": {}}, "at_largest": {}}]
    rows = [["baseline", "5"], ["exact", "9"]]
    new["tables"] = [{"title": "from the baseline; more", "columns": ["way", "/s"], "rows": rows}]
    new["tables"].append({"title": "Each transform, baseline:", "columns": [], "rows": []})
    old = json.dumps({"cpu": {"data": new}}).replace("the baseline", "the customary way")
    (tmp_path / results.FILE).write_text(old.replace("baseline", "customary"))
    assert results.read(tmp_path) == {"cpu": {"data": new}}
    found: results.Results = {}
    results.merge_files(found, [tmp_path / results.FILE])
    assert found == {"cpu": {"data": new}}


def test_the_page_says_what_was_missed_and_what_failed() -> None:
    failed = section("b")
    failed["rows"][0]["ways"]["baseline"] = {**vars(Result(failure="out of memory"))}
    page = tables.page({"Some CPU": {"loss": section("a"), "tta": failed}}, {"Some CPU": "x.png"})
    assert "| a | baseline | 1 s ± 0 % | 100 MiB | 1 | 10 % of 0.01 TFLOP/s fp32 |  |  |" in page
    assert "0.5 (≤ 0.4, missed) | 0.05 (≤ 0.1) |" in page
    assert "| b | baseline | out of memory |" in page
    assert "![Ratios to the baseline, and growth](x.png)" in page
    assert "`c`, 2026-01-01. torch 2, matrix rate fp32 0.01 to 0.01 TFLOP/s." in page


def test_figures_as_text() -> None:
    assert [tables.seconds(t) for t in (2.0, 0.0123, 4.5e-6)] == ["2 s", "12.3 ms", "4.5 µs"]
    assert tables.memory(1536 * MIB) == "1.50 GiB"
    assert tables.percent(0.4, 0.45) == "40 % (≥ 45 %, missed)"
    assert tables.as_text([["a", "bc"], ["def", "g"]]) == ["a    bc", "---  --", "def  g"]
    assert slug("AMD EPYC (9)") == "amd-epyc-9"


def test_the_chart_is_a_picture(tmp_path: Path) -> None:
    drawn = section("a", "b")
    fit = {"positions": [1, 2], "memory": [1, 2], "memory_exponent": 1.0}
    drawn["growth"] = [{"name": "g", "ways": {"baseline": fit, "nlseg": fit}}]
    draw({"loss": drawn}, "Some CPU", tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"


def test_a_missing_peer_is_told_once() -> None:
    with pytest.raises(UserError, match="--peer: mmsegmentation does not import here"):
        check_peer()


def test_a_compiled_operator_that_is_left_out_says_so_when_it_is_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "modules", {**sys.modules})
    for _ in range(2):  # every network of a process asks for it
        leave_out_operators()
    operators: Any = importlib.import_module(OPERATORS)
    assert not hasattr(operators, "__path__")  # no package
    with pytest.raises(UserError, match="compiled operator nms is not in mmcv-lite"):
        operators.nms(1, limit=2)


def test_rows_with_mmsegmentation_stay_beside_those_of_a_gpu_without_it() -> None:
    alone, beside = (Suite("cuda", peer=peer).train() for peer in (False, True))
    assert alone[0].name == STEP  # the row of the goals comes first
    assert "compiled" in alone[0].ways
    assert beside[0].ways == ("baseline", "nlseg", "best", "mmseg")
    assert not {row.name for row in alone} & {row.name for row in beside}
    on_cpu = [Suite("cpu", peer=peer).train()[0].name for peer in (False, True)]
    assert on_cpu[0] == on_cpu[1]


@pytest.mark.slow
def test_the_data_section_compares_the_same_samples() -> None:
    found = loading.measure_loading(quick=True)
    ways = found["rows"][0]["ways"]
    assert set(ways) == {
        "baseline", "separate transforms", "exact", "fast", "cached, exact", "cached, fast",
    }  # fmt: skip
    off = {line[0]: int(line[2]) for line in found["tables"][0]["rows"]}
    assert off["exact"] == off["cached, exact"] == off["separate transforms"] == 0
    assert off["fast"] <= 1
    steps = [line[0] for line in found["tables"][1]["rows"]]
    assert steps == [
        "LoadImageFromFile", "Annotations", "RandomResize", "Crop", "RandomFlip", "Distortion",
        "PackSegInputs",
    ]  # fmt: skip


def test_rows_that_are_there_are_kept_and_not_measured_again(tmp_path: Path) -> None:
    suite = Suite("cpu", quick=True)
    plan = Plan("cpu", 1, 2, 0.1, 64, one_process=True)
    request = Request(suite, plan, tmp_path, "c", keep=True, growth=False)
    first = run(["attention"], request)
    ((_, sections),) = first.items()
    (row,) = sections["attention"]["rows"]
    assert len(row["ways"]["tiles"]["times_s"]) == 2
    again = run(["attention"], replace(request, command="d"))
    assert next(iter(again.values()))["attention"]["rows"] == [row]
    renewed = run(["attention"], replace(request, keep=False))
    rows = next(iter(renewed.values()))["attention"]["rows"]
    assert rows != [row]
    (machine,) = renewed
    apart = run(["attention"], replace(request, state="half rate"))
    assert list(apart) == [machine, f"{machine}, half rate"]
    assert apart[machine]["attention"]["rows"] == rows


@pytest.mark.slow
def test_the_command_writes_everything_from_a_bare_checkout(tmp_path: Path) -> None:
    command = [sys.executable, str(TOOL), "count", "--quick", "--device", "cpu", "--threads", "1",
               "--out", str(tmp_path)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Counting for the scores" in done.stdout
    ((machine, sections),) = json.loads((tmp_path / "benchmarks.json").read_text()).items()
    ways = sections["count"]["rows"][0]["ways"]
    assert ways["nlseg"]["failure"] is None
    assert len(ways["nlseg"]["times_s"]) == 2
    assert f"## {machine}" in (tmp_path / "benchmarks.md").read_text()
    assert (tmp_path / f"benchmarks_{slug(machine)}.png").is_file()
