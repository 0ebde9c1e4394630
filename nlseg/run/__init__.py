"""Everything that knows about a run: config, processes, loops, checkpoints, hooks, the runner."""

from nlseg.run import eval_loops, hooks, loops, optim, runner

__all__ = ["eval_loops", "hooks", "loops", "optim", "runner"]
