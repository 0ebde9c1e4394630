"""The page about a visit: goals, steps, where a training step's time goes, images a second."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark import results
from benchmark.machine import describe_machine, device_name
from benchmark.tables import as_markdown, as_text, memory, seconds
from gpu_proof.goals import GOALS, Sections, found_by
from gpu_proof.stages import WAYS
from gpu_proof.steps import Records, Step

PAGE = "gpu_proof.md"
Cells = list[list[str]]


def goal_cells(records: Records, sections: Sections) -> Cells:
    """Return header and lines of the goals."""
    return [["goal", "asked", "found", ""], *(goal.cells(records, sections) for goal in GOALS)]


def step_cells(steps: Sequence[Step], records: Records) -> Cells:
    """Return header and lines of the steps."""
    lines = [["stage", "step", "state", "seconds"]]
    for step in steps:
        record = records.get(step.name)
        state, took = (record["state"], f"{record['seconds']:.0f}") if record else ("not run", "")
        if step.left_out:
            state = f"left out: {step.left_out}"
        lines.append([str(step.stage), step.name, state, took])
    return lines


def training_cells(records: Records) -> Cells:
    """Return header and lines of the profiled trainings."""
    header = [
        "way", "step", "profiled step", "kernels", "gaps", "launches", "waits", "peak memory",
        "loss",
    ]  # fmt: skip
    lines = [header]
    for way in WAYS:
        if found := found_by(records, f"train {way}"):
            lines.append(
                [
                    way, *(seconds(found[f"{key}_s"]) for key in ("step", "profiled_step")),
                    *(seconds(found[f"{key}_s"]) for key in ("kernels", "gaps")),
                    f"{found['launches']:.0f}", str(found.get("waits", "")),
                    memory(found.get("peak_bytes")),
                    f"{found['losses'][0]:.3f} to {found['losses'][-1]:.3f}",
                ]
            )  # fmt: skip
    return lines


def kernel_cells(found: dict[str, Any]) -> Cells:
    """Return header and lines of the kernels that take longest in a training."""
    lines = [["kernel", "a step"]]
    return [*lines, *([name, seconds(took)] for name, took in found["top"])]


def rate_cells(records: Records) -> Cells:
    """Return header and lines of the tests on images of many sizes."""
    found = found_by(records, "many sizes")
    return [["images of many sizes, 150 classes", "images a second"],
            *([way, f"{rate:.2f}"] for way, rate in found.items())]  # fmt: skip


def sections_of(folder: Path, device: str) -> Sections:
    """Return what the benchmark has measured on this machine."""
    return results.read(folder).get(device_name(device), {})


def summary(steps: Sequence[Step], records: Records, sections: Sections) -> str:
    """Return goals and steps for the terminal."""
    lines = [*as_text(step_cells(steps, records)), "", *as_text(goal_cells(records, sections))]
    return "\n".join(lines)


def write_page(
    folder: Path, steps: Sequence[Step], records: Records, device: str, dry: bool
) -> Path:
    """Write the page, with what is there so far.

    Args:
        folder: Where the records, the benchmark's file and the pictures are.
        steps: All steps.
        records: What was found.
        device: 'cuda' or 'cpu'.
        dry: Whether sizes were toys.
    """
    sections = sections_of(folder, device)
    facts = ", ".join(f"{name} {value}" for name, value in describe_machine(device).items())
    parts = [
        "# A visit to a GPU", "",
        f"Written by `tools/gpu_proof.sh`; do not edit. {facts}.", "",
        *(["A dry run: toy sizes, and no number below means anything.", ""] if dry else []),
        "## Goals", "", *as_markdown(goal_cells(records, sections)), "",
        "## Training", "",
        "20 iterations of an R-50 NLHead, 2 x 512x1024, through the runner with its loaders; gaps "
        "are the time in which no kernel runs, under the profiler.", "",
        *as_markdown(training_cells(records)), "",
    ]  # fmt: skip
    for way in WAYS:
        if (found := found_by(records, f"train {way}")).get("top"):
            parts += [f"Kernels, {way}:", "", *as_markdown(kernel_cells(found)), ""]
    parts += ["## Evaluation", "", *as_markdown(rate_cells(records)), "", "## Learning", ""]
    parts += _learning(records)
    parts += ["## Steps", "", *as_markdown(step_cells(steps, records)), ""]
    parts += ["Times of the parts: [benchmarks.md](benchmarks.md)."]
    page = folder / PAGE
    page.write_text("\n".join(parts) + "\n", encoding="utf-8")
    return page


def _learning(records: Records) -> list[str]:
    lines = []
    for depth in ("18", "50"):
        found = found_by(records, f"CamVid R-{depth}")
        if not found:
            lines += [f"CamVid, R-{depth}: not run.", ""]
            continue
        scores = ", ".join(f"{key} {value}" for key, value in found["scores"]["summary"].items())
        lines += [f"CamVid, R-{depth}, killed after {found['killed_at']} iterations: {scores}.", ""]
        lines += [f"![Curve and predictions, R-{depth}](camvid_r{depth}.png)", ""]
    return lines
