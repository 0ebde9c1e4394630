"""Modules of mmsegmentation by their names: ``from mmseg.models import NLHead`` gives ours.

For code that was written for mmsegmentation 1.x and is not to be edited. Importing this module, or
``mmseg_names = True`` in a config, turns it on for the process; a worker that is started by spawn
imports it for itself. Classes are found where mmsegmentation 1.2.2 has them; one that is not here
is refused when it is imported, with the nearest name. Without it there is no ``mmseg``.
"""

import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from nlseg import registry
from nlseg.errors import UserError, nearest

PREFIX = "mmseg"
VERSION = "1.2.2"
_MODELS = ("nlseg.models", "nlseg.models.heads", "nlseg.models.losses", "nlseg.registry")
_DATA = ("nlseg.datasets", "nlseg.datasets.transforms", "nlseg.registry")
_SCORES = ("nlseg.evaluation", "nlseg.registry")
_DRAWING = ("nlseg.visualization", "nlseg.registry")
_TYPES = ("nlseg.structures", "nlseg.api", "nlseg.datasets")
_ROOMS: dict[str, tuple[tuple[str, ...], str]] = {
    "": ((), ""),
    "registry": (("nlseg.registry",), "registry"),
    "version": ((), ""),
    "apis": (("nlseg.api",), "inference mmseg_inferencer utils"),
    "structures": (("nlseg.structures", "nlseg.models"), "seg_data_sample sampler sampler.builder "
                   "sampler.base_pixel_sampler sampler.ohem_pixel_sampler"),
    "datasets": (_DATA, "basesegdataset dataset_wrappers ade cityscapes voc camvid pascal_context "
                 "coco_stuff drive chase_db1 stare hrf loveda potsdam isprs isaid dark_zurich "
                 "night_driving bdd100k mapillary transforms transforms.loading "
                 "transforms.transforms transforms.formatting"),
    "evaluation": (_SCORES, "metrics metrics.iou_metric metrics.citys_metric"),
    "visualization": (_DRAWING, "local_visualizer"),
    "engine": (("nlseg.run.hooks", "nlseg.registry"), "hooks hooks.visualization_hook"),
    "models": (_MODELS, "builder backbones backbones.resnet data_preprocessor decode_heads "
               "decode_heads.decode_head decode_heads.fcn_head decode_heads.nl_head "
               "decode_heads.gc_head decode_heads.dnl_head decode_heads.sep_fcn_head "
               "decode_heads.cascade_decode_head losses losses.utils losses.accuracy "
               "losses.cross_entropy_loss losses.dice_loss losses.focal_loss losses.lovasz_loss "
               "losses.tversky_loss losses.boundary_loss "
               "losses.huasdorff_distance_loss losses.kldiv_loss losses.ohem_cross_entropy_loss "
               "segmentors segmentors.encoder_decoder segmentors.cascade_encoder_decoder "
               "segmentors.seg_tta utils utils.res_layer utils.wrappers"),
    "utils": (_TYPES, "typing_utils misc class_names set_env"),
}  # fmt: skip
"""Rooms of mmsegmentation: our modules that hold their names, and the modules below them."""
MODULES = {
    ".".join(part for part in (PREFIX, room, below) if part): targets
    for room, (targets, names) in _ROOMS.items()
    for below in ("", *names.split())
}


def resize(
    input: Any,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    warning: bool = True,
) -> Any:
    """Resize maps (N, C, h, w) as ``mmseg.models.utils.resize`` does, to (N, C, H, W)."""
    from torch.nn.functional import interpolate

    size = None if size is None else tuple(int(length) for length in size)
    return interpolate(input, size, scale_factor, mode, align_corners)


