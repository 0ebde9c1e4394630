"""Do the parts of a model fit each other, its input and the classes of the data?"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nlseg.config.class_weight import AUTO
from nlseg.config.origin import KeyPath
from nlseg.config.parts import Problem, datasets_of, error, heads_of, parts_below, warning
from nlseg.config.places import at
from nlseg.structures import IGNORE_INDEX

RESNETS = ("ResNet", "ResNetV1c", "ResNetV1d")
TIMM = "TIMMBackbone"
EXPANSION = {18: 1, 34: 1, 50: 4, 101: 4, 152: 4}


def check_model(config: Any) -> Iterator[Problem]:
    """Compare the parts of the model with each other and with the data.

    Args:
        config: A resolved config.

    Yields:
        Errors and warnings.
    """
    if not isinstance(config.get("model"), dict):
        return
    heads = heads_of(config)
    yield from _check_class_counts(config, heads)
    yield from _check_class_weights(heads)
    yield from _check_single_logit(heads)
    yield from _check_timm(config)
    yield from _check_channels(config, heads)
    yield from _check_alignment(heads)
    yield from _check_ignored(config, heads)
    yield from _check_pretrained(config)
    yield from _check_windows(config)


Heads = list[tuple[KeyPath, Any]]


def _check_class_counts(config: Any, heads: Heads) -> Iterator[Problem]:
    """All heads, and every data set, count the same classes."""
    counts = [(path, head["num_classes"]) for path, head in heads if "num_classes" in head]
    if not counts:
        return
    first_path, first = counts[0]
    for path, count in counts[1:]:
        if count != first:
            yield error((*path, "num_classes"), f"{count}, but {first_path[1]} has {first}")
    for name, classes in datasets_of(config):
        if classes > first:
            text = f"{first}, but {name} has {classes} classes"
            yield error((*first_path, "num_classes"), text)
        elif classes < first:
            text = f"{first}, but {name} has only {classes} classes"
            yield warning((*first_path, "num_classes"), text)


def _check_class_weights(heads: Heads) -> Iterator[Problem]:
    for path, head in heads:
        for inner, loss in parts_below(head.get("loss_decode"), (*path, "loss_decode")):
            weights, classes = loss.get("class_weight"), head.get("num_classes")
            if isinstance(weights, (list, tuple)) and classes and len(weights) != classes:
                text = f"{len(weights)} weights for {classes} classes"
                yield error((*inner, "class_weight"), text)
            if isinstance(weights, str) and weights != AUTO and not Path(weights).is_file():
                text = f"there is no file {weights!r}; 'auto' counts weights in the training data"
                yield error((*inner, "class_weight"), text)
            if weights == AUTO and 1 in (head.get("out_channels"), classes):
                text = "'auto' weighs classes against each other, but there is one logit"
                yield error((*inner, "class_weight"), text)


def _check_single_logit(heads: Heads) -> Iterator[Problem]:
    """A softmax over one logit is always 1 and has no class 1."""
    for path, head in heads:
        if head.get("out_channels") != 1 or head.get("num_classes") == 1:
            continue
        for inner, loss in parts_below(head.get("loss_decode", {}), (*path, "loss_decode")):
            kind = loss.get("type", "CrossEntropyLoss")
            if kind == "CrossEntropyLoss" and not loss.get("use_sigmoid"):
                text = "False, but out_channels=1 gives one logit: set use_sigmoid=True"
                yield error((*inner, "use_sigmoid"), text)


def stage_channels(backbone: Any) -> list[int] | None:
    """Return the channels of a backbone's outputs.

    Args:
        backbone: Its config.

    Returns:
        One number for each of ``out_indices``; None where they are not known.
    """
    if backbone.get("type") == TIMM:
        from nlseg.models.timm_backbone import map_facts, refusal

        maps = None if refusal(backbone) else map_facts(backbone)
        return None if maps is None else maps.channels
    expansion = EXPANSION.get(backbone.get("depth", 0))
    if backbone.get("type") not in RESNETS or expansion is None:
        return None
    base = backbone.get("base_channels", 64)
    stages = backbone.get("out_indices", range(backbone.get("num_stages", 4)))
    return [base * 2**stage * expansion for stage in stages]


def _check_timm(config: Any) -> Iterator[Problem]:
    """A network of timm exists, takes its arguments, and is not given another one's weights."""
    model = config["model"]
    backbone = model.get("backbone") or {}
    if backbone.get("type") != TIMM:
        return
    from nlseg.models.timm_backbone import refusal

    if model.get("pretrained") is not None:
        text = (
            f"{model['pretrained']!r} is for another backbone; set it to None: {TIMM} has "
            "'pretrained' and 'checkpoint_path'"
        )
        yield error(("model", "pretrained"), text)
    refused = refusal(backbone)
    if refused is not None:
        yield error(("model", "backbone", refused[0]), refused[1])


