"""Mistakes in a config are told before anything is built, with place, cause and remedy."""

import re
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any

import pytest
from mmengine.config import Config
from mmengine.runner import Runner
from typing_extensions import NotRequired, TypedDict, Unpack

from nlseg.bounds import SHARE, Count, broken_claim, describe_hint, fits
from nlseg.config.check import check_config
from nlseg.config.literals import parse_assignments
from nlseg.config.load import load_config, trace_of
from nlseg.config.parts import class_count
from nlseg.config.runner_keys import KNOWN_KEYS, RUN_KEYS
from nlseg.config.signatures import signature_of
from nlseg.errors import ConfigError
from nlseg.registry import MODELS
from tests.cases import each_case

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
NONLOCAL = CONFIGS / "nonlocal_net/nonlocal_r50-d8_4xb2-40k_cityscapes-512x1024.py"
SLIDE = CONFIGS / "gcnet/gcnet_r50-d8_4xb2-40k_cityscapes-769x769.py"
ADE = CONFIGS / "gcnet/gcnet_r50-d8_4xb4-80k_ade20k-512x512.py"
VOC_AUG = CONFIGS / "nonlocal_net/nonlocal_r50-d8_4xb4-20k_voc12aug-512x512.py"
SAVE_BEST = "default_hooks.checkpoint.save_best={}"
EPOCHS = CONFIGS / "nonlocal_net/nonlocal_r50-d8_1xb8-220e_cityscapes-512x1024.py"


def write(folder: Path, text: str, base: Path = NONLOCAL) -> Path:
    path = folder / "mine.py"
    path.write_text(f"_base_ = {str(base)!r}\n{text}\n")
    return path


def errors(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides, check=True)
    return str(caught.value)


def warnings(path: Path, *overrides: str) -> list[str]:
    config = load_config(path, overrides, check=False)
    return [str(problem) for problem in check_config(config, trace_of(config))]


def test_run_keys_are_what_the_runner_takes() -> None:
    taken = set(signature_of(Runner).hints) - {"cfg"}
    assert set(RUN_KEYS) == taken


def test_keys_that_the_engine_reads_are_known() -> None:
    source = "".join(path.read_text() for path in (ROOT / "nlseg/run").rglob("*.py"))
    read = set(re.findall(r"(?:runner|self)\.cfg\.get\(\"(\w+)\"", source))
    assert len(read) > 3
    assert read <= KNOWN_KEYS


def test_unknown_argument_names_line_class_and_nearest(tmp_path: Path) -> None:
    text = "model = dict(\n    decode_head=dict(\n        num_clases=3))"
    path = write(tmp_path, text)
    message = errors(path)
    start = f"{path}:4: model.decode_head.num_clases: NLHead has no 'num_clases'; "
    assert message.startswith(start + "did you mean 'num_classes'?")
    assert "it takes in_channels, channels" in message.replace("reduction, use_scale, ", "") or (
        "num_classes" in message.split("it takes")[1]
    )


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = """
val_evaluatr = dict(type='IoUMetric')
model = dict(backbone=dict(type='ResNetV1e'), auxiliary_head=dict(loss_decode=dict(wheight=1)))
train_dataloader = dict(bathc_size=4)
optim_wrapper = dict(optimizer=dict(mommentum=0.5))
env_cfg = dict(dist_cfg=dict(timeot=3))
"""
    message = errors(write(tmp_path, text), "randomness.sed=3", "leraning_rate=3")
    assert message.startswith("8 errors in the config:\n")
    for line, part in [
        ("--cfg-options leraning_rate=3: ", "the config has no 'leraning_rate'"),
        (":3: ", "val_evaluatr: no part of a run reads 'val_evaluatr'; did you mean 'val_eval"),
        (":4: ", "there is no model 'ResNetV1e'; did you mean 'ResNetV1"),
        (":4: ", "CrossEntropyLoss has no 'wheight'"),
        (":5: ", "train_dataloader has no 'bathc_size'; did you mean 'batch_size'?"),
        (":6: ", "SGD has no 'mommentum'; did you mean 'momentum'?"),
        (":7: ", "dist_cfg has no 'timeot'; did you mean 'timeout'?"),
        ("--cfg-options randomness.sed=3: ", "has no 'sed'; did you mean 'seed'?"),
    ]:
        assert any(line in row and part in row for row in message.splitlines()), part


