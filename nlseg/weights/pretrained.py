"""The weight initializer ``Pretrained``, which reads through this room's one guarded reader."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import mmengine.model
from mmengine.logging import print_log
from torch import Tensor, nn

from nlseg.errors import CheckpointError
from nlseg.registry import WEIGHT_INITIALIZERS
from nlseg.weights.files import read_checkpoint
from nlseg.weights.fitting import load_what_fits, weights_in
from nlseg.weights.renames import as_own_names


@WEIGHT_INITIALIZERS.register_module(name="Pretrained")
class PretrainedInit:
    """Start a module from the weights of a file that fit, and log which did.

    Args:
        checkpoint: File, https address, published name, or ``hf://OWNER/NAME[@REVISION]``.
        prefix: Only keys that begin with it are used, without it: ``'backbone.'`` takes the
            backbone out of a whole segmentor's file.
        map_location: Kept for configs that give it; weights are read to the host.
    """

    def __init__(
        self, checkpoint: str, prefix: str | None = None, map_location: str = "cpu"
    ) -> None:
        self.checkpoint, self.prefix, self.map_location = checkpoint, prefix, map_location

    def __call__(self, module: nn.Module) -> None:
        """Load the weights.

        Raises:
            CheckpointError: The file cannot be read, or nothing in it fits.
        """
        weights = weights_in(read_checkpoint(self.checkpoint), self.checkpoint)
        if self.prefix is not None:
            weights = _below(self.prefix, weights, self.checkpoint)
        weights = as_own_names(weights, module)
        print_log(load_what_fits(module, weights, self.checkpoint), logger="current")
        with suppress(AssertionError):  # there is no record of who filled what outside init_weights
            mmengine.model.update_init_info(module, f"PretrainedInit: load from {self.checkpoint}")


def _below(prefix: str, weights: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    prefix = prefix.rstrip(".") + "."
    found = {key.removeprefix(prefix): w for key, w in weights.items() if key.startswith(prefix)}
    if not found:
        starts = sorted({key.split(".")[0] for key in weights})
        raise CheckpointError(
            f"{source}: no weight begins with the prefix '{prefix}'; they begin with "
            f"{', '.join(starts[:8])}"
        )
    return found


def use_own_reader(model: nn.Module) -> None:
    """Make every ``Pretrained`` in the ``init_cfg`` of a model's modules mean ``PretrainedInit``.

    mmengine looks an initializer up in the default scope, whichever that is, and its own
    ``Pretrained`` reads pickles with fewer guards. The order in which a module is filled stays:
    ``Pretrained`` comes last.

    Args:
        model: A model before its ``init_weights``; modules of a user's are covered like ours.
    """
    for module in model.modules():
        _redirect(getattr(module, "init_cfg", None))


def _redirect(init_cfg: Any) -> None:
    if isinstance(init_cfg, (list, tuple)):
        for entry in init_cfg:
            _redirect(entry)
    if not isinstance(init_cfg, dict):
        return
    kind = init_cfg.get("type")
    package, _, name = kind.rpartition(".") if isinstance(kind, str) else ("", "", "")
    named = name in ("Pretrained", "PretrainedInit") and package.split(".")[0] in ("", "mmengine")
    if named or kind in (mmengine.model.PretrainedInit, PretrainedInit):
        init_cfg.update(type="Pretrained", _scope_=WEIGHT_INITIALIZERS.scope)
    _redirect(init_cfg.get("override"))
