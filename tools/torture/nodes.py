"""Several nodes, as network namespaces on one machine: their cables, their clocks, themselves."""

from collections.abc import Callable
from functools import partial
from typing import Any

from tests.faults.forked import Outcome
from tests.nodes import cluster, faults, runs
from torture.rows import Fault, Group, Setting


def stays(harm: faults.Harm, setting: Setting, **options: Any) -> Outcome:
    """Harm a run that is to end as if nothing had happened."""
    return faults.carry_on(setting.folder, setting.reference, harm, **options)


def stops(harm: faults.Harm, setting: Setting, killed: int | None = None) -> Outcome:
    """Harm a run that is to stop with its cause and to go on later."""
    return faults.stop_and_resume(setting.folder, setting.reference, harm, killed)


def told(fault: Callable[..., Outcome], setting: Setting, **options: Any) -> Outcome:
    """Do what a function of ``faults`` does alone."""
    return fault(setting.folder, setting.reference, **options)


_IPTABLES, _TC, _GCC = (partial(cluster.without, name) for name in ("iptables", "tc", "gcc"))

GROUP = Group(
    "several nodes",
    [
        Fault("link down for 5 s", partial(stays, faults.down_for_5_s)),
        Fault(
            "30 % of packets dropped",
            partial(stays, lambda c: c.nodes[1].drop(0.3), group_limit_s=300),
            short=False, missing=_IPTABLES,
        ),
        Fault("1 Mbit/s", partial(stays, lambda c: c.nodes[1].slow_down("1mbit")), missing=_TC),
        Fault(
            "200 ms delay", partial(stays, lambda c: None, delay_s=0.2, group_limit_s=60),
            short=False,
        ),
        Fault("link down for ever", partial(stops, lambda c: c.nodes[1].cable(plugged=False))),
        Fault(
            "one node killed", partial(stops, partial(faults.kill_node, 1), killed=1), short=False
        ),
        Fault("first node killed", partial(stops, partial(faults.kill_node, 0), killed=0)),
        Fault(
            "clocks 10 min apart, Slurm's variables",
            partial(told, faults.set_clocks_apart, launcher="slurm"),
            short=False, missing=_GCC,
        ),
        Fault(
            "clocks 10 min apart, torchrun, patient",
            partial(told, faults.set_clocks_apart, launcher="pytorch"),
            short=False, missing=_GCC,
        ),
        Fault("torchrun: one node killed and back", partial(told, faults.lose_node), short=False),
        Fault(
            "torchrun: first node killed", partial(told, faults.lose_first_node), short=False
        ),
        Fault(
            "torchrun: SIGTERM to one node", partial(told, faults.ask_one_node_to_stop),
            short=False,
        ),
        Fault(
            "torchrun 1:3: one of three killed, then back", partial(told, faults.shrink_and_grow),
            short=False,
        ),
    ],
    prepare=runs.undisturbed,
    missing=cluster.missing,
)  # fmt: skip
