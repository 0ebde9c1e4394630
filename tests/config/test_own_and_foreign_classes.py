"""Our classes say what they take, to a config and to Python; classes of others are theirs."""

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import MODEL_WRAPPERS, OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from nlseg.config.check import check_config
from nlseg.config.load import load_config, trace_of
from nlseg.config.scope import rename_scope
from nlseg.datasets.transforms import ResizeToMultiple
from nlseg.errors import ConfigError, nearest
from nlseg.registry import (
    DATA_SAMPLERS,
    DATASETS,
    EVALUATOR,
    FUNCTIONS,
    HOOKS,
    LOOPS,
    METRICS,
    MODELS,
    OPTIM_WRAPPERS,
    TASK_UTILS,
    TRANSFORMS,
    VISUALIZERS,
)
from nlseg.run.build import build_dataloader
from tests.cases import each_case
from tests.config.test_config_checks import NONLOCAL

FCN = {"type": "FCNHead", "in_channels": 8, "channels": 4, "num_classes": 3}
BACKBONE = {"type": "ResNetV1c", "depth": 18}
SCALE = {"cfg": {"type": "ContextBlock", "ratio": 0.5}, "position": "after_conv2"}


def transforms(*steps: dict[str, Any]) -> dict[str, Any]:
    dataset = {"type": "BaseSegDataset", "pipeline": list(steps)}
    return {"train_dataloader": {"dataset": dataset}}


def told(content: dict[str, Any]) -> str:
    """Return what the check of names and values says, errors and warnings."""
    config = Config(content)
    try:
        found = list(map(str, check_config(config, trace_of(config), allow_unknown=True)))
    except ConfigError as error:
        found = str(error).split("\nthe config: ")
    return "\n".join(text for text in found if "is given without" not in text)


