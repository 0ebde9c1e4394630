"""What the doctor says about a data set."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]
ORDER: tuple[Severity, ...] = ("error", "warning", "note")
Code = Literal[
    "absent-classes", "all-ignored", "binary-masks", "data-set", "deep-images", "exif",
    "grey-rgb-masks", "image-suffix", "instance-ids", "label-ids", "large-crop", "lost-colours",
    "missing-folder", "missing-image", "missing-label", "no-classes", "normalisation", "not-rgb",
    "num-classes", "one-class", "orphan-label", "own-transforms", "palette-by-cv2",
    "pictures-as-masks", "rare-classes", "reduce-zero-label-differs", "reduce-zero-label-missing",
    "reduce-zero-label-twice", "rgb-masks", "same-image-twice", "shared-images", "shrunk-images",
    "size-mismatch", "small-images", "smeared-masks", "spread-out-masks", "stray-labels",
    "unreadable",
]  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One thing to know, named as what it is.

    Args:
        code: Short name, the same for the same cause.
        severity: ``error``: training or scores would be wrong or stop; ``warning``: probably not
            what was meant; ``note``: good to know.
        split: Where it was found.
        title: The cause in one line.
        detail: What was seen.
        remedy: What fixes it; empty where nothing needs fixing. A line ``key = value`` can be given
            to ``--set`` as it stands; several belong together unless each says when it is the one
            (``# if ...``). What no line can fix is said as a step.
        files: Some of the files.
        count: Number of files, where it is about files.
    """

    code: Code
    severity: Severity
    split: str
    title: str
    detail: str = ""
    remedy: str = ""
    files: tuple[str, ...] = ()
    count: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)

    def as_text(self) -> str:
        """Return a few lines for a terminal or an error message."""
        lines = [f"{self.severity}: {self.split}: {self.title}"]
        lines += [f"  {line}" for line in self.detail.splitlines()]
        lines += [f"  in {file}" for file in self.files[:3]]
        lines += [f"  -> {line}" for line in self.remedy.splitlines()]
        return "\n".join(lines)


def by_severity(findings: list[Finding]) -> list[Finding]:
    """Return findings with the worst first, else in the order in which they were made."""
    return sorted(findings, key=lambda finding: ORDER.index(finding.severity))
