"""Two nodes on two mounts of one folder, which behaves like one of a network file system."""

from functools import partial

from tests.faults.forked import Outcome
from tests.nodes import cluster, runs, shared, shared_faults
from torture.rows import Fault, Group, Setting


def go_on(setting: Setting, **options: object) -> Outcome:
    """Train, stop and resume on the shared folder."""
    return shared_faults.stop_and_go_on(setting.folder, setting.reference, **options)


GROUP = Group(
    "two nodes on a shared folder without locks, names and attributes cached for 30 s",
    [
        Fault("one node asked to stop, resumed", go_on, short=False),
        Fault("new files and renames seen 4 s late", partial(go_on, late_s=4.0)),
        Fault("ESTALE amid training", partial(go_on, amid=lambda f: f.go_stale(4)), short=False),
        Fault("ESTALE at the resume", partial(go_on, before_resume=lambda f: f.go_stale(6))),
        Fault(
            "server away for 20 s", partial(go_on, amid=partial(shared_faults.be_away, 20)),
            short=False,
        ),
    ],
    prepare=runs.undisturbed,
    missing=lambda: cluster.missing() or shared.missing(),
)  # fmt: skip