def test_unknown_class_lists_what_there_is(tmp_path: Path) -> None:
    message = errors(write(tmp_path, "model = dict(decode_head=dict(type='PSPHead'))"))
    assert ":2: model.decode_head.type: there is no model 'PSPHead'" in message
    assert "NLHead" in message.split("nlseg has")[1]


def test_line_is_that_of_the_base_file_that_wrote_the_value(tmp_path: Path) -> None:
    base = tmp_path / "base.py"
    base.write_text(NONLOCAL.read_text().replace("../_base_", str(CONFIGS / "_base_")))
    base.write_text(base.read_text() + "\nhead = dict(channels='many')\n")
    base.write_text(base.read_text() + "model.update(decode_head=head)\n")
    path = write(tmp_path, "model = dict(pretrained=None)", base=base)
    line = base.read_text().splitlines().index("head = dict(channels='many')") + 1
    assert errors(path).startswith(
        f"{base}:{line}: model.decode_head.channels: NLHead wants a whole number, given 'many'"
    )


@each_case(
    "override, told",
    [
        ("model.decode_head.channels=wide", "NLHead wants a whole number, given 'wide'"),
        ("train_cfg.max_iters=2e4", "wants a whole number, given 20000.0"),
        ("train_pipeline.2.ratio_range=(0.5,)", "given (0.5,)"),
        ("train_pipeline.3.crop_size=(512,)", "number) for (height, width), given (512,)"),
        ("train_pipeline.2.ratio_range=(2.0, 0.5)", "with low <= high"),
        ("train_pipeline.3.crop_size=(512, 1024.5)", "number) for (height, width), given (512, "),
        ("train_pipeline.3.crop_size=(512, '1024')", "number) for (height, width), given (512, "),
        ("model.decode_head.mode=embeded_gaussian", "'embeded_gaussian'; did you mean 'embedded_g"),
        ("model.decode_head.mode=gauss", "one of 'gaussian', 'embedded_gaussian', 'dot_product', "),
        ("model.backbone.depth=51", "one of 18, 34, 50, 101, 152, given 51"),
        ("model.backbone.style=pytorhc", "did you mean 'pytorch'?"),
        ("val_evaluator.iou_metrics=['mIoU', 'mDise']", "'mDise']; did you mean 'mDice'?"),
        ("train_dataloader.dataset.fuse=exakt", "'fast', 'off', given 'exakt'; did you mean 'exa"),
        ("train_dataloader.dataset.cache=memap", "'memmap' or None, given 'memap'; did you me"),
        ("train_dataloader.dataset.bad_samples=dict(policy='skipp')", "did you mean 'skip'?"),
        ("train_dataloader.dataset.data_prefix.seg_map_paht=x", "did you mean 'seg_map_path'?"),
        ("train_pipeline.4.direction=horizontl", "did you mean 'horizontal'?"),
        ("train_pipeline.2.interpolation=bilinaer", "did you mean 'bilinear'?"),
        ("train_pipeline.5.contrast_range=(1.5, 0.5)", "(low, high) with low <= high"),
        ("train_pipeline.5.brightness_delta=-32", "at least 0, given -32"),
        ("train_pipeline.3.rare_prob=2", "in [0, 1], given 2"),
        ("param_scheduler.0.eta_min=-1", "at least 0, given -1"),
        ("optim_wrapper.accumulative_counts=0", "at least 1, given 0"),
        ("default_hooks.checkpoint.rule=bigger", "one of 'greater', 'less' or a list"),
        ("train_pipeline.3.cat_max_ratio=1.5", "in (0, 1], given 1.5"),
        ("model.decode_head.dropout_ratio=1.5", "in [0, 1), given 1.5"),
        ("model.data_preprocessor.pad_mode=left", "one of 'bottom_right', 'center', given 'left'"),
        ("model.test_cfg.mode=windows", "one of 'whole', 'slide'"),
        ("model.test_cfg.strid=(3,3)", "has no 'strid'; did you mean 'stride'?"),
        ("model.backbone.norm_eval=1", "True or False, given 1"),
        ("train_dataloader.batch_size=0", "at least 1, given 0"),
    ],
)
def test_types_and_ranges(override: str, told: str) -> None:
    assert told in errors(NONLOCAL, override)


