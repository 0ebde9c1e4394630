"""Steps in processes of their own, each bounded in time; a later call goes on after them."""

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nlseg.files import write_file

State = Literal["done", "failed", "out of time"]
Records = dict[str, dict[str, Any]]
"""Name of a step -> ``state``, ``seconds``, ``code`` and what the step itself ``found``."""

FILE, LOG = "proof.json", "proof.log"
MOST_TRIES = 3
_LEAST_S = 30.0
_STOPS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Step:
    """One command.

    Args:
        name: How its record and goals call it.
        stage: Stage 1 to 4.
        command: Program and arguments. ``{result}`` stands for a JSON file that it may write.
        seconds: It is ended after so long.
        resumes: Whether a later call goes on where it was ended, so that it may begin late, too.
        left_out: Why it cannot be taken here, if so.
    """

    name: str
    stage: int
    command: tuple[str, ...]
    seconds: float
    resumes: bool = False
    left_out: str = ""


def read_records(folder: Path) -> Records:
    """Return what earlier calls have written into a folder."""
    file = folder / FILE
    if not file.is_file():
        return {}
    records: Records = json.loads(file.read_text(encoding="utf-8"))
    return records


def write_records(folder: Path, records: Records) -> None:
    """Write the records, whole or not at all."""
    text = json.dumps(records, indent=1) + "\n"
    write_file(folder / FILE, text)


def open_steps(steps: Iterable[Step], records: Records) -> list[Step]:
    """Return the steps that are still to be taken: never begun, or ended for lack of time."""
    return [step for step in steps if not step.left_out and _is_open(records.get(step.name))]


def _is_open(record: dict[str, Any] | None) -> bool:
    return record is None or (record["state"] == "out of time" and record["tries"] < MOST_TRIES)


def run_steps(
    steps: Iterable[Step],
    folder: Path,
    deadline: float,
    after_each: Callable[[Records], None],
) -> Records:
    """Take the open steps in their order, and keep a record after each.

    A step that fails, or is ended, does not keep the next ones from being taken. One that might not
    end before the deadline is left for the next call, unless it resumes.

    Args:
        steps: All steps.
        folder: Where the records and the log are.
        deadline: When this call has to end, as ``time.monotonic`` counts.
        after_each: Called with the records after each step.

    Returns:
        The records.
    """
    records = read_records(folder)
    for step in open_steps(steps, records):
        left = deadline - time.monotonic()
        if left < least_seconds(step):
            continue
        before = records.get(step.name, {"tries": 0, "seconds": 0.0})
        record = _take(step, folder, min(step.seconds, left))
        record["seconds"] = round(record["seconds"] + before["seconds"], 1)
        records[step.name] = {**record, "stage": step.stage, "tries": before["tries"] + 1}
        write_records(folder, records)
        after_each(records)
    return records


def least_seconds(step: Step) -> float:
    """Return how much time has to be left for a step to begin."""
    return min(_LEAST_S, step.seconds) if step.resumes else step.seconds


def _take(step: Step, folder: Path, seconds: float) -> dict[str, Any]:
    result = folder / "result.json"
    result.unlink(missing_ok=True)
    command = [str(result) if part == "{result}" else part for part in step.command]
    _say(folder, f"\n=== stage {step.stage}: {step.name} (at most {seconds:.0f} s)\n")
    start = time.monotonic()
    code = run_bounded(command, seconds, lambda text: _say(folder, text))
    took = time.monotonic() - start
    state: State = "out of time" if code is None else "failed" if code else "done"
    _say(folder, f"=== {step.name}: {state} after {took:.0f} s\n")
    found = json.loads(result.read_text(encoding="utf-8")) if result.is_file() else {}
    result.unlink(missing_ok=True)
    return {"state": state, "seconds": took, "code": code, "found": found}


def _say(folder: Path, text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
    with open(folder / LOG, "a", encoding="utf-8") as log:
        log.write(text)


def run_bounded(command: list[str], seconds: float, say: Callable[[str], None]) -> int | None:
    """Run a command and hand on what it prints as it comes.

    Args:
        command: Program and arguments.
        seconds: It and what it has started are killed after so long.
        say: Gets its output and errors.

    Returns:
        Its exit code; None where it was killed.

    Raises:
        SystemExit: Ctrl-C or SIGTERM; the command is killed.
    """
    end = time.monotonic() + seconds
    asked: list[
        int
    ] = []  # no exception, as one amid the start of the command would lose sight of it
    before = {number: signal.signal(number, lambda n, _: asked.append(n)) for number in _STOPS}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while process.poll() is None and time.monotonic() < end and not asked:
                if selector.select(min(max(end - time.monotonic(), 0), 0.5)):
                    say((process.stdout.read() or b"").decode(errors="replace"))
        ended = process.poll() is not None
    finally:
        kill_group(process)  # a full disk leaves nothing on the card either
        for number, handler in before.items():
            signal.signal(number, handler)
    with process.stdout:
        say((process.stdout.read() or b"").decode(errors="replace"))
    if asked:
        sys.exit(128 + asked[0])
    return process.returncode if ended else None


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process of its own session, and what it has started and left behind."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
