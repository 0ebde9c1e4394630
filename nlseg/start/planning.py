"""From a folder to a written plan; and whether there is one already."""

import json
import math
import os
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from mmengine.config import Config

from nlseg.config import load_config
from nlseg.doctor.probe import Facts
from nlseg.doctor.survey import survey
from nlseg.errors import DataError, UserError
from nlseg.files import write_file
from nlseg.plan.auto_batch import fit_batch_size
from nlseg.plan.dry_run import DryRun, built, dry_run, time_loading
from nlseg.run.folder import held
from nlseg.start.choose import ITERATIONS, ON_CPU, ON_GPU, Choices, choose
from nlseg.start.exports import read_layout
from nlseg.start.facts import DataFacts, check_files, measure_data, values_of
from nlseg.start.labels import Labels, read_labels, show_value
from nlseg.start.layout import Layout, Pair, check_there, pictures_below
from nlseg.start.loading import Loading, Room, choose_loading, measure_room
from nlseg.start.machine import candidates, measure_machine
from nlseg.start.parts import Parts, small_picture, split_pairs
from nlseg.start.progress import has_screen, take_long, tell
from nlseg.start.request import Request
from nlseg.start.writing import (
    CACHE,
    LOOKS,
    Schedule,
    config_text,
    listing,
    place_pairs,
    shown_size,
    with_mark,
    write_lists,
)

STATE = "plan.json"
DRAFT_STEPS = 100
MARGIN = 0.9
"""Share of the time for training that its steps may take; the rest is loading and looks."""
START_S = 10.0
"""Time that building, checkpoints and the report take."""


@dataclass
class Plan:
    """A written config.

    Args:
        config: The file.
        text: What to show.
        iterations: Training steps.
        tta: Whether the test averages over flipped images.
        is_new: Whether it was made now, rather than read.
    """

    config: Path
    text: str
    iterations: int
    tta: bool
    is_new: bool = False


@dataclass
class _Read:
    """What was found in a folder."""

    layout: Layout
    labels: Labels
    parts: Parts
    facts: dict[tuple[str, str], Facts] = field(default_factory=dict)


