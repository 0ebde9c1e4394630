"""Networks of timm as backbones; timm is imported when one is built, and is not needed otherwise.

A network is built without weights. ``init_weights``, which only training calls, reads them through
this package's reader and lets timm fit them, so testing and predicting never ask for a download.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import TypedDict, Unpack

from nlseg.bounds import BELOW_1, Count, Natural, Range
from nlseg.errors import CheckpointError, ConfigError, nearest
from nlseg.registry import MODELS, Cfg
from nlseg.weights.files import read_checkpoint
from nlseg.weights.fitting import ALMOST_NONE, FEW, weights_in
from nlseg.weights.hub import SCHEME, WEIGHTS
from nlseg.weights.pretrained import use_own_reader

_SHOWN, _SHOWN_LETTERS = 8, 300


class TIMMArgs(TypedDict, total=False):
    """Arguments that go on to timm as they are; ``TIMMBackbone`` says what they mean."""

    img_size: Count | Sequence[Count]
    dynamic_img_size: bool
    dynamic_img_pad: bool
    patch_size: Count
    drop_rate: Annotated[float, BELOW_1]
    drop_path_rate: Annotated[float, BELOW_1]
    norm_layer: str
    act_layer: str
    feature_cls: str
    norm: bool


class Maps(NamedTuple):
    """The feature maps of a network.

    Args:
        channels: Channels of each.
        strides: How many times smaller than the image each is.
    """

    channels: list[int]
    strides: list[int]


@MODELS.register_module()
class TIMMBackbone(BaseModule):
    """A network of timm that returns the feature maps of chosen places as (N, C_i, h_i, w_i).

    Tokens of a transformer become a map, channels come second whatever timm's order. Needs
    ``pip install 'nlseg[timm]'``.

    Args:
        model_name: Name in timm, such as 'convnext_tiny.in12k_ft_in1k'; without what follows the
            point it has timm's default weights.
        features_only: True: a segmentor needs the maps, not the scores of classes.
        pretrained: Training starts from timm's published weights of that name; they are fetched
            from the Hugging Face Hub as safetensors, or from their address.
        checkpoint_path: File or address of weights for ``model_name`` to start from instead.
        in_channels: Channels of the image; timm adapts weights that were trained for three.
        output_stride: How many times smaller than the image the last map is at most, where timm
            can dilate the network instead: 8, 16 or 32 in most convolutional ones. None leaves the
            network as it is.
        out_indices: Numbers of the maps that are returned, from 0; all, or the last three of a
            transformer, where None. A ConvNeXt has 4, a ResNet of timm 5 with the stem, a
            transformer one behind each block.
        frozen_stages: Layers up to the map of this number neither train nor change their running
            statistics; -1 freezes nothing.
        norm_eval: Batch norms use and keep their running statistics in training too.
        timm_args: Further arguments of timm's network by name, which are not looked at.
        init_cfg: How ``init_weights`` fills the parameters, e.g. ``dict(type='Pretrained',
            checkpoint=..., prefix='backbone.')``; goes with ``pretrained=False``.
        img_size: Side, or height and width, in px for which a transformer's positions are made.
        dynamic_img_size: A transformer takes images of any size and interpolates its positions.
        dynamic_img_pad: A transformer pads images to whole patches.
        patch_size: Side of a transformer's patches in px.
        drop_rate: Probability of dropout.
        drop_path_rate: Probability with which a residual branch is left out, in the last block.
        norm_layer: Kind of norm: a registered name such as 'BN2d', or timm's name.
        act_layer: Kind of activation, timm's name.
        feature_cls: How timm gets at the maps: 'list', 'dict', 'fx', 'hook' or 'getter'.
        norm: A transformer's final norm is applied to its maps.

    Raises:
        ConfigError: timm is not there, has no such network, or refuses an argument.
    """

    def __init__(
        self,
        model_name: str,
        features_only: bool = True,
        pretrained: bool = True,
        checkpoint_path: str = "",
        in_channels: Count = 3,
        output_stride: Count | None = None,
        out_indices: Sequence[Natural] | None = None,
        frozen_stages: Annotated[int, Range(-1)] = -1,
        norm_eval: bool = False,
        timm_args: Mapping[str, Any] | None = None,
        init_cfg: Cfg | list[Cfg] | None = None,
        **kwargs: Unpack[TIMMArgs],
    ) -> None:
        super().__init__(init_cfg)
        self.model_name = model_name
        self.pretrained = pretrained
        self.checkpoint_path = checkpoint_path
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.arguments = _for_timm(
            in_channels, output_stride, out_indices, {**kwargs, **(timm_args or {})}
        )
        self.timm_model = _create(model_name, self.arguments)
        self.maps = _maps(self.timm_model)
        self.channels_last = str(getattr(self.timm_model, "output_fmt", "")).endswith("NHWC")
        self.frozen = self._freeze()
        self.train()

    @staticmethod
    def check_arguments(
        model_name: str,
        features_only: bool,
        pretrained: bool,
        checkpoint_path: str,
        init_cfg: Cfg | list[Cfg] | None,
    ) -> Iterator[tuple[str, str]]:
        """Yield what does not fit together: the argument, and why; see the class."""
        if not features_only:
            yield "features_only", "False gives scores of classes; a segmentor needs the maps"
        if re.search(r"[:/\\]", model_name):
            text = f"{model_name!r} is no name in timm; give other weights as checkpoint_path"
            yield "model_name", text
        if init_cfg and (checkpoint_path or pretrained):
            other = "checkpoint_path" if checkpoint_path else "pretrained"
            yield (
                "init_cfg",
                f"give either {other} or init_cfg, which goes with pretrained=False",
            )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images (N, C, H, W) to one feature map (N, C_i, h_i, w_i) per output index."""
        maps = self.timm_model(x)
        return tuple(each.permute(0, 3, 1, 2) if self.channels_last else each for each in maps)

    def train(self, mode: bool = True) -> "TIMMBackbone":
        """Set the mode; frozen layers, and norms under ``norm_eval``, stay as in evaluation."""
        super().train(mode)
        for module in self.frozen:
            module.training = False
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def init_weights(self) -> None:
        """Fill the parameters from ``checkpoint_path``, from timm's weights, or as ``init_cfg``.

        Raises:
            CheckpointError: The weights cannot be read or do not fit.
            ConfigError: timm has none of that name.
        """
        if self.checkpoint_path:
            self._start_from(self.checkpoint_path)
        elif self.pretrained:
            self._start_from(_published(self.model_name))
        elif self.init_cfg:
            use_own_reader(self)
            super().init_weights()

    def _start_from(self, source: str) -> None:
        """Let timm fit the weights of a file: names, first convolution, positions of tokens.

        timm says nothing of what it left out. So the network is built twice from one seed, with and
        without the weights: a parameter that is the same in both did not come from the file.
        """
        weights = weights_in(read_checkpoint(source), source)
        overlay = {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": weights}}
        with torch.random.fork_rng(devices=[]):
            plain = _seeded(self.model_name, self.arguments)
            try:
                started = _seeded(self.model_name, {**self.arguments, **overlay})
            except ConfigError as error:
                reason = " ".join(str(error.__cause__).split())[:_SHOWN_LETTERS]
                raise CheckpointError(
                    f"{source}: does not fit timm's {self.model_name}, which stops at {reason}"
                ) from None
        before = dict(plain.named_parameters())
        names = [name for name, _ in started.named_parameters()]
        same = [n for n in names if torch.equal(before[n], started.get_parameter(n))]
        share = 1 - len(same) / len(names)
        found = f"{len(names) - len(same)} of the backbone's {len(names)} weights"
        told = f"{source}: {found} came from it"
        if share < ALMOST_NONE:
            raise CheckpointError(f"{told}; it is not of timm's {self.model_name}")
        if same and share < FEW:
            more = ", ..." if len(same) > _SHOWN else ""
            told = f"{told}; not {', '.join(same[:_SHOWN])}{more}"
        print_log(told, logger="current")
        self.timm_model.load_state_dict(started.state_dict())

    def _freeze(self) -> list[nn.Module]:
        """Take the gradients of the layers up to the map ``frozen_stages``, and return the layers.

        timm defines layers in the order in which they run. What holds the map holds later layers,
        too; its own parameters, such as a transformer's positions, come before them.
        """
        if self.frozen_stages < 0:
            return []
        modules = list(self.timm_model.named_modules())
        built = {_flat(name): name for name, _ in modules}
        places = [_flat(info["module"]) for info in _infos(self.timm_model)]
        known = [built[place] for place in places if place in built]
        if self.frozen_stages >= len(known):
            raise ConfigError(
                f"TIMMBackbone.frozen_stages: {self.frozen_stages} is outside "
                f"-1..{len(known) - 1}, the maps of {self.model_name} that are built"
            )
        last = known[self.frozen_stages]
        end = max(i for i, (name, _) in enumerate(modules) if f"{name}.".startswith(f"{last}."))
        frozen: list[nn.Module] = []
        for name, module in modules[: end + 1]:
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)
            if name and not last.startswith(f"{name}."):
                frozen.append(module)
        return frozen


