"""Facts about all files, taken by several processes and kept until a file changes."""

import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

import cv2
from tqdm import tqdm

from nlseg.doctor.probe import VERSION, Facts, probe
from nlseg.errors import DataError

File = tuple[str, str]
"""Kind (``image`` or ``label``) and path."""

_CHUNK = 8


def survey(
    files: Iterable[File], *, num_processes: int, cache_file: Path | None, progress: bool = True
) -> dict[File, Facts]:
    """Take the facts of files, or recall them where size and modification time are unchanged.

    Args:
        files: What to look at; a file that is named twice is read once.
        num_processes: How many processes read; with 1, this one does.
        cache_file: JSON lines with the facts of earlier runs; appended to as they come, so that a
            run that is stopped loses nothing.
        progress: Show a bar.

    Returns:
        Facts of every file. A file that is not there has an ``error`` like a broken one.

    Raises:
        DataError: If a file brings a process down, as a decoder may.
    """
    wanted = list(dict.fromkeys(files))
    stamps = {file: _stamp(file[1]) for file in wanted}
    kept = _recall(cache_file)
    facts = {f: kept[f][1] for f in wanted if f in kept and kept[f][0] == stamps[f]}
    todo = [file for file in wanted if file not in facts]
    bar = tqdm(total=len(wanted), initial=len(facts), unit="file", disable=not progress)
    with bar, _Notebook(cache_file) as notebook:
        for file, found in _probe_all(todo, num_processes):
            facts[file] = found
            notebook.write(file, stamps[file], found)
            bar.update()
    return facts


def _stamp(path: str) -> list[int]:
    """Return what changes when a file does: size, modification time, and how facts are taken."""
    try:
        status = os.stat(path)
    except OSError:
        return [0, 0, VERSION]
    return [status.st_size, status.st_mtime_ns, VERSION]


def _recall(cache_file: Path | None) -> dict[File, tuple[list[int], Facts]]:
    if cache_file is None or not cache_file.is_file():
        return {}
    kept: dict[File, tuple[list[int], Facts]] = {}
    for line in cache_file.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
            kept[entry["kind"], entry["path"]] = (entry["stamp"], entry["facts"])
        except (ValueError, KeyError, TypeError):
            continue  # the last line of a run that was stopped
    return kept


class _Notebook:
    """Append facts to the cache, absolute paths as they are given."""

    def __init__(self, path: Path | None) -> None:
        self.file = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            torn = path.is_file() and not path.read_bytes().endswith(b"\n")
            self.file = path.open("a", encoding="utf-8")
            if torn and path.stat().st_size:
                self.file.write("\n")

    def write(self, file: File, stamp: list[int], facts: Facts) -> None:
        if self.file is not None:
            entry = {"kind": file[0], "path": file[1], "stamp": stamp, "facts": facts}
            self.file.write(json.dumps(entry) + "\n")

    def __enter__(self) -> "_Notebook":
        return self

    def __exit__(self, *_: object) -> None:
        if self.file is not None:
            self.file.close()


def _probe_all(files: list[File], num_processes: int) -> Iterator[tuple[File, Facts]]:
    if num_processes <= 1 or len(files) <= _CHUNK:
        for kind, path in files:
            yield (kind, path), probe(kind, path)
        return
    parts = [files[i : i + _CHUNK] for i in range(0, len(files), _CHUNK)]
    # Copies of a fresh process that has only imported things: one with threads, as this one may
    # have by now, cannot be copied safely.
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(num_processes, context, _one_thread) as pool:
        pending = {pool.submit(_probe_part, part): part for part in parts}
        for future in as_completed(pending):
            part = pending.pop(future)
            try:
                yield from zip(part, future.result(), strict=True)
            except BrokenProcessPool as error:
                names = "\n  ".join(path for _, path in part)
                raise DataError(
                    f"a process died, out of memory or from a file; it may be one of\n  {names}\n"
                    "run again with --nproc 1 to see which"
                ) from error


def _one_thread() -> None:
    cv2.setNumThreads(0)


def _probe_part(part: list[File]) -> list[Facts]:
    return [probe(kind, path) for kind, path in part]
