"""What was done with each file of a list, and the summary of it; without PyTorch."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nlseg.predict.outputs import write_coco, write_summary

RECORDS = ".records"


class Records:
    """What was done with each file, as JSON lines; one file of them for each process.

    Args:
        folder: The output folder.
        process: Number of this process among those that share the list.
    """

    def __init__(self, folder: Path, process: int) -> None:
        self.folder = folder / RECORDS
        self.file = self.folder / f"{process}.jsonl"

    def start(self, *, resume: bool, processes: int) -> None:
        """Make the folder; without ``resume`` the records of an earlier call go.

        Each process drops its own; the first also those of processes that are not there any more.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if resume:
            return
        self.file.unlink(missing_ok=True)
        if self.file.stem == "0":
            for file in self.folder.glob("*.jsonl"):
                if file.stem.isdigit() and int(file.stem) >= processes:
                    file.unlink(missing_ok=True)

    def add(self, record: dict[str, Any]) -> None:
        """Append one record."""
        with open(self.file, "ab") as handle:
            handle.write(json.dumps(record).encode() + b"\n")

    def read(self) -> dict[str, dict[str, Any]]:
        """Return the newest record of each file, of all processes, in order of names."""
        records: dict[str, dict[str, Any]] = {}
        for file in sorted(self.folder.glob("*.jsonl")):
            for line in file.read_text(errors="replace").splitlines():
                try:
                    record = json.loads(line)
                except ValueError:
                    continue  # cut short by a kill
                old = records.get(record["source"])
                if old is None or "error" in old:
                    records[record["source"]] = record
        return dict(sorted(records.items()))


def summarize(folder: Path, records: Records, classes: Sequence[str], *, coco: bool) -> Path:
    """Write ``summary.csv``, and ``coco.json`` where wanted, from the records of all processes."""
    file = folder / "summary.csv"
    known = list(records.read().values())
    write_summary(file, known, classes)
    if coco:
        write_coco(folder / "coco.json", known, classes)
    return file