def test_list_becomes_the_tuple_that_the_class_wants() -> None:
    set_too = ["model.test_cfg.stride=[513, 500]", "param_scheduler.0.eta_min=0"]
    config = load_config(SLIDE, set_too, check=True)
    assert config.model.test_cfg.stride == (513, 500)


def test_missing_argument_is_told(tmp_path: Path) -> None:
    head = "model = dict(decode_head=dict(_delete_=True, type='NLHead', in_channels=2048))"
    assert ":2: model.decode_head: NLHead needs 'channels', 'num_classes'" in errors(
        write(tmp_path, head)
    )


def test_own_keys_live_under_custom(tmp_path: Path) -> None:
    path = write(tmp_path, "custom = dict(type='x', note=1)\nmy_note = 3")
    assert "no part of a run reads 'my_note'; keys of your own go under 'custom'" in errors(path)
    assert load_config(path, check=True, allow_unknown=True).custom.note == 1
    path = write(tmp_path, "custom = dict(note=1)\nmy_lr = 3\noptimizer = dict(lr=my_lr)")
    assert load_config(path, check=True).my_lr == 3


def test_resolved_config_that_was_written_out_is_accepted(tmp_path: Path) -> None:
    config = load_config(ADE, check=True)
    config.dump(tmp_path / "dumped.py")
    again = load_config(tmp_path / "dumped.py", check=True)
    assert again.to_dict() == config.to_dict()


@each_case(
    "base, override, told",
    [
        (NONLOCAL, "model.auxiliary_head.num_classes=3", "3, but decode_head has 19"),
        (
            NONLOCAL,
            "num_classes=11",
            "11, but CityscapesDataset of train_dataloader has 19 classes",
        ),
        (NONLOCAL, "model.decode_head.loss_decode.class_weight=[1.0, 2.0]", "2 weights for 19"),
        (NONLOCAL, "model.decode_head.in_index=4", "4, but the backbone has 4 outputs"),
        (NONLOCAL, "model.auxiliary_head.in_index=1", "1024, but output 1 of the backbone has 512"),
        (NONLOCAL, "model.decode_head.in_channels=512", "output 3 of the backbone has 2048"),
        (NONLOCAL, "model.backbone.depth=101", "is for depth 50, but the backbone has 101"),
        (NONLOCAL, "model.data_preprocessor.size=(256, 512)", "is larger than data_preprocessor"),
        (
            VOC_AUG,
            "train_pipeline.6.size=(512, 600)",
            "(600, 512) is larger than data_preprocessor",
        ),
        (NONLOCAL, "model.data_preprocessor.size_divisor=8", "size or to size_divisor, given both"),
        (NONLOCAL, "model.data_preprocessor.seg_pad_val=0", "seg_pad_val is 0: padding would tr"),
        (SLIDE, "model.test_cfg.stride=(800, 513)", "leave gaps between windows of (769, 769)"),
        (ADE, "train_dataloader.dataset.reduce_zero_label=False", "set it in the data set only"),
        (NONLOCAL, "val_evaluator=None", "given without val_evaluator"),
        (NONLOCAL, "default_hooks.checkpoint.save_best=mDice", "not among the scores"),
        (NONLOCAL, "param_scheduler.0.by_epoch=True", "the rate would never change"),
        (NONLOCAL, "param_scheduler.0.begin=40000", "40000, but it begins at 40000"),
        (EPOCHS, "train_dataloader.sampler.type=InfiniteSampler", "never ends"),
    ],
)
def test_parts_that_do_not_fit_are_errors(base: Path, override: str, told: str) -> None:
    message = errors(base, override)
    assert told in message
    assert f"--cfg-options {override}" in message or "configs/" in message


OWN_DATA = """
own = dict(_delete_=True, type='BaseSegDataset', pipeline=[], metainfo=dict({}))
train_dataloader = dict(dataset=own)
num_classes = 2
model = dict(decode_head=dict(num_classes=2), auxiliary_head=dict(num_classes=2))
"""


