"""Everything that knows about a run: processes, loops, checkpoints, hooks, the runner."""

from nlseg.run import back_ends, eval_loop, half, hooks, loop, runner, save, step, symptoms

__all__ = ["back_ends", "eval_loop", "half", "hooks", "loop", "runner", "save", "step", "symptoms"]
