"""Everything that knows about a run: processes, loops, checkpoints, hooks, the runner."""

from nlseg.run import hooks, loop, runner, save, step

__all__ = ["hooks", "loop", "runner", "save", "step"]
