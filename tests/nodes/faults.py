"""What happens to nodes and to the network between them, and how a run takes it."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from nlseg.run import checkpoint
from tests.faults.forked import Outcome, resumed
from tests.nodes import jobs, runs
from tests.nodes.cluster import Cluster
from tests.run.real_processes import ROOT

Harm = Callable[[Cluster], None]


def carry_on(
    folder: Path, reference: Path, harm: Harm, *, delay_s: float = 0.0, group_limit_s: float = 15
) -> Outcome:
    """Harm a training of two nodes that is to end as if nothing had happened.

    Args:
        folder: For this run.
        reference: An undisturbed run.
        harm: Done after three iterations.
        delay_s: Of each packet, from the beginning.
        group_limit_s: How long a process waits for another one.
    """
    outcome = Outcome("", injected=1)
    work = folder / "work"
    with Cluster(2, folder, delay_s) as cluster:
        children = runs.start(
            runs.config_of(work, **{"env_cfg.dist_cfg.timeout": group_limit_s}), cluster.nodes
        )
        children[0].wait_for_beats(3)
        assert not any(child.has_ended() for child in children)
        started = time.monotonic()
        harm(cluster)
        codes = runs.end(children, 240 + group_limit_s)
    outcome.notes.append(f"ended {time.monotonic() - started:.0f} s later")
    return _judge(outcome, lambda: _ended_well(codes, [0, 0], work, reference))


def _ended_well(codes: list[int], expected: list[int], work: Path, reference: Path) -> None:
    assert codes == expected, f"exit codes {codes}: {runs.log(work)}"
    runs.assert_ended_alike(reference, work)


def _judge(outcome: Outcome, check: Callable[[], None]) -> Outcome:
    try:
        check()
        outcome.survived = outcome.injected
    except AssertionError as error:
        outcome.notes.append(str(error)[-2000:])
    return outcome


def unplug_for(seconds: float, cluster: Cluster) -> None:
    """Pull the cable of the second node, and plug it in again."""
    cluster.nodes[1].cable(plugged=False)
    time.sleep(seconds)
    cluster.nodes[1].cable(plugged=True)


def stop_and_resume(
    folder: Path, reference: Path, harm: Harm, killed: int | None = None
) -> Outcome:
    """Harm a training of two nodes for good: it is to stop, say why, and to go on later.

    Args:
        folder: For this run.
        reference: An undisturbed run.
        harm: Done after six iterations.
        killed: Number of the node that is killed; None where none is.
    """
    outcome = Outcome("", injected=1)
    config = runs.config_of(folder / "work")
    with Cluster(2, folder / "before") as cluster:
        children = runs.start(config, cluster.nodes)
        children[0].wait_for_beats(6)
        assert not any(child.has_ended() for child in children)
        started = time.monotonic()
        harm(cluster)
        codes = runs.end(children, 4 * runs.GROUP_LIMIT_S)
    outcome.notes.append(f"stopped {time.monotonic() - started:.0f} s later")
    told = runs.log(folder / "work")
    expected = [-signal.SIGKILL if number == killed else 1 for number in range(2)]

    def check() -> None:
        assert codes == expected, f"exit codes {codes}: {told}"
        assert told.count("cannot be reached") >= expected.count(1), told
        assert "Traceback" not in told, told
        assert checkpoint.newest(folder / "work")[0] is not None
        with Cluster(2, folder / "after") as cluster:
            again = runs.end(runs.start(resumed(config), cluster.nodes))
        _ended_well(again, [0, 0], folder / "work", reference)

    return _judge(outcome, check)


def set_clocks_apart(folder: Path, reference: Path, launcher: str) -> Outcome:
    """Train on two nodes, the clock of one of which is ten minutes fast."""
    outcome = Outcome("", injected=1)
    work = folder / "work"
    config = runs.config_of(work, launcher=launcher)
    folder.mkdir(parents=True, exist_ok=True)
    clock = folder / "clock.so"
    compiler = ["gcc", "-O1", "-shared", "-fPIC", str(ROOT / "tests/nodes/clock.c"), "-o"]
    subprocess.run([*compiler, str(clock)], check=True, timeout=60)
    ahead = {"LD_PRELOAD": str(clock), "CLOCK_AHEAD_S": "600"}
    with Cluster(2, folder) as cluster:
        if launcher == "pytorch":
            patient = {"RDZV_CONF": "keep_alive_max_attempt=200"}
            job = jobs.training(folder, config, "2", **patient)
            job.start(cluster.nodes[0])
            job.start(cluster.nodes[1], **ahead)
        else:
            job = jobs.slurm_step(folder, config)
            job.start(cluster.nodes[0], **runs.slurm_says(0, 2))
            job.start(cluster.nodes[1], **runs.slurm_says(1, 2), **ahead)
        codes = job.end(200)

    def check() -> None:
        assert codes == [0, 0], f"exit codes {codes}: {job.output()[-3000:]}"
        runs.assert_ended_alike(reference, work)

    return _judge(outcome, check)


def lose_node(folder: Path, reference: Path) -> Outcome:
    """Kill the second of two nodes and start it again, as a cluster's scheduler would."""
    outcome = Outcome("", injected=1)
    work = folder / "work"
    with Cluster(2, folder) as cluster:
        job = jobs.training(folder, runs.config_of(work), "2")
        job.start(*cluster.nodes)
        jobs.wait_for_iteration(work, 6)
        cluster.nodes[1].kill()
        job.start(cluster.nodes[1])
        codes = job.end(200)

    def check() -> None:
        assert codes == [0, 0], f"exit codes {codes}: {job.output()[-3000:]}"
        assert "resumed" in job.output()
        runs.assert_ended_alike(reference, work)

    return _judge(outcome, check)