def refusal(backbone: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return what timm refuses of a backbone's config: argument and text; None where it builds.

    Args:
        backbone: The config of a ``TIMMBackbone``. Nothing is said where timm cannot be imported.
    """
    try:
        map_facts(backbone)
    except ConfigError as error:
        key, _, text = str(error).removeprefix("TIMMBackbone.").partition(": ")
        return key, text
    return None


def map_facts(backbone: Mapping[str, Any]) -> Maps | None:
    """Return the feature maps that a backbone's config gives, without making its weights.

    Args:
        backbone: The config of a ``TIMMBackbone``.

    Returns:
        Their channels and strides; None where timm cannot be imported.

    Raises:
        ConfigError: timm has no such network, or refuses an argument.
    """
    try:
        import timm  # noqa: F401
    except (ImportError, RuntimeError):
        return None
    with torch.device("meta"):
        built: Any = MODELS.build({**backbone, "pretrained": False, "checkpoint_path": ""})
    maps: Maps = built.maps
    return maps


def _timm() -> Any:
    """Return the package.

    Raises:
        ConfigError: It, or what it needs, cannot be imported.
    """
    try:
        import timm
    except ImportError as error:
        raise ConfigError(
            f"TIMMBackbone needs {error.name or 'timm'}, which is not installed; "
            "pip install 'nlseg[timm]'"
        ) from None
    except RuntimeError as error:  # operators of torchvision are compiled for one build of torch
        major, minor = re.findall(r"\d+", torch.__version__)[:2]
        fitting = f"0.{int(minor) + 15}" if major == "2" else "of the same release"
        raise ConfigError(
            f"TIMMBackbone: timm cannot be imported, as torchvision does not fit torch "
            f"{torch.__version__} ({error}); install torchvision {fitting}, built for the same "
            "CUDA or for CPUs as torch is"
        ) from None
    return timm


def _for_timm(
    in_channels: int,
    output_stride: int | None,
    out_indices: Sequence[int] | None,
    others: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the arguments under timm's names; those that are None are left to timm."""
    arguments = {"in_chans": in_channels, **others}
    if output_stride is not None:
        arguments["output_stride"] = output_stride
    if out_indices is not None:
        arguments["out_indices"] = tuple(out_indices)
    norm = arguments.get("norm_layer")
    if isinstance(norm, str):
        arguments["norm_layer"] = MODELS.get(norm) or norm
    return arguments


def _create(model_name: str, arguments: Mapping[str, Any]) -> Any:
    """Build a network of timm that returns feature maps.

    Raises:
        ConfigError: timm refuses; begins with ``TIMMBackbone.argument:``.
    """
    timm = _timm()
    try:
        network = timm.create_model(model_name, **{"features_only": True, **arguments})
    except Exception as error:  # each network refuses in its own way, often by a bare assert
        key, text = _why(timm, model_name, arguments, error)
        raise ConfigError(f"TIMMBackbone.{key}: {text}") from error
    wanted, strides = arguments.get("output_stride"), _maps(network).strides
    if wanted is not None and max(strides) > wanted:
        raise ConfigError(f"TIMMBackbone.output_stride: {_no_stride(model_name, wanted, strides)}")
    return network


def _seeded(model_name: str, arguments: Mapping[str, Any]) -> Any:
    torch.manual_seed(0)
    return _create(model_name, arguments)


def _why(
    timm: Any, model_name: str, arguments: Mapping[str, Any], error: Exception
) -> tuple[str, str]:
    """Return the argument that timm refuses, and a sentence: found by leaving it out."""
    name = model_name.partition(".")[0]
    if name not in timm.list_models():
        return "model_name", f"timm has no {name!r}{nearest(name, timm.list_models())}"
    for key in ("output_stride", "out_indices"):
        others = {k: v for k, v in arguments.items() if k != key}
        if key not in arguments:
            continue
        try:
            with torch.device("meta"):
                network = timm.create_model(model_name, **{"features_only": True, **others})
        except Exception:  # then it is not this argument
            continue
        if key == "output_stride":
            return key, _no_stride(model_name, arguments[key], _maps(network).strides)
        last = len(_infos(network)) - 1
        return key, f"{arguments[key]}: the maps of {model_name} are 0..{last}"
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    return "model_name", f"timm's {model_name}: {reason}"


def _no_stride(model_name: str, wanted: int, strides: Sequence[int]) -> str:
    return (
        f"timm's {model_name} cannot have {wanted}; without output_stride its last map is "
        f"{max(strides)} times smaller than the image"
    )


def _infos(network: Any) -> list[dict[str, Any]]:
    infos: list[dict[str, Any]] = network.feature_info.info
    return infos


def _maps(network: Any) -> Maps:
    return Maps(list(network.feature_info.channels()), list(network.feature_info.reduction()))


def _flat(name: str) -> str:
    """Return a module's path as it reads in all of timm's wrappers."""
    return name.removeprefix("model.").replace(".", "_")


def _published(model_name: str) -> str:
    """Return where timm's weights of a name are, as a source of this package's reader.

    Raises:
        ConfigError: timm has none, or only a pickle on the Hub.
    """
    found = _timm().get_pretrained_cfg(model_name)
    if found is not None and found.hf_hub_id and found.hf_hub_filename in (None, WEIGHTS):
        return f"{SCHEME}{found.hf_hub_id}"
    if found is not None and found.url:
        return str(found.url)
    raise ConfigError(
        f"TIMMBackbone.pretrained: timm has no weights of {model_name} that can be read; set "
        "pretrained=False, or give a file as checkpoint_path"
    )