@each_case(
    "metainfo, told",
    [
        ("classes=('a')", "the string 'a' is neither a list of names nor a file; a tuple of one"),
        ("classes=('a', 'b'), palette=[[0, 0, 0]]", "1 colours for 2 classes"),
        ("clases=('a', 'b')", "did you mean 'classes'?"),
    ],
)
def test_what_is_wrong_about_classes_is_told_with_its_line(
    tmp_path: Path, metainfo: str, told: str
) -> None:
    message = errors(write(tmp_path, OWN_DATA.format(metainfo)))
    assert told in message
    assert re.search(r"mine.py:3: train_dataloader.dataset.metainfo", message)


def test_a_last_line_break_is_no_class(tmp_path: Path) -> None:
    names = tmp_path / "classes.txt"
    names.write_text("a\nb\n")
    assert class_count({"type": "BaseSegDataset", "metainfo": {"classes": str(names)}}) == 2


def test_one_metric_needs_no_list() -> None:
    load_config(NONLOCAL, ["val_evaluator.iou_metrics='mFscore'", SAVE_BEST.format("mPrecision")])


def test_persistent_workers_without_workers(tmp_path: Path) -> None:
    path = write(tmp_path, "train_dataloader = dict(num_workers=0)")
    assert "num_workers is 0: there is no worker process to keep" in errors(path)


@each_case(
    "override, told",
    [
        ("model.auxiliary_head.align_corners=True", "heads resize differently"),
        ("train_cfg.max_iters=50000", "40000, but the run has 50000 iterations: the rate stays"),
        ("train_cfg.max_iters=3000", "it is validated at its end only"),
        ("batch_size=1", "SyncBN trains on the statistics of one image"),
        ("train_pipeline.3.crop_size=(256, 256)", "is padded to data_preprocessor.size"),
        ("default_hooks.checkpoint.by_epoch=True", "what it saves is off"),
    ],
)
def test_what_is_odd_is_a_warning(override: str, told: str) -> None:
    assert any(told in text for text in warnings(NONLOCAL, override))


def test_reduce_zero_label_in_both_places_is_a_warning() -> None:
    found = warnings(ADE, "train_dataloader.dataset.reduce_zero_label=True")
    assert any("set in the data set too; once is enough" in text for text in found)


def test_variable_set_after_it_was_copied_is_a_warning(tmp_path: Path) -> None:
    path = write(tmp_path, "data_root = '/elsewhere'")
    (text,) = warnings(path)
    assert text.startswith(f"{path}:2: data_root: set again after its value was copied; ")
    assert "keeps 'data/cityscapes/'" in text


def test_published_configs_have_no_warning() -> None:
    assert warnings(SLIDE) == warnings(EPOCHS) == []


class Group(TypedDict, total=False):
    width: int
    depth: NotRequired[tuple[int, int]]


class Parent:
    def __init__(self, width: int, *, depth: tuple[int, int] = (1, 2), name: str) -> None: ...


class Child(Parent):
    def __init__(self, mode: str = "x", **kwargs: Unpack[Group]) -> None:
        super().__init__(name=mode, **kwargs)


class Loose(Parent):
    def __init__(self, speed: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)


class Swallows:
    def __init__(self, speed: float, **kwargs: Any) -> None: ...


def test_signature_through_keyword_groups_and_parents() -> None:
    child = signature_of(Child)
    assert child.hints == {"mode": str, "width": int, "depth": tuple[int, int]}
    assert (child.required, child.is_open) == ({"width"}, False)
    loose = signature_of(Loose)
    assert set(loose.hints) == {"speed", "width", "depth", "name"}
    assert (loose.required, loose.is_open) == ({"speed"}, False)
    assert signature_of(Swallows).is_open


@each_case(
    "value, hint, fit",
    [
        (1, int, True),
        (True, int, False),
        (1, float, True),
        (1.0, int, False),
        (None, int | None, True),
        ((1, 2), tuple[int, int], True),
        ((1, 2, 3), tuple[int, int], False),
        ((1, 2, 3), tuple[int, ...], True),
        ([1, 2], tuple[int, int], False),
        (["a"], list[str], True),
        ("a", list[str], False),
        ({"type": "x"}, Parent, True),
        ({"width": 1}, Group, True),
    ],
)
def test_values_and_hints(value: object, hint: object, fit: bool) -> None:
    assert fits(value, hint) is fit