def lose_first_node(folder: Path, reference: Path) -> Outcome:
    """Kill the node that keeps torchrun's meeting point: the other one stops, both resume."""
    outcome = Outcome("", injected=1)
    work = folder / "work"
    config = runs.config_of(work)
    with Cluster(2, folder / "before") as cluster:
        job = jobs.training(folder, config, "2")
        job.start(*cluster.nodes)
        jobs.wait_for_iteration(work, 6)
        started = time.monotonic()
        cluster.nodes[0].kill()
        codes = job.end(180)
        told = job.output(cluster.nodes[1])
    outcome.notes.append(f"stopped {time.monotonic() - started:.0f} s later")

    def check() -> None:
        assert codes[1] not in (0, None), f"exit codes {codes}: {told[-3000:]}"
        assert "cannot be reached" in told, told[-3000:]
        with Cluster(2, folder / "after") as cluster:
            job = jobs.training(folder, config, "2", "--resume")
            job.start(*cluster.nodes)
            assert job.end(180) == [0, 0], job.output()[-3000:]
        runs.assert_ended_alike(reference, work)

    return _judge(outcome, check)


def ask_one_node_to_stop(folder: Path, reference: Path) -> Outcome:
    """Send SIGTERM to the script on one of two nodes: both save, leave with 143, and resume."""
    outcome = Outcome("", injected=1)
    work = folder / "work"
    config = runs.config_of(work)
    with Cluster(2, folder) as cluster:
        job = jobs.training(folder, config, "2")
        job.start(*cluster.nodes)
        jobs.wait_for_iteration(work, 6)
        started = time.monotonic()
        script = Path(f"/proc/{job.running['node1'].pid}/task/{job.running['node1'].pid}/children")
        os.kill(int(script.read_text().split()[0]), signal.SIGTERM)  # what `timeout` has started
        codes = job.end(120)
        outcome.notes.append(f"stopped {time.monotonic() - started:.0f} s later")
        first = job.output()
        again = jobs.training(folder, config, "2", "--resume")
        again.start(*cluster.nodes)
        after = again.end(180)

    def check() -> None:
        assert codes == [143, 143], f"exit codes {codes}: {first[-3000:]}"
        assert after == [0, 0], f"exit codes {after}: {again.output()[-3000:]}"
        runs.assert_ended_alike(reference, work)

    return _judge(outcome, check)


def shrink_and_grow(folder: Path, reference: Path) -> Outcome:
    """Kill one of three nodes of a job that may have one to three, and start it again later.

    The run must go on from its newest checkpoint each time, see every sample once, and end.
    """
    outcome = Outcome("", injected=2)
    work = folder / "work"
    hooks = [{"type": "Pause", "seconds": 1.0}, {"type": "Progress"}]
    config = runs.config_of(
        work, processes=2, custom_hooks=hooks,
        **{"train_cfg.max_iters": 80, "train_cfg.val_interval": 80,
           "env_cfg.dist_cfg.timeout": 60},
    )  # fmt: skip
    with Cluster(3, folder) as cluster:
        job = jobs.training(folder, config, "1:3", MAX_RESTARTS="5")
        job.start(*cluster.nodes, limit_s=580)
        jobs.wait_for_iteration(work, 6, 200)
        cluster.nodes[2].kill()
        newest = checkpoint.newest(work)[0]
        assert newest is not None
        (work / "progress").unlink()
        jobs.wait_for_iteration(work, 10, 200)  # with two nodes
        job.start(cluster.nodes[2], limit_s=400)
        codes = job.end(300)

    def check() -> None:
        told = job.output()
        assert codes == [0, 0, 0], f"exit codes {codes}: {told[-3000:]}"
        assert told.count("resumed") >= 2, told[-3000:]
        assert not list(work.glob("before_*"))
        last = runs.final(work, "iter_80.pth")
        outcome.notes.append(f"{last['meta']['samples']} samples in 80 iterations")

    return _judge(outcome, check)


def kill_node(number: int, cluster: Cluster) -> None:
    """Kill all processes of a node."""
    cluster.nodes[number].kill()


down_for_5_s = partial(unplug_for, 5)
