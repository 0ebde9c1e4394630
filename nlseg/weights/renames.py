"""Backbones of other libraries: the same networks under other names."""

import re
from collections.abc import Mapping

from torch import Tensor, nn


def as_own_names(weights: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Rename the weights of another library's ResNet where the model has them under another name.

    torchvision and timm name a plain ResNet as it is named here. timm's deep stem (``resnet50c``,
    ``resnet50d``) is a ``conv1`` of several layers with ``bn1`` behind it; here both are ``stem``.

    Args:
        weights: By their names in the file.
        model: The backbone that takes them.
    """
    own = model.state_dict()
    if "conv1.0.weight" not in weights or "stem.0.weight" not in own:
        return dict(weights)
    return {re.sub(r"^bn1\.", "stem.7.", _stem(key)): value for key, value in weights.items()}


def _stem(key: str) -> str:
    return re.sub(r"^conv1\.(?=\d+\.)", "stem.", key)
