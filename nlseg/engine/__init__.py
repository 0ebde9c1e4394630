"""Everything that knows about a run: config, processes, loops, checkpoints, hooks, the runner."""

from nlseg.engine import hooks, runner
from nlseg.engine.training import eval_loops, loops, optim

__all__ = ["eval_loops", "hooks", "loops", "optim", "runner"]