@each_case(
    "registry, built, argument",
    [
        (MODELS, {**FCN, "num_convs": -1}, "num_convs"),
        (MODELS, {**FCN, "dropout_ratio": -0.5}, "dropout_ratio"),
        (MODELS, {**FCN, "channels": 0}, "channels"),
        (MODELS, {**FCN, "in_channels": (8, 0), "in_index": (0, 1)}, "in_channels"),
        (MODELS, {**BACKBONE, "plugins": [{**SCALE, "stages": (True, False)}]}, "plugins"),
        (MODELS, {**BACKBONE, "plugins": [{"cfg": SCALE["cfg"]}]}, "position"),
        (MODELS, {**BACKBONE, "strides": (1, 2, 2)}, "strides"),
        (MODELS, {"type": "CrossEntropyLoss", "class_weight": [1.0, -1.0]}, "class_weight"),
        (TRANSFORMS, {"type": "RandomRotate", "prob": 0.5, "degree": -10}, "degree"),
        (TRANSFORMS, {"type": "RandomCutOut", "prob": 1, "n_holes": (5, 3), "cutout_shape": (2, 2)},
         "n_holes"),
        (TRANSFORMS, {"type": "CLAHE", "tile_grid_size": (8, 8, 8)}, "tile_grid_size"),
        (TRANSFORMS, {"type": "RandomFlip", "prob": (0.7, 0.7)}, "prob"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_from_a_config_and_from_python(
    registry: Any, built: dict[str, Any], argument: str
) -> None:
    name = str(built["type"])
    arguments = {key: value for key, value in built.items() if key != "type"}
    with pytest.raises(ConfigError, match=rf"{name}\..*{argument}|without '{argument}'"):
        registry.get(name)(**arguments)
    message = told({"model": {"type": "EncoderDecoder", "backbone": {**BACKBONE, **built},
                              "decode_head": FCN}} if registry is MODELS and "Res" in name
                   else {"model": built} if registry is MODELS else transforms(built))  # fmt: skip
    assert argument in message
    assert f"{name} wants" in message or f"{name}: " in message or "plugins wants" in message


def test_python_lists_become_the_tuples_that_the_class_wants() -> None:
    crop = TRANSFORMS.build({"type": "RandomCrop", "crop_size": [8, 4]})
    assert crop.crop_size == (8, 4)
    holes = {"prob": 1, "n_holes": 1, "cutout_shape": [[2, 2], [4, 4]]}
    assert TRANSFORMS.get("RandomCutOut")(**holes).candidates == [(2, 2), (4, 4)]
    scales = TRANSFORMS.get("RandomChoiceResize")(scales=[[8, 4], [16, 8]])
    assert scales.scales == [(8, 4), (16, 8)]


def test_a_rule_over_several_arguments_is_asked_of_parents_too() -> None:
    content = {"model": {**BACKBONE, "num_stages": 2, "strides": (1, 2), "dilations": (1, 1)}}
    assert "out_indices" in told(content)
    content["model"]["out_indices"] = (0, 1)
    assert told(content) == ""


class ShapedLoss(nn.Module):
    def __init__(self, alpha: float = 1.0, gamma: float = 1.0, std: float = None) -> None:  # noqa: RUF013 - as users write it
        super().__init__()


class Shake:
    def __init__(
        self,
        scale: float = 1.0,
        ratio: int = 1,
        crop_size: tuple[int, ...] = (1,),
        transforms: Any = (),
    ) -> None: ...


class Trunk(nn.Module):
    def __init__(self, depth: int) -> None:
        super().__init__()


class Alarm(Hook):
    def __init__(self, threshold: int = 3, metric: Any = None, on_fire: Any = None) -> None: ...


class TwoRates:
    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None: ...


class Wrapper(nn.Module):
    def __init__(self, module: nn.Module, depth: int = 1) -> None:
        super().__init__()


class MyHead(nn.Module):
    def __init__(self, num_classes: int, part: Any = None, backbone: Any = None) -> None:
        super().__init__()


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    homes = [
        (MODELS, ShapedLoss), (TRANSFORMS, Shake), (HOOKS, Alarm), (MODELS, MyHead),
        (OPTIM_WRAPPER_CONSTRUCTORS, TwoRates), (MODEL_WRAPPERS, Wrapper), (MODELS, Trunk),
    ]  # fmt: skip
    for registry, built in homes:
        registry.register_module(module=built)
    yield
    for registry, built in homes:
        registry.module_dict.pop(built.__name__)


def hooks(*custom: dict[str, Any]) -> dict[str, Any]:
    return {"custom_hooks": list(custom)}


PROFILER = {"type": "ProfilerHook", "on_trace_ready": {"type": "log_trace"}}
OWN_RATES = {"optimizer": {"type": "SGD", "lr": 0.1}, "constructor": "TwoRates"}


@each_case(
    "content",
    [
        {"model": {"type": "ShapedLoss", "alpha": 2.0, "gamma": 0, "std": 0.0}},
        {"model": {"type": "ShapedLoss", "gamma": -1, "std": None}},
        transforms({"type": "Shake", "scale": 0.5, "ratio": 0, "crop_size": (0, 1, 2)}),
        hooks({"type": "Alarm", "threshold": 128}),
        hooks({"type": "Alarm", "metric": {"type": "IoUMetric", "iou_metrics": ["mDice"]}}),
        hooks({"type": "Alarm", "on_fire": {"type": "ring", "times": 3}}),
        hooks(PROFILER),
        {"optim_wrapper": {**OWN_RATES, "paramwise_cfg": {"layers": 3}, "second": {"lr": 1}}},
        {"model_wrapper_cfg": {"type": "Wrapper", "depth": 0}},
        {"model": {"type": "MyHead", "num_classes": 0, "part": {"type": "their own word"}}},
        {"param_scheduler": [{"type": "PolyLR", "power": -1.0, "by_epoch": False}]},
        {
            "model": {
                "type": "EncoderDecoder",
                "backbone": {"type": "Trunk", "depth": 50},
                "decode_head": {**FCN, "in_channels": 7},
            }
        },
    ],
)
def test_a_class_of_others_is_judged_by_its_own_signature(content: dict[str, Any]) -> None:
    assert told(content) == ""


@each_case(
    "content, expected",
    [
        ({"model": {"type": "ShapedLoss", "alhpa": 2.0}}, "no 'alhpa'; did you mean 'alpha'?"),
        ({"model": {"type": "ShapedLoss", "alpha": "high"}}, "wants a number, given 'high'"),
        (hooks({"type": "Alarm", "treshold": 1}), "no 'treshold'; did you mean 'threshold'?"),
        (hooks({"type": "Alarm", "metric": {"type": "IoUMetric", "iou_metric": "mIoU"}}),
         "IoUMetric has no 'iou_metric'; did you mean 'iou_metrics'?"),
        (hooks({**PROFILER, "by_epok": True}), "did you mean 'by_epoch'?"),
        ({"model_wrapper_cfg": {"type": "Wrapper", "detph": 0}}, "did you mean 'depth'?"),
        ({"model": {"type": "MyHead", "num_classes": 3, "backbone": {"type": "ResNetV1e"}}},
         "there is no model 'ResNetV1e'; did you mean 'ResNetV1"),
        ({"model": {"type": "MyHead", "num_classes": 3, "part": {"type": "ResNetV1e"}}},
         "there is no model 'ResNetV1e'; did you mean 'ResNetV1"),
        ({"optim_wrapper": {"optimizer": {"type": "SGD"}, "paramwise_cfg": {"custom_key": {}}}},
         "did you mean 'custom_keys'?"),
        ({"optim_wrapper": {"optimizer": {"type": "SGD", "lr": -0.1}}}, "at least 0, given -0.1"),
    ],
)  # fmt: skip
def test_what_is_misspelt_in_a_class_of_others_is_told(
    content: dict[str, Any], expected: str
) -> None:
    assert expected in told(content)


@each_case(
    "content, is_error",
    [
        ({"model": {"type": "MyHead", "num_classes": 3, "backbone": {"type": "ResNetV1e"}}}, True),
        ({"model": {"type": "MyHead", "num_classes": 3, "part": {"type": "ResNetV1e"}}}, False),
        (transforms({"type": "Shake", "transforms": [{"type": "Rezise"}]}), True),
        ({"optim_wrapper": {"optimizer": {"type": "SGD"}, "accumulative_count": 2}}, True),
    ],
)
def test_only_what_a_class_of_others_may_mean_otherwise_is_a_warning(
    content: dict[str, Any], is_error: bool
) -> None:
    config = Config(content)
    if is_error:
        with pytest.raises(ConfigError, match="did you mean"):
            check_config(config, trace_of(config), allow_unknown=True)
    else:
        (found,) = check_config(config, trace_of(config), allow_unknown=True)
        assert "did you mean 'ResNetV1" in str(found)


@each_case(
    "given, choices, hint",
    [
        ("PSPHead", ["NLHead", "FCNHead"], ""),
        ("nlhaed", ["NLHead"], "; did you mean 'NLHead'?"),
        ("miou", ["mDice", "mIoU"], "; did you mean 'mIoU'?"),
        ("max", ["att", "avg"], ""),
        (51, ["auto", 18, 50, True], "; did you mean 50?"),
        (51, ["auto"], ""),
        (True, [18, 50], ""),
    ],
)
def test_only_a_misspelling_is_taken_for_another_word(
    given: object, choices: list[object], hint: str
) -> None:
    assert nearest(given, choices) == hint


@each_case(
    "content",
    [
        {"model": {**FCN, "dropout_ratio": -1}},
        {"model": {"type": "SegDataPreProcessor", "bgr_to_rgb": None, "size_divisor": 8}},
        transforms({"type": "ResizeShortestEdge", "scale": (8, 4), "max_size": 16}),
        transforms({"type": "LoadImageFromFile", "file_client_args": {"backend": "disk"}}),
        transforms({"type": "LoadAnnotations", "file_client_args": {"backend": "disk"}}),
        {"optim_wrapper": {"optimizer": {"type": "SGD"}, "clip_grad": {"type": "value"}}},
        {"default_hooks": {"logger": {"type": "LoggerHook", "out_suffix": [".log"],
                                      "keep_local": False, "out_dir": "/elsewhere"}}},
        {"default_hooks": {"checkpoint": {"type": "CheckpointHook", "greater_keys": ["PQ"],
                                          "file_client_args": {"backend": "disk"}}}},
    ],
)  # fmt: skip
def test_what_mmsegmentation_accepts_in_our_classes_is_accepted(content: dict[str, Any]) -> None:
    assert told(content) == ""


def test_a_dropout_ratio_of_minus_one_is_none_at_all() -> None:
    assert MODELS.build({**FCN, "dropout_ratio": -1}).dropout is None


def test_an_unknown_loss_lists_losses_and_a_head_heads() -> None:
    loss = told({"model": {**FCN, "loss_decode": {"type": "CrossEntropyLos"}}})
    assert "there is no loss 'CrossEntropyLos'; did you mean 'CrossEntropyLoss'?" in loss
    listed = loss.split("nlseg has ")[1].split(", ")
    assert "CrossEntropyLoss" in listed
    assert not {"NLHead", "ResNet"} & set(listed)
    head = told({"model": {"type": "EncoderDecoder", "backbone": BACKBONE,
                           "decode_head": {"type": "PSPHead"}}})  # fmt: skip
    assert "there is no model 'PSPHead'\n" in head  # nothing near it
    assert {"FCNHead", "NLHead"} <= set(head.split("nlseg has ")[1].split(", "))
    assert "ResNet" not in head.split("nlseg has ")[1]


@each_case(
    "loss, expected",
    [
        ({}, "decode_head.loss_decode.use_sigmoid: False, but out_channels=1 gives one logit"),
        ({"loss_decode": {"type": "CrossEntropyLoss", "use_sigmoid": True}}, ""),
        ({"loss_decode": [{"type": "ShapedLoss"}]}, ""),
    ],
)
def test_one_logit_needs_the_sigmoid_form(loss: dict[str, Any], expected: str) -> None:
    head = {**FCN, "in_channels": 512, "num_classes": 2, "out_channels": 1, **loss}
    message = told({"model": {"type": "EncoderDecoder", "backbone": BACKBONE, "decode_head": head}})
    assert expected in message if expected else message == ""


@each_case(
    "inner, expected",
    [
        ({"type": "NLHead", "in_channels": 3}, ""),
        ({"type": "BN"}, ""),
        ({"type": "linear"}, ""),
        ({"type": "FCNHaed"}, "no registry holds 'FCNHaed'; did you mean 'FCNHead'?"),
        ({"type": "FCNHead", "in_chanels": 3}, "no 'in_chanels'; did you mean 'in_channels'?"),
    ],
)
def test_a_hook_of_others_may_complete_what_it_builds(inner: dict[str, Any], expected: str) -> None:
    message = told(hooks({"type": "Alarm", "metric": inner}))
    assert expected in message if expected else message == ""


def test_a_function_in_our_registry_joins_samples() -> None:
    def join(batch: list[Any], alpha: float = 1.0) -> Any:
        return {"inputs": [alpha, *batch]}

    FUNCTIONS.register_module(module=join)
    try:
        part = {"type": "join", "alpha": 3.0}
        assert told({"train_dataloader": {"collate_fn": part}}) == ""
        wrong = told({"train_dataloader": {"collate_fn": {**part, "alpa": 1}}})
        assert "join has no 'alpa'; did you mean 'alpha'?" in wrong
        loader = {"dataset": [1, 2], "batch_size": 2, "collate_fn": part,
                  "sampler": {"type": "DefaultSampler", "shuffle": False}}  # fmt: skip
        assert next(iter(build_dataloader(loader, 0)))["inputs"] == [3.0, 1, 2]
    finally:
        FUNCTIONS.module_dict.pop("join")


@pytest.mark.parametrize("kind", [ResizeToMultiple, "mmseg.datasets.transforms.ResizeToMultiple"])
def test_resize_type_is_a_class_or_its_dotted_name(kind: Any) -> None:
    step = {"type": "RandomChoiceResize", "scales": [32], "resize_type": kind}
    assert told(rename_scope(transforms(step))) == ""
    built = TRANSFORMS.build(rename_scope(step))
    assert type(built.resize).__name__ == str(getattr(kind, "__name__", kind)).rpartition(".")[2]


REGISTRIES = (
    DATA_SAMPLERS, DATASETS, EVALUATOR, HOOKS, LOOPS, METRICS, MODELS, OPTIM_WRAPPERS, TASK_UTILS,
    TRANSFORMS, VISUALIZERS,
)  # fmt: skip


def our_classes() -> list[Any]:
    for registry in REGISTRIES:
        registry.import_from_location()
    found = {built for registry in REGISTRIES for built in registry.module_dict.values()}
    ours = [built for built in found if built.__module__.startswith("nlseg.")]
    return sorted(ours, key=lambda built: str(built.__name__))


def test_the_hints_of_all_our_classes_can_be_read() -> None:
    from nlseg.config.signatures import hints_of

    classes = our_classes()
    assert len(classes) > 40
    for built in classes:
        constructor = built.__init__
        if constructor is object.__init__:  # takes nothing
            continue
        taken = set(inspect.signature(constructor).parameters) - {"self"}
        assert taken <= hints_of(constructor).keys(), built


def test_configs_and_subclasses_of_users_are_not_wrapped() -> None:
    class Narrow(MODELS.get("FCNHead")):  # type: ignore[misc]
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(channels=4, **kwargs)

    before = vars(Narrow)["__init__"]
    MODELS.register_module(module=Narrow)
    try:
        assert vars(Narrow)["__init__"] is before
        head = MODELS.build({"type": "Narrow", "in_channels": 8, "num_classes": 3})
        assert head(torch.zeros(1, 1, 8, 4, 4)).shape == (1, 3, 4, 4)
        with pytest.raises(ConfigError, match=r"Narrow\.num_convs: -1 is below 0"):
            Narrow(in_channels=8, num_classes=3, num_convs=-1)
    finally:
        MODELS.module_dict.pop("Narrow")


def test_a_subclass_of_the_visualizer_may_be_defined() -> None:
    class Mine(VISUALIZERS.get("SegLocalVisualizer")):  # type: ignore[misc]
        pass

    with pytest.raises(ConfigError, match=r"Mine\.alpha: 2 is outside \[0, 1\]"):
        Mine(name="mine of a test", alpha=2)


@each_case(
    "registry, built, text",
    [
        (TRANSFORMS, {"type": "RandomCrop", "crop_size": (8, 4)}, "RandomCrop(crop_size=(8, 4))"),
        (TRANSFORMS, {"type": "LoadAnnotations"}, "LoadAnnotations()"),
        (MODELS, {"type": "CrossEntropyLoss", "loss_weight": 0.4},
         "CrossEntropyLoss(loss_weight=0.4)"),
        (DATASETS, {"type": "BaseSegDataset", "data_root": "/d", "lazy_init": True},
         "BaseSegDataset(data_root='/d', lazy_init=True)"),
    ],
)  # fmt: skip
def test_an_instance_tells_what_it_was_given(
    registry: Any, built: dict[str, Any], text: str
) -> None:
    assert repr(registry.build(dict(built))) == text


def test_a_head_tells_what_it_was_given_before_its_layers() -> None:
    text = repr(MODELS.build(dict(FCN)))
    assert "in_channels=8, channels=4, num_classes=3" in text.splitlines()[1]
    assert "(conv_seg): Conv2d(4, 3" in text


def test_all_transforms_losses_heads_and_data_sets_tell_what_they_were_given() -> None:
    for built in our_classes():
        if issubclass(built, nn.Module):
            assert built.extra_repr.__module__.startswith("nlseg."), built
        else:
            assert built.__repr__ is not object.__repr__, built


def test_published_configs_still_have_no_problem() -> None:
    config = load_config(NONLOCAL, check=False)
    assert check_config(config, trace_of(config)) == []