def _check_channels(config: Any, heads: Heads) -> Iterator[Problem]:
    """Each head reads an output that exists and has the channels that the head expects."""
    model = config["model"]
    channels = stage_channels(model.get("backbone") or {})
    if channels is None or model.get("neck"):
        return
    for path, head in heads:
        index, wanted = head.get("in_index", -1), head.get("in_channels")
        indices = index if isinstance(index, (list, tuple)) else (index,)
        outside = [i for i in indices if not -len(channels) <= i < len(channels)]
        if outside:
            text = f"{outside[0]}, but the backbone has {len(channels)} outputs (out_indices)"
            yield error((*path, "in_index"), text)
            continue
        given = tuple(wanted) if isinstance(wanted, (list, tuple)) else (wanted,)
        found = tuple(channels[i] for i in indices)
        if wanted is not None and given != found:
            text = f"{wanted}, but output {index} of the backbone has {_plain(found)} channels"
            yield error((*path, "in_channels"), text)


def _plain(items: tuple[int, ...]) -> Any:
    return items[0] if len(items) == 1 else items


def _check_alignment(heads: Heads) -> Iterator[Problem]:
    values = [(path, head.get("align_corners", False)) for path, head in heads]
    for path, value in values[1:]:
        if value != values[0][1]:
            text = f"{value}, but {values[0][0][1]} has {values[0][1]}: heads resize differently"
            yield warning((*path, "align_corners"), text)


def _check_ignored(config: Any, heads: Heads) -> Iterator[Problem]:
    """What pads labels is what the heads ignore."""
    preprocessor = at(config, ("model", "data_preprocessor")) or {}
    padding = preprocessor.get("seg_pad_val", IGNORE_INDEX)
    for path, head in heads:
        ignored = head.get("ignore_index", IGNORE_INDEX)
        if ignored != padding:
            text = f"{ignored}, but data_preprocessor.seg_pad_val is {padding}: padding would train"
            yield error((*path, "ignore_index"), text)


def _check_pretrained(config: Any) -> Iterator[Problem]:
    """The name of a published weight file says which depth it is for."""
    weights, backbone = at(config, ("model", "pretrained")), at(config, ("model", "backbone")) or {}
    named = re.search(r"resnet(\d+)", weights) if isinstance(weights, str) else None
    if named and backbone.get("depth") not in (None, int(named[1])):
        text = f"{weights!r} is for depth {named[1]}, but the backbone has {backbone['depth']}"
        yield error(("model", "pretrained"), text)


def _check_windows(config: Any) -> Iterator[Problem]:
    """Sliding windows leave no gap."""
    settings = at(config, ("model", "test_cfg")) or {}
    if settings.get("mode") != "slide":
        return
    missing = [key for key in ("crop_size", "stride") if not settings.get(key)]
    if missing:
        text = f"mode 'slide' needs {' and '.join(map(repr, missing))}, (height, width) in px"
        yield error(("model", "test_cfg", "mode"), text)
        return
    window, stride = settings["crop_size"], settings["stride"]
    if any(step > side for step, side in zip(stride, window, strict=False)):
        text = f"steps of {tuple(stride)} leave gaps between windows of {tuple(window)}"
        yield error(("model", "test_cfg", "stride"), text)