def earlier_plan(request: Request) -> Plan | None:
    """Return the plan that an earlier call wrote; None where there is none.

    Raises:
        UserError: The config is another's, or was planned with other options.
    """
    if not request.out.exists():
        return None
    try:
        state = json.loads((request.files / STATE).read_text(encoding="utf-8"))
        asked, text = list(state["asked"]), str(state["text"])
        iterations, tta = int(state["iterations"]), bool(state["tta"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{request.out}: is there, and no plan of nlseg start stands beside it; give another "
            "--out, or move it away"
        ) from None
    now = json.loads(json.dumps(request.as_dict()))
    changed = [[key for key in now if now[key] != one.get(key)] for one in asked]
    if all(changed):
        key = changed[-1][0]
        raise UserError(
            f"{request.out}: was planned with {key} {asked[-1].get(key)!r}, now it is "
            f"{now[key]!r}; give another --out, or remove it and its run folder for a new plan"
        )
    config = load_config(request.out)
    iterations = int(config.train_cfg.get("max_iters") or iterations)
    now_there = _pictures(request)
    if now_there != state.get("pictures"):
        text += (
            f"\n{request.folder} has changed: {state.get('pictures')} pictures then, {now_there} "
            "now; for a plan of them give another --out"
        )
    return Plan(request.out, text, iterations, tta)


def _pictures(request: Request) -> int:
    """Count the pictures of a folder; 0 where it cannot be read, or is a file."""
    try:
        return len(pictures_below(request.folder, request.files))
    except UserError:
        return 0


def make_plan(request: Request, first: Request | None = None, *, progress: bool = True) -> Plan:
    """Look at a folder and this machine, and write the config.

    Args:
        request: What is asked for.
        first: What was asked for before questions were answered; it stands for the same plan.
        progress: Say what takes a while.

    Returns:
        The plan; the one that is there where another call has just written it.

    Raises:
        UserError: The folder cannot be used, names the file and what to do; or another process
            plans with the same ``--out``.
        Unclear: It can be understood in several ways.
    """
    check_there(request.folder)
    with held(request.files, "plans", "give another --out"):
        return earlier_plan(first or request) or _new_plan(request, first, progress=progress)


def _new_plan(request: Request, first: Request | None, *, progress: bool) -> Plan:
    started = time.perf_counter()
    found = read_folder(request, progress=progress)
    data = measure_data(found.parts.train, found.parts.test, found.labels, found.facts)
    backbones = candidates()
    tell(f"measuring training steps of {len(backbones)} networks", wanted=progress)
    measured = measure_machine(backbones, len(found.labels.classes), fetch=request.fetch)
    left = request.seconds - (time.perf_counter() - started) - START_S
    choices = choose(data, found.labels.classes, backbones, measured, max(left, 1.0))
    files = request.files
    place, note = place_pairs(request.folder, found.layout.pairs, files)
    if note:
        found.layout.notes.append(note)
    lists = write_lists(found.parts, place, files)

    def text_of(schedule: Schedule, loading: Loading) -> str:
        heading = [
            f"{len(found.layout.pairs)} pairs ({found.layout.kind}), planned by nlseg start for",
            f"{request.seconds / 60:g} minutes on {measured.device}.",
        ]
        return config_text(
            request.folder, place, lists, found.labels, data, choices, schedule, loading, heading,
            found.parts.reason,
        )  # fmt: skip

    draft = files / "draft.py"
    first_try = Schedule(DRAFT_STEPS, choices.batch, 1, "a draft to be measured")
    write_file(draft, text_of(first_try, Loading()))
    room = measure_room(data, files, choices.train_s, on_gpu=backbones is ON_GPU)
    try:
        step, parts, loading = _measure(draft, data.num_train, room, progress=progress)
    finally:
        draft.unlink()
    left = request.seconds - (time.perf_counter() - started) - START_S - choices.test_s
    schedule = make_schedule(step, parts, choices, left)
    found.layout.notes += too_short(schedule, step, request.seconds)
    text = with_mark(text_of(schedule, loading), lists)
    shown = listing(rows_of(found, data, choices, schedule, loading))
    asked = [one.as_dict() for one in (request, first) if one is not None]
    state = {
        "asked": asked,
        "pictures": _pictures(request),
        "text": shown,
        "iterations": schedule.iterations,
    }
    write_file(files / STATE, json.dumps({**state, "tta": choices.tta}, indent=1))
    write_file(request.out, text)
    return Plan(request.out, shown, schedule.iterations, choices.tta, is_new=True)


def _measure(
    draft: Path, num_train: int, room: Room, *, progress: bool
) -> tuple[DryRun, int, Loading]:
    """Find the parts of a step that fit into memory, the time of a step, and how to load for it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they come again, at their place, when it trains
        config = load_config(draft)
        tell("trying the batch", wanted=progress)
        parts = fit_batch_size(config)
        step, loading = dry_run(config, progress=progress), Loading()
        while (other := choose_loading(loading, step, num_train, room))[:2] != loading[:2]:
            tell(f"trying to load {other.shown()}", wanted=progress)
            try:
                step = replace(step, data_s=_loading_time(config, other, draft.with_name(CACHE)))
            except DataError as error:  # such as a disk that is full by now
                return step, parts, loading._replace(reason=f"{other.reason}; but {error}")
            loading = other
        return step, parts, other


def _loading_time(config: Config, loading: Loading, folder: Path) -> float:
    """Return the seconds that a batch takes, and change the config to load so."""
    config.train_dataloader.num_workers = loading.num_workers
    if loading.is_cached:
        config.train_dataloader.dataset.update(cache="memmap", cache_dir=str(folder))
    with built(config) as runner:
        return time_loading(runner.train_loop.dataloader)[1]


def make_schedule(step: DryRun, parts: int, choices: Choices, seconds: float) -> Schedule:
    """Return as many steps as fit into the time.

    Args:
        step: What a part of a step takes, measured.
        parts: Parts of a step.
        choices: With the batch.
        seconds: Left for training.
    """
    each = step.duration_s / max(1, step.iterations)
    unit = parts * LOOKS  # whole steps between two looks
    fitting = int(MARGIN * max(seconds, 0.0) / each) // unit * unit
    iterations = max(unit, fitting)
    told = (
        f"fit into {seconds:.0f} s" if fitting else "are the fewest, and take longer than is left"
    )
    reason = f"a step takes {each:.3f} s, measured by a dry run; {iterations} of them {told}"
    if parts > 1:
        reason += f"; {choices.batch} images do not fit into memory, so {parts} parts are added up"
    return Schedule(iterations, choices.batch // parts, parts, reason)


def too_short(schedule: Schedule, step: DryRun, seconds: float) -> list[str]:
    """Say what time a training needs where few steps fit into the given one.

    Args:
        schedule: What fits.
        step: What a part of a step takes, measured.
        seconds: Time that is given for everything.
    """
    wanted = ITERATIONS * schedule.parts
    if schedule.iterations >= wanted:
        return []
    each = step.duration_s / max(1, step.iterations)
    needed = seconds + (wanted - schedule.iterations) * each / MARGIN
    minutes = math.floor(needed / 60) + 1  # more than what is given
    return [
        f"{schedule.iterations} steps are few, and the model will be weak; {ITERATIONS} take about "
        f"{minutes} minutes in all: --minutes {minutes}"
    ]


def read_folder(request: Request, *, progress: bool = True) -> _Read:
    """Find pairs, classes and splits.

    Args:
        request: What is asked for.
        progress: Say what takes a while.

    Raises:
        UserError: The folder cannot be used.
        Unclear: It can be understood in several ways.
    """
    layout, names = read_layout(request, progress=progress)
    check_names(request.folder, layout)
    files = [("image", str(pair.image)) for pair in layout.pairs]
    files += [("label", str(pair.mask)) for pair in layout.pairs]
    many = take_long([Path(path) for _, path in files])
    tell(f"reading {len(files)} files", wanted=progress and many)
    facts = survey(
        files,
        num_processes=len(os.sched_getaffinity(0)) if many else 1,
        cache_file=request.files / "facts.jsonl",
        progress=progress and many and has_screen(),
    )
    check_files(layout.pairs, facts)
    labels = read_labels(layout, facts, names, request.said)
    place = {value: i for i, value in enumerate(labels.values)}
    present = {
        pair: frozenset(
            place[v] for v, _ in values_of(facts["label", str(pair.mask)]) if v in place
        )
        for pair in layout.pairs
    }
    empty = [pair for pair in layout.pairs if not present[pair]]
    if empty:
        layout.notes.append(f"{len(empty)} masks hold nothing that counts, such as {empty[0].mask}")
        layout.pairs = [pair for pair in layout.pairs if present[pair]]
    leave_out_copies(layout, facts)
    made = set(layout.splits()) <= {"train"}
    told = f"looking for similar frames among {len(layout.pairs)} images"
    tell(told, wanted=progress and many and made)
    small = {pair: small_picture(pair.image) for pair in layout.pairs} if made else None
    parts = split_pairs(layout, request.test, present, small)
    layout.notes += parts.notes
    return _Read(layout, labels, parts, facts)


def check_names(folder: Path, layout: Layout) -> None:
    """Refuse names that are no text: lists and configs cannot hold them.

    Raises:
        DataError: Names the first such file.
    """
    for path in (folder.resolve(), *(path for pair in layout.pairs for path in pair[1:3])):
        written = os.fsencode(path)
        try:
            written.decode("utf-8")
        except UnicodeDecodeError:
            shown = written.decode("utf-8", "backslashreplace")
            raise DataError(f"{shown}: its name is not UTF-8; rename it") from None


def leave_out_copies(layout: Layout, facts: Mapping[tuple[str, str], Facts]) -> None:
    """Leave out images with the pixels of another one: they could train and be tested.

    Raises:
        DataError: A given split has the same image for training and for a test.
    """
    seen: dict[str, Pair] = {}
    copies = []
    for pair in layout.pairs:
        first = seen.setdefault(facts["image", str(pair.image)]["sha"], pair)
        if first.split != pair.split:
            raise DataError(
                f"{pair.image}: is the same picture as {first.image}, one in {pair.split}, one in "
                f"{first.split}; take it out of one of the two"
            )
        if first is not pair:
            copies.append(pair)
    if copies:
        first = seen[facts["image", str(copies[0].image)]["sha"]]
        layout.notes.append(
            f"{len(copies)} copies of other images are left out, such as {copies[0].image} of "
            f"{first.image}"
        )
        layout.pairs = [pair for pair in layout.pairs if pair not in copies]


def batch_reason(choices: Choices, schedule: Schedule) -> str:
    """Return what the probe of the memory found."""
    usual = f"{ON_CPU[0].batch} on a CPU, {ON_GPU[0].batch} on a GPU"
    told = f"{choices.batch} images a step ({usual})"
    if schedule.parts == 1:
        return f"{told}: they fit into memory, by a probe"
    return f"{told}: {schedule.batch} at once are the most that fit into memory, by a probe"


def rows_of(
    found: _Read, data: DataFacts, choices: Choices, schedule: Schedule, loading: Loading
) -> list[tuple[str, str, str]]:
    """Return the rows of a plan: what, which value, and why."""
    labels, why = found.labels, choices.reasons
    ignored = f"; ignored: {', '.join(map(show_value, labels.ignored))}" * bool(labels.ignored)
    named = [f"{show_value(v)} {n}" for v, n in zip(labels.values, labels.classes, strict=True)]
    listed = ", ".join(named[:12]) + (f" and {len(named) - 12} more" if len(named) > 12 else "")
    network = (
        f"{choices.backbone.name}, {'published weights' if choices.pretrained else 'from scratch'}"
    )
    mean = ", ".join(f"{level:g}" for level in choices.mean)
    std = ", ".join(f"{level:g}" for level in choices.std)
    parts = found.parts
    look = f"{len(parts.val)} val, " * (parts.val != parts.test)
    rows = [
        ("data", f"{len(found.layout.pairs)} pairs of {shown_size(data.size)}", found.layout.kind),
        ("classes", f"{len(labels.classes)}: {listed}{ignored}", "; ".join(labels.reasons)),
        ("split", f"{data.num_train} train, {look}{data.num_test} test", parts.reason),
        ("scale", f"{choices.scale:g}: {shown_size(choices.image_size)}", why["scale"]),
        ("normalisation", f"mean {mean}; std {std}", why["normalisation"]),
        ("network", network, f"{why['backbone']}; {why['weights']}"),
        ("crop", shown_size(choices.crop), why["crop"]),
        ("loss", {"ce": "cross-entropy", "ce+dice": "cross-entropy + Dice"}[choices.loss],
         why["loss"]),
        ("batch", f"{schedule.batch} x {schedule.parts}", batch_reason(choices, schedule)),
        ("loading", loading.shown(), loading.reason),
        ("schedule", f"{schedule.iterations} steps, rate {choices.rate:g}", schedule.reason),
        ("test", "with flipped images" if choices.tta else "each image once", why["tta"]),
    ]  # fmt: skip
    if choices.rare:
        rows.insert(8, ("rare classes", f"{len(choices.rare)}", why["rare"]))
    return rows + [("note", note, "") for note in found.layout.notes]