def words_of(value: object, hint: object) -> str:
    claim = broken_claim(value, hint)
    assert claim is not None
    return claim.words


def test_hints_and_ranges_in_words() -> None:
    assert describe_hint(tuple[int, float] | None) == "(a whole number, a number) or None"
    share = Annotated[float | list[float], SHARE]
    assert broken_claim(0.5, share) is None
    assert words_of([0.5, 1.5], share) == "in [0, 1]"
    assert words_of((0, 3), tuple[Count, Count]) == "at least 1"


def test_class_of_a_user_is_checked_like_ours() -> None:
    MODELS.register_module(module=Child, name="ChildOfATest")
    try:
        config = Config({"model": {"type": "ChildOfATest", "widht": 3}})
        with pytest.raises(ConfigError, match="ChildOfATest has no 'widht'; did you mean 'width'"):
            check_config(config, trace_of(config))
    finally:
        MODELS.module_dict.pop("ChildOfATest")


def test_function_that_is_called_with_more_is_not_missing_arguments() -> None:
    given = ["train_dataloader.collate_fn=dict(type='pseudo_collate')"]
    assert load_config(NONLOCAL, given).train_dataloader.collate_fn.type == "pseudo_collate"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "nonlocal_r50-d8_4xb2-40k_cityscape-512x1024.py",
            "did you mean 'nonlocal_r50-d8_4xb2-40k",
        ),
        ("nowhere/a.py", "there is no folder"),
    ],
)
def test_a_config_that_is_not_there_has_neighbours(name: str, told: str) -> None:
    assert told in errors(NONLOCAL.parent / name)


def test_paths_have_no_detours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert not [line for line in trace_of(load_config(NONLOCAL)).files.lines() if ".." in line]


def test_a_config_that_was_written_out_may_keep_variables_but_no_typo(tmp_path: Path) -> None:
    text = "classes = ('a', 'b')\nunused = dict(x=1)\nrandomness = dict(seed=len(classes))"
    config = load_config(write(tmp_path, text + "\nunused_too = unused"))
    written = tmp_path / "written.py"
    written.write_text(config.pretty_text)
    assert load_config(written).unused == {"x": 1}
    child = tmp_path / "child.py"
    child.write_text("_base_ = './written.py'\nlr_typo = 1")
    message = errors(child)
    assert "lr_typo" in message
    assert "unused" not in message
    written.write_text(config.pretty_text + "val_evaluatr = None\n")
    assert "did you mean 'val_evaluator'?" in errors(written)