def add_prefix(inputs: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the entries under ``prefix.name``."""
    return {f"{prefix}.{name}": value for name, value in inputs.items()}


def weight_reduce_loss(
    loss: Any, weight: Any = None, reduction: Any = "mean", avg_factor: Any = None
) -> Any:
    """Weigh losses of any shape, and reduce them as mmsegmentation's function of that name does."""
    reduced = importlib.import_module("nlseg.models.losses.base").reduced
    return reduced(loss if weight is None else loss * weight, reduction, avg_factor)


def reduce_loss(loss: Any, reduction: Any) -> Any:
    """Reduce losses of any shape by 'none', 'mean' or 'sum'."""
    return weight_reduce_loss(loss, None, reduction)


def weighted_loss(loss_func: Callable[..., Any]) -> Callable[..., Any]:
    """Give a function of predictions and targets a weight, a reduction and a divisor."""

    @functools.wraps(loss_func)
    def weighted(
        pred: Any, target: Any, weight: Any = None, reduction: Any = "mean",
        avg_factor: Any = None, **options: Any,
    ) -> Any:  # fmt: skip
        loss = loss_func(pred, target, **options)
        return weight_reduce_loss(loss, weight, reduction, avg_factor)

    return weighted


def get_class_weight(class_weight: Any) -> Any:
    """Return weights of classes, read where they are the name of a file."""
    read = importlib.import_module("nlseg.models.losses.class_weight").read_class_weight
    return read(class_weight) if isinstance(class_weight, str) else class_weight


def _build(config: Any, train_cfg: Any = None, test_cfg: Any = None) -> Any:
    """Build a part of a network as the functions of ``mmseg.models.builder`` do."""
    settings = {"train_cfg": train_cfg, "test_cfg": test_cfg}
    given = {name: value for name, value in settings.items() if value is not None}
    return registry.MODELS.build(config, default_args=given or None)


_BUILT = ("backbone", "neck", "head", "loss", "segmentor")
_FUNCTIONS: dict[str, Any] = {
    function.__name__: function
    for function in (
        resize, add_prefix, weight_reduce_loss, reduce_loss, weighted_loss, get_class_weight,
    )
} | {f"build_{part}": _build for part in _BUILT}  # fmt: skip
_FUNCTIONS |= dict.fromkeys(
    ("BACKBONES", "NECKS", "HEADS", "LOSSES", "SEGMENTORS"), registry.MODELS
)
"""Names that mmsegmentation's modules have and ours do not; its models share one registry."""


def _types() -> dict[str, Any]:
    from mmengine.config import ConfigDict
    from torch import Tensor

    from nlseg.structures import SegDataSample

    config: Any = ConfigDict | dict[str, Any]
    samples: Any = Sequence[SegDataSample]
    return {
        "ConfigType": config,
        "OptConfigType": config | None,
        "MultiConfig": config | Sequence[config],
        "OptMultiConfig": config | Sequence[config] | None,
        "SampleList": samples,
        "OptSampleList": samples | None,
        "TensorDict": dict[str, Tensor],
        "ForwardResults": dict[str, Tensor] | list[SegDataSample] | tuple[Tensor, ...] | Tensor,
    }


class NamedModule(ModuleType):
    """A module of mmsegmentation; looks its names up in ours when they are asked for."""

    def __getattr__(self, name: str) -> Any:
        """Return what nlseg has under a name.

        Raises:
            ImportError: nlseg has no such class.
            AttributeError: nlseg has no such function, or the name is Python's own.
        """
        if name.startswith("__"):
            raise AttributeError(name)
        own = dict(_FUNCTIONS) if self.__name__.startswith(f"{PREFIX}.models") else {}
        if self.__name__.startswith(f"{PREFIX}.utils"):
            own = {"add_prefix": add_prefix, **_types()}
        if name in own:
            return own[name]
        modules = [importlib.import_module(target) for target in MODULES[self.__name__]]
        for module in modules:
            if hasattr(module, name):
                return getattr(module, name)
        choices = {key for module in modules for key in vars(module) if key[0] != "_"}
        for each in _registries():
            if modules and name in each.module_dict:
                return each.module_dict[name]
            choices |= each.module_dict.keys()
        text = f"{self.__name__}.{name}: nlseg has no such name{nearest(name, choices)}"
        # a class is missed where it is imported; Python itself asks for other names, to see
        raise (ImportError if name[0].isupper() else AttributeError)(text)


def _registries() -> list[registry.CheckedRegistry]:
    found = [each for each in vars(registry).values() if isinstance(each, registry.CheckedRegistry)]
    for each in found:
        each.import_from_location()
    return found


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the modules of :data:`MODULES`, and no others."""

    def find_spec(
        self, fullname: str, path: object = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return a spec for a module of mmsegmentation that we serve; None for other packages.

        Raises:
            ModuleNotFoundError: mmsegmentation may have the module, but nlseg does not serve it.
        """
        if fullname.partition(".")[0] != PREFIX:
            return None
        if fullname not in MODULES:
            served = [name for name in MODULES if "." in name]
            text = (
                f"No module named {fullname!r}: nlseg does not serve it{nearest(fullname, served)}"
            )
            raise ModuleNotFoundError(text, name=fullname)  # Python goes on where it only looked
        return importlib.machinery.ModuleSpec(fullname, self, origin=__file__, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """Return an empty module, which looks its names up."""
        return NamedModule(spec.name, f"nlseg's names for {spec.name}.")

    def exec_module(self, module: ModuleType) -> None:
        """Give the package its version, which scripts compare."""
        if module.__name__ in (PREFIX, f"{PREFIX}.version"):
            module.__version__ = VERSION  # type: ignore[attr-defined]


def install() -> None:
    """Serve the name ``mmseg`` from now on; a second call changes nothing.

    Raises:
        UserError: mmsegmentation itself is installed.
    """
    if any(isinstance(finder, Finder) for finder in sys.meta_path):
        return
    real = importlib.util.find_spec(PREFIX)
    if real is not None:
        raise UserError(
            f"mmseg_names: mmsegmentation itself is installed ({real.origin or 'a folder mmseg'}), "
            "so 'mmseg' is its name; uninstall it, or import from nlseg"
        )
    sys.meta_path.append(Finder())


install()
