"""Everything that knows about a run: processes, loops, checkpoints, hooks, the runner."""

from nlseg.run import eval_loop, half, hooks, loop, runner, save, step, symptoms

__all__ = ["eval_loop", "half", "hooks", "loop", "runner", "save", "step", "symptoms"]