def test_documented_ways_to_write_a_config_of_ones_own(tmp_path: Path) -> None:
    text = (ROOT / "docs/configs.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    own = [block for block in blocks if "\n_base_ = " in block]
    assert len(own) == 2
    for block in own:
        path = tmp_path / "mine.py"
        path.write_text(block.replace("./", f"{NONLOCAL.parent}/"))
        load_config(path)


def test_text_of_a_config_needs_no_code_formatter(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(NONLOCAL)
    monkeypatch.setattr("mmengine.config.config.FormatCode", None)
    copy = deepcopy(config)
    copy.work_dir = "elsewhere"
    assert "work_dir = 'elsewhere'" in copy.pretty_text
    assert parse_assignments(copy.pretty_text) == copy.to_dict()


@each_case("step, message", [
    ("dict(type='RandomChoiceResize', scales=[256, 512], resize_type='ResizeShortestEdge', "
     "max_size=2048)", ""),
    ("dict(type='RandomResize', scale=(512, 256), ratio_range=(0.5, 2.0), "
     "resize_type='ResizeToMultiple', size_divisor=16, keep_ratio=True)", ""),
    ("dict(type='RandomChoiceResize', scales=[256], resize_type='ResizeShortestEdge')",
     "RandomChoiceResize needs 'max_size'"),
    ("dict(type='RandomChoiceResize', scales=[256], max_size=2048)",
     "RandomChoiceResize has no 'max_size'"),
    ("dict(type='RandomChoiceResize', scales=[256], resize_type='ResizeShortestEdge', "
     "max_siz=2048)", "did you mean 'max_size'?"),
    ("dict(type='RandomChoiceResize', scales=[256], resize_type='ResizeShortestEdge', "
     "max_size='big')", "wants a whole number, given 'big'"),
    ("dict(type='RandomResize', scale=(9, 9), ratio_range=(1, 2), resize_type='Resise')",
     "there is no transform 'Resise'; did you mean 'Resize'?"),
])  # fmt: skip
def test_further_arguments_are_those_of_the_class_that_resizes(
    tmp_path: Path, step: str, message: str
) -> None:
    path = write(tmp_path, f"train_dataloader = dict(dataset=dict(pipeline=[{step}]))")
    if message:
        assert message in errors(path)
    else:
        load_config(path, check=True)


@each_case(
    "text, expected",
    [
        ("default_hooks = dict(chekpoint=dict(interval=2))",
         "default_hooks.chekpoint: no default hook has this name; did you mean 'checkpoint'?"),
        ("default_hooks = dict(report=dict(testing=True))",
         "names no class; add type='ReportHook'"),
        ("runner_type = 'Runer'", "there is no runner 'Runer'; did you mean 'Runner'?"),
        ("optim_wrapper = dict(constructor='DefaultOptimWrapperConstrutor')",
         "optim_wrapper.constructor: there is no optimizer wrapper constructor"),
        ("optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mul=0.1))))",
         "custom_keys.backbone.lr_mul: neither DefaultOptimWrapperConstructor nor SGD reads "
         "'lr_mul'; did you mean 'lr_mult'?"),
        ("optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(backbone=0.1)))",
         "wants a dict such as dict(lr_mult=0.1), given 0.1"),
        ("optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(norm=dict(decay_mult='0'))))",
         "wants a number, given '0'"),
        ("custom_hooks = dict(type='EMAHook')", "wants a list of dicts, [dict(type=...)]"),
        ("mmseg_names = 'yes'", "mmseg_names: wants True or False, given 'yes'"),
        ("lr_config = dict(policy='poly')", "lr_config: a key of mmsegmentation 0.x; 'nlseg migr"),
        ("model = dict(test_cfg=dict(mode='slide'))",
         "model.test_cfg.mode: mode 'slide' needs 'crop_size' and 'stride'"),
        ("model = dict(decode_head=dict(loss_decode=dict(class_weight='nofile.npy')))",
         "class_weight: there is no file 'nofile.npy'"),
    ],
)  # fmt: skip
def test_what_would_end_in_a_traceback_or_be_ignored_is_refused(
    tmp_path: Path, text: str, expected: str
) -> None:
    path = write(tmp_path, text)
    message = errors(path)
    assert message.startswith(f"{path}:2: "), message
    assert expected in message


def test_settings_of_parameter_groups_that_nobody_reads_are_a_warning(tmp_path: Path) -> None:
    rule = "dict(lr_mult=0.1, decay_mult=0.0, momentum=0.5, group='slow')"
    setting = f"dict(paramwise_cfg=dict(custom_keys=dict(backbone={rule})))"
    (warning,) = warnings(write(tmp_path, f"optim_wrapper = {setting}"))
    assert "SGD reads 'group'" in warning


def test_a_misspelt_pipeline_is_one_error(tmp_path: Path) -> None:
    text = "train_dataloader = dict(dataset=dict(\n    pipelin={{_base_.train_pipeline}}))"
    message = errors(write(tmp_path, text))
    assert "mine.py:3: train_dataloader.dataset.pipelin: " in message
    assert "errors in the config" not in message


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = 1\ny = 1 / 0\n", "fails at {}:2: ZeroDivisionError"),
        ("from nlseg.registry import MODELS\n\n@MODELS.register_module()\nclass NLHead: pass\n",
         "registers 'NLHead' at {}:3, but nlseg.models.heads.non_local has a model of that name; "
         "register it under another name, or with force=True in its place"),
    ],
)  # fmt: skip
def test_a_module_that_fails_is_told_with_the_line_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, expected: str
) -> None:
    module = tmp_path / f"failing_{len(source)}.py"
    module.write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    message = errors(write(tmp_path, f"custom_imports = dict(imports=['{module.stem}'])"))
    assert message.startswith(f"custom_imports.imports: {module.stem!r} {expected.format(module)}")
