"""Runs on a folder that two nodes share as on a network file system, and what goes wrong there."""

import signal
import threading
from collections.abc import Callable
from pathlib import Path

from tests.faults.forked import Child, Outcome, resumed
from tests.nodes import runs
from tests.nodes.cluster import Cluster
from tests.nodes.shared import SharedFolder

Harm = Callable[[SharedFolder], None]
_STOP_AFTER = 6


def stop_and_go_on(
    folder: Path,
    reference: Path,
    *,
    late_s: float = 0.0,
    amid: Harm = lambda shared: None,
    before_resume: Harm = lambda shared: None,
) -> Outcome:
    """Train on two mounts, ask one node to stop, and go on at once.

    Args:
        folder: For this run.
        reference: An undisturbed run.
        late_s: Seconds after which a node sees what another one has made.
        amid: Done after three iterations.
        before_resume: Done between the two parts of the run.
    """
    outcome = Outcome("", injected=1)
    with Cluster(2, folder) as cluster, SharedFolder(folder, cluster.nodes, late_s) as shared:
        config = runs.config_of(
            shared.place / "work", custom_hooks=runs.HOOKS_OF_A_RUN,
            **{"env_cfg.dist_cfg.timeout": 60},
        )  # fmt: skip
        children = runs.start(config, cluster.nodes)
        children[0].wait_for_beats(3)
        amid(shared)
        _stop(children[1])
        codes = runs.end(children)
        work = shared.files / "work"
        told = runs.log(shared.place / "work")
        before_resume(shared)
        logs = shared.place / "work"
        again = runs.end(runs.start(resumed(config), cluster.nodes))
    try:
        assert codes == [143, 143], f"exit codes {codes}: {told}"
        assert "no locks" in told, told
        assert again == [0, 0], f"exit codes {again}: {runs.log(logs)}"
        assert "resumed" in runs.log(logs)
        runs.assert_ended_alike(reference, work)
        outcome.survived = 1
    except AssertionError as error:
        outcome.notes.append(str(error)[-2000:])
    return outcome


def _stop(child: Child) -> None:
    assert child.wait_for_beats(_STOP_AFTER - 3), "had ended before"
    child.signal(signal.SIGTERM)


def be_away(seconds: float, shared: SharedFolder) -> None:
    """Let the server answer nothing for some seconds."""
    shared.away()
    threading.Timer(seconds, shared.back).start()
