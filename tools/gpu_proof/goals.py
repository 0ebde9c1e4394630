"""What the visit should show, and whether it did."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gpu_proof.steps import Records

Sections = dict[str, Any]
"""Sections of the benchmark on this machine, by name."""

STEP, FRAME = "R-50 NLHead, 16x3x512x1024", "R-50 NLHead, 1x3x1024x2048, 6 scales x flip"


@dataclass(frozen=True)
class Goal:
    """One number that should be reached.

    Args:
        name: What it is.
        asked: The bound.
        at_most: Whether the number is to be at most that, or at least.
        find: Takes the records and the benchmark's sections, and returns the number; None where it
            was not measured.
        unit: Written behind both.
    """

    name: str
    asked: float
    at_most: bool
    find: Callable[[Records, Sections], float | None]
    unit: str = ""

    def verdict(self, found: float | None) -> str:
        """Return 'reached', 'missed' or 'not run'."""
        if found is None:
            return "not run"
        reached = found <= self.asked if self.at_most else found >= self.asked
        return "reached" if reached else "missed"

    def cells(self, records: Records, sections: Sections) -> list[str]:
        """Return the cells of its line."""
        found = self.find(records, sections)
        sign = "≤" if self.at_most else "≥"
        shown = "" if found is None else f"{found:.4g}{self.unit}"
        return [self.name, f"{sign} {self.asked:g}{self.unit}", shown, self.verdict(found)]


def found_by(records: Records, step: str) -> dict[str, Any]:
    """Return what a step found, nothing where it did not end well."""
    record = records.get(step, {})
    return record.get("found", {}) if record.get("state") == "done" else {}


def way_of(sections: Sections, section: str, row: str, way: str) -> dict[str, Any]:
    """Return the figures of one way in one row of the benchmark; nothing where it failed."""
    rows = {entry["name"]: entry["ways"] for entry in sections.get(section, {}).get("rows", [])}
    figures: dict[str, Any] = rows.get(row, {}).get(way, {})
    return {} if figures.get("failure") else figures


def _share(_: Records, sections: Sections) -> float | None:
    share = way_of(sections, "train", STEP, "best").get("share")
    return None if share is None else 100 * share


def _ratio(_: Records, sections: Sections) -> float | None:
    ratio: float | None = way_of(sections, "train", STEP, "best").get("time_ratio")
    return ratio


def _memory(_: Records, sections: Sections) -> float | None:
    most = [way_of(sections, "tta", FRAME, way).get("memory") for way in ("nlseg", "best")]
    return None if None in most else max(m for m in most if m is not None) / 1e9


def _waits(records: Records, _: Sections) -> float | None:
    found = [found_by(records, f"train {way}").get("waits") for way in ("fp32", "bf16", "fp16")]
    return None if None in found else float(sum(n for n in found if n is not None))


def _same_bits(records: Records, _: Sections) -> float | None:
    runs = [found_by(records, f"deterministic{again}") for again in ("", " again")]
    if not all(runs):
        return None
    return float(sum(runs[0][key] != runs[1][key] for key in ("losses", "weights")))


def _miou(depth: str) -> Callable[[Records, Sections], float | None]:
    def find(records: Records, _: Sections) -> float | None:
        found = found_by(records, f"CamVid R-{depth}")
        score: float | None = found["scores"]["summary"]["mIoU"] if found else None
        return score

    return find


def _norms(records: Records, _: Sections) -> float | None:
    return found_by(records, "one process of NCCL").get("norm_difference")


GOALS = (
    Goal("training step, batch 16, bf16, of the measured matrix rate", 45, False, _share, " %"),
    Goal("training step, batch 16, bf16, share of PyTorch's defaults", 0.35, True, _ratio),
    Goal("6 scales x flip of 1024x2048, peak memory", 6, True, _memory, " GB"),
    Goal("waits in 9 training steps, fp32, bf16 and fp16", 0, True, _waits),
    Goal("synchronized norm off plain norm, one process of NCCL", 1e-4, True, _norms),
    Goal("differences of two deterministic runs", 0, True, _same_bits),
    Goal("CamVid test mIoU, R-18 from random weights, killed once", 38.5, False, _miou("18")),
    Goal("CamVid test mIoU, R-50 from random weights, killed once", 38.5, False, _miou("50")),
)  # fmt: skip
"""38.50 is what 2,000 iterations of smaller crops reached on a CPU, see docs/camvid.md."""
