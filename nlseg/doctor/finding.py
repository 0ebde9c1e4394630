"""What the doctor says about a data set."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]
ORDER: tuple[Severity, ...] = ("error", "warning", "note")


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
        remedy: The config line or command that fixes it; empty where nothing needs fixing.
        files: Some of the files.
        count: Number of files, where it is about files.
    """

    code: str
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
