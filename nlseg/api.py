"""Use a network from Python: build it with its weights, label images, draw what was found.

    model = init_model(CONFIG, CHECKPOINT)
    result = inference_model(model, "street.png")
    show_result_pyplot(model, "street.png", result, show=False, out_file="labelled.png")

The names and arguments are those of ``mmseg.apis`` 1.2.2. Results are those of a test run: the same
network, test pipeline and test settings.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from numpy.typing import ArrayLike, NDArray
from PIL import Image as PillowImage
from torch import nn

import nlseg.models  # noqa: F401 - registers what configs name
from nlseg.config import load_config
from nlseg.config.class_weight import with_class_weights
from nlseg.config.literals import parse_assignments
from nlseg.config.scope import rename_scope
from nlseg.datasets import get_classes, get_palette
from nlseg.datasets.transforms import LoadImageFromFile
from nlseg.datasets.transforms.decode import picture_to_array
from nlseg.errors import ConfigError, DataError, UserError
from nlseg.files import VIDEO_SUFFIXES, write_file
from nlseg.label_png import encode_label
from nlseg.registry import DATASETS, FOREIGN_SCOPE, MODELS, SCOPE
from nlseg.run.device import revert_sync_batchnorm
from nlseg.structures import SegDataSample
from nlseg.visualization.painter import Painter
from nlseg.visualization.pictures import side_by_side, write_picture
from nlseg.weights.fields import mapping, meta_in
from nlseg.weights.files import read_checkpoint
from nlseg.weights.fitting import check_fit, load_strictly, weights_in
from nlseg.weights.hub import is_on_the_hub, refuse_code
from nlseg.weights.published import NAMES

__all__ = [
    "MMSegInferencer",
    "dataset_meta_of",
    "inference_model",
    "inference_pipeline",
    "init_default_scope",
    "init_model",
    "register_all_modules",
    "show_result_pyplot",
]

Picture = NDArray[np.uint8]
Input = str | Path | Picture | PillowImage.Image
"""An image: its file, a BGR array (H, W, 3) uint8 as OpenCV reads it, or a Pillow image."""
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
WEIGHT_SUFFIXES = (".pth", ".pt", ".safetensors")
_LABEL_STEPS = ("LoadAnnotations",)
_OF_PREDICTION = ("model", "default_scope", "test_pipeline", "test_dataloader")


def register_all_modules(init_default_scope: bool = True) -> None:
    """Import every room whose classes configs name; a config that is loaded does so by itself.

    Args:
        init_default_scope: Whether names without a scope mean those of nlseg from now on.
    """
    import nlseg.datasets
    import nlseg.evaluation
    import nlseg.run
    import nlseg.visualization.visualizer  # noqa: F401 - registers, as the others

    if init_default_scope:
        _use_scope(SCOPE)


_use_scope = init_default_scope  # the name is an argument of register_all_modules


def init_model(
    config: str | Path | Config,
    checkpoint: str | Path | None = None,
    device: str | torch.device | None = None,
    cfg_options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build a segmentor for inference.

    Args:
        config: Config file, the name of a published config, ``hf://OWNER/NAME[@REVISION]`` for a
            model of the Hugging Face Hub, or a loaded config.
        checkpoint: Weights: file, https address, published name or ``hf://OWNER/NAME``; every one
            must fit. None takes those of a model of the Hub, and else leaves random weights.
        device: Where to compute, such as ``cuda:0``; a GPU where there is one, when not given.
        cfg_options: Settings to override, by dotted name; checked where ``config`` is a file.

    Returns:
        The segmentor in evaluation mode, with its config as ``cfg`` and its data set's classes and
        colours as ``dataset_meta``.

    Raises:
        UserError: Config or weights cannot be read, or do not fit each other; or there is no such
            device.
    """
    place = _device(device)
    options = dict(cfg_options or {})
    if isinstance(config, Config):
        cfg = _copied(config)
        cfg.merge_from_dict(options)
    elif isinstance(config, (str, Path)):
        overrides = [f"{key}={value!r}" for key, value in options.items()]
        cfg = load_config(config, overrides, together=not options)
    else:
        raise ConfigError(f"init_model: config is {config!r}, which is no file, name or Config")
    init_default_scope(cfg.get("default_scope") or SCOPE)
    settings = with_class_weights(cfg.model.to_dict(), None)
    settings.update(train_cfg=None, pretrained=None)
    settings.get("backbone", {}).pop("init_cfg", None)
    meta = dataset_meta_of(cfg)
    content: dict[str, Any] = {}
    if not isinstance(config, Config) and is_on_the_hub(config):
        checkpoint = checkpoint or str(config)
        content = read_checkpoint(checkpoint)
        with torch.device("meta"):  # shapes first: a config may ask for more than a machine has
            check_fit(MODELS.build(settings), weights_in(content, str(checkpoint)), str(config))
        meta.update(meta_in({"meta": {"dataset_meta": cfg.to_dict()}}, str(config)))
    model: nn.Module = revert_sync_batchnorm(MODELS.build(settings))
    if checkpoint is not None:
        content = content or read_checkpoint(checkpoint)
        load_strictly(model, weights_in(content, str(checkpoint)), str(checkpoint))
        meta = {**meta, **meta_in(content, str(checkpoint))}
    model.cfg, model.dataset_meta = cfg, meta  # type: ignore[assignment]
    return model.to(place).eval()


def _copied(config: Config) -> Config:
    """Copy a config that is loaded already; one that says ``mmseg`` gets our names."""
    if config.get("default_scope", SCOPE) not in (FOREIGN_SCOPE, None):
        return config.copy()
    text = config.pretty_text  # with it, Config does not look for the file
    return Config(rename_scope(config.to_dict()), cfg_text=text, filename=config.filename)


def _device(name: str | torch.device | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device: {name!r} is none of PyTorch's; give 'cpu' or 'cuda:0'") from error
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        found = f"{count} GPUs" if count else "no GPU"
        raise UserError(f"device: {name!r} is not there, PyTorch finds {found}; try device='cpu'")
    return device


def dataset_meta_of(cfg: Config) -> dict[str, Any]:
    """Return the classes and palette of the config's test data without looking at its files."""
    dataset = (cfg.get("test_dataloader") or {}).get("dataset", {})
    while "dataset" in dataset or "datasets" in dataset:
        dataset = dataset["dataset"] if "dataset" in dataset else dataset["datasets"][0]
    kind = DATASETS.get(dataset["type"]) if "type" in dataset else None
    return {**getattr(kind, "METAINFO", {}), **(dataset.get("metainfo") or {})}


def inference_model(
    model: nn.Module,
    img: Input | Sequence[Input] | NDArray[np.uint8] | None = None,
    batch_size: int = 1,
    *,
    images: Input | Sequence[Input] | None = None,
) -> Any:
    """Label one image or several.

    Args:
        model: From ``init_model``.
        img: A file, a BGR picture (H, W, 3) uint8, a Pillow image, a sequence of these, or a batch
            of pictures (N, H, W, 3).
        batch_size: Images that go through the network together where they have one size after the
            test pipeline.
        images: The earlier name of ``img``.

    Returns:
        For one image a ``SegDataSample`` with ``pred_sem_seg`` (1, H, W) and ``seg_logits``
        (K, H, W) at the image's own size. For several a list of them in the given order; where an
        image cannot be read the list holds None, and a warning says why.

    Raises:
        DataError: The one image cannot be read, or has another shape or type.
    """
    given: Any = images if img is None else img
    if given is None:
        raise DataError("inference_model: give an image, or a list of images")
    one = _is_one(given)
    if not one and (isinstance(given, torch.Tensor) or not isinstance(given, Iterable)):
        raise DataError(
            f"inference_model: a {type(given).__name__} is no image; give a file, a BGR picture "
            "(H, W, 3) uint8 as a NumPy array, a Pillow image, or a list of these"
        )
    if one:
        return _label(model, [given], inference_pipeline(model.cfg), strict=True)[0]  # type: ignore[arg-type]
    return list(_label_all(model, given, batch_size))


def _is_one(given: Any) -> bool:
    if isinstance(given, np.ndarray):
        return given.ndim != 4  # a batch of pictures has four axes
    return isinstance(given, (str, Path, PillowImage.Image))


def _label_all(
    model: nn.Module, images: Iterable[Any], batch_size: int
) -> Iterator[SegDataSample | None]:
    if batch_size < 1:
        raise ConfigError(f"batch_size: {batch_size}; give a whole number from 1 on")
    pipeline = inference_pipeline(model.cfg)  # type: ignore[arg-type]
    rest, first = iter(images), 0
    while chunk := list(islice(rest, batch_size)):
        yield from _label(model, chunk, pipeline, first)
        first += len(chunk)


def _label(
    model: nn.Module,
    images: Sequence[Any],
    pipeline: Compose,
    first: int = 0,
    *,
    strict: bool = False,
) -> list[SegDataSample | None]:
    """Label images, those of one size together.

    Args:
        model: The segmentor.
        images: Any number of them.
        pipeline: Prepares an image.
        first: Position of the first one in the user's list, for warnings.
        strict: Whether an image that cannot be read is an error, and not a None with a warning.
    """
    items: dict[int, Any] = {}
    for i, image in enumerate(images):
        name = str(image) if isinstance(image, (str, Path)) else f"image {first + i}"
        try:
            items[i] = _prepare(image, pipeline, name)
        except DataError as error:
            if strict:
                raise
            warnings.warn(f"{error}; its result is None", stacklevel=4)
    results: list[SegDataSample | None] = [None] * len(images)
    by_size: dict[Any, list[int]] = {}
    for i, item in items.items():
        by_size.setdefault(getattr(item["inputs"], "shape", i), []).append(i)
    for members in by_size.values():
        batch = {key: [items[i][key] for i in members] for key in items[members[0]]}
        with torch.no_grad():
            samples = model.test_step(batch)  # type: ignore[operator]
        for i, sample in zip(members, samples, strict=True):
            results[i] = sample
    return results


def inference_pipeline(cfg: Config) -> Compose:
    """Build the config's test pipeline without the steps that load labels; ``cfg`` stays as it is.

    Raises:
        ConfigError: The config has none.
    """
    return Compose([dict(step) for step in test_steps(cfg) if step["type"] not in _LABEL_STEPS])


def test_steps(cfg: Config) -> Sequence[Mapping[str, Any]]:
    """Return the configs of the test pipeline's steps.

    Raises:
        ConfigError: The config has none.
    """
    steps = cfg.get("test_pipeline")
    if steps is None:
        dataset = (cfg.get("test_dataloader") or {}).get("dataset", {})
        while "pipeline" not in dataset and ("dataset" in dataset or "datasets" in dataset):
            dataset = dataset["dataset"] if "dataset" in dataset else dataset["datasets"][0]
        steps = dataset.get("pipeline")
    if steps is None:
        raise ConfigError("test_pipeline: not in the config, so no image can be prepared")
    return list(steps)


def _prepare(image: Any, pipeline: Compose, name: str) -> Any:
    """Run the test pipeline on an image.

    Raises:
        DataError: It cannot be read; names the file and the cause.
    """
    picture = None if isinstance(image, (str, Path)) else _as_array(image, name)
    if picture is None and Path(image).suffix.lower() in VIDEO_SUFFIXES:
        raise DataError(
            f"{name}: is a video, not an image; 'nlseg predict CONFIG CHECKPOINT {name} --out DIR' "
            "labels its frames"
        )
    sample: Any = {"img_path": str(image) if picture is None else ""}
    if picture is not None:
        shape = picture.shape[:2]
        sample.update(img=picture, img_shape=shape, ori_shape=shape)
    for step in pipeline.transforms:
        try:
            if picture is not None and isinstance(step, LoadImageFromFile):
                sample = step.put(sample, picture)  # the type that the config wants
            elif picture is None or not type(step).__name__.startswith("LoadImage"):
                sample = step(sample)
        except (DataError, OSError, ValueError, cv2.error) as error:
            text = str(error)
            raise DataError(text if name in text else f"{name}: {text}") from error
        if sample is None:
            raise DataError(f"{name}: a step of the test pipeline gave nothing")
    return sample


def _as_array(image: Any, name: str) -> Picture:
    """Return an array or a Pillow image as BGR picture (H, W, 3), by the rules for files."""
    if isinstance(image, PillowImage.Image):
        try:
            return np.ascontiguousarray(picture_to_array(image, "color"))
        except (ValueError, OSError) as error:
            raise DataError(f"{name}: {error}") from error
    if not isinstance(image, np.ndarray):
        raise DataError(
            f"{name}: is a {type(image).__name__}; a file, a BGR array (H, W, 3) uint8 or a Pillow "
            "image is needed"
        )
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise DataError(
            f"{name}: a picture has shape {image.shape} and type {image.dtype}; "
            "(H, W, 3) and uint8, in BGR order, are needed"
        )
    return image


def show_result_pyplot(
    model: nn.Module,
    img: Input,
    result: SegDataSample,
    opacity: float = 0.5,
    title: str = "",
    draw_gt: bool = True,
    draw_pred: bool = True,
    wait_time: float = 0,
    show: bool = True,
    with_labels: bool = True,
    save_dir: str | Path | None = None,
    out_file: str | Path | None = None,
) -> Picture:
    """Draw a label map over its image.

    Args:
        model: From ``init_model``; knows names and colours of the classes.
        img: The image that was labelled.
        result: What ``inference_model`` returned for it.
        opacity: Weight of the colours, in [0, 1].
        title: Stands over the window, and names the file in ``save_dir``.
        draw_gt: Draw the true labels too, to the left, where the result holds them.
        draw_pred: Draw the prediction.
        wait_time: Seconds after which the window closes; 0 waits until the user closes it.
        show: Open a window, by matplotlib; nothing is seen where there is no display.
        with_labels: Write the name of each class on its largest region.
        save_dir: Folder that gets the picture under the title, or the image's name.
        out_file: File that gets the picture.

    Returns:
        The picture, RGB (H, W, 3).

    Raises:
        DataError: The image cannot be read.
        ConfigError: ``opacity`` is outside [0, 1], or nothing is to be drawn.
    """
    painter = _painter(model, opacity)
    maps = [(draw_gt, "gt_sem_seg"), (draw_pred, "pred_sem_seg")]
    labels = [
        getattr(result, key).data[0].cpu().numpy() for draw, key in maps if draw and key in result
    ]
    if not labels:
        raise ConfigError("show_result_pyplot: nothing to draw; see draw_gt and draw_pred")
    image = _as_rgb(img)
    drawn = [painter.draw(image, label, captions=with_labels) for label in labels]
    picture = drawn[0] if len(drawn) == 1 else side_by_side(drawn, gap=8)
    name = title or (Path(img).stem if isinstance(img, (str, Path)) else "result")
    for file in (save_dir and Path(save_dir) / f"{name}.png", out_file):
        if file:
            write_picture(Path(file), picture)
    if show:
        _show(picture, title, wait_time)
    return picture


def _painter(model: nn.Module, opacity: float) -> Painter:
    if not 0 <= opacity <= 1:
        raise ConfigError(f"opacity: {opacity} is outside [0, 1]")
    meta: Any = model.dataset_meta
    count = int(model.num_classes)  # type: ignore[arg-type]
    classes = meta.get("classes") or [f"class {k}" for k in range(count)]
    return Painter(classes, meta.get("palette"), opacity)


def _as_rgb(image: Any) -> Picture:
    if isinstance(image, (str, Path)):
        bgr = LoadImageFromFile().read(str(image))
    else:
        bgr = _as_array(image, "img")
    return np.ascontiguousarray(bgr[..., ::-1])


def _show(picture: Picture, title: str, wait_time: float) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(num=title or None, layout="constrained")
    axes.imshow(picture)
    axes.set_axis_off()
    plt.show(block=wait_time == 0)
    if wait_time:
        plt.pause(wait_time)
    plt.close(figure)


class MMSegInferencer:
    """A network that is called with images, and draws and writes what it finds.

    Args:
        model: Config file, bare name of a published config, loaded config, a model from
            ``init_model``, or a checkpoint that holds its config, as those of runs do.
        weights: As ``checkpoint`` of ``init_model``; without it the name of a published model
            stands for its weights too, which are downloaded. Alone it is a checkpoint that holds
            its config.
        classes: Names of the classes, in place of the weights' own.
        palette: Their RGB colours (K, 3) in 0..255.
        dataset_name: Data set whose names and colours are taken, such as ``cityscapes``.
        device: See ``init_model``.
        scope: ``nlseg``, which ``mmseg`` means here too.

    Raises:
        UserError: See ``init_model``.
    """

    def __init__(
        self,
        model: str | Path | Config | nn.Module | None = None,
        weights: str | Path | None = None,
        classes: Sequence[str] | None = None,
        palette: ArrayLike | None = None,
        dataset_name: str | None = None,
        device: str | torch.device | None = None,
        scope: str = FOREIGN_SCOPE,
    ) -> None:
        if scope not in (SCOPE, FOREIGN_SCOPE):
            raise ConfigError(f"scope: {scope!r}; {SCOPE!r} and {FOREIGN_SCOPE!r} are known")
        self.model = _built(model, weights, device)
        meta: dict[str, Any] = dict(self.model.dataset_meta)  # type: ignore[arg-type]
        if dataset_name is not None:
            meta.update(classes=get_classes(dataset_name), palette=get_palette(dataset_name))
        if classes is not None:
            meta["classes"] = classes
        if palette is not None:
            meta["palette"] = palette
        self.model.dataset_meta = meta  # type: ignore[assignment]
        self.num_images = 0

    def __call__(
        self,
        inputs: Input | Sequence[Input],
        return_datasamples: bool = False,
        batch_size: int = 1,
        return_vis: bool = False,
        show: bool = False,
        wait_time: float = 0,
        out_dir: str | Path = "",
        img_out_dir: str = "vis",
        pred_out_dir: str = "pred",
        opacity: float = 0.8,
        with_labels: bool = True,
        show_dir: str | Path = "",
    ) -> Any:
        """Label images.

        Args:
            inputs: As ``img`` of ``inference_model``; or a folder, whose images are labelled in
                the order of their names.
            return_datasamples: Return data samples instead of a dict of arrays.
            batch_size: See ``inference_model``.
            return_vis: Return the pictures too.
            show: Open a window for each picture.
            wait_time: See ``show_result_pyplot``.
            out_dir: Folder for pictures and label maps; without it neither is written.
            img_out_dir: Its folder of pictures, under the names of the images; '' for none.
            pred_out_dir: Its folder of label maps, ``00000000_pred.png`` and so on, numbered in the
                order of the calls; '' for none.
            opacity: Weight of the colours in pictures, in [0, 1].
            with_labels: Write the names of the classes into pictures.
            show_dir: Folder for pictures, also without ``out_dir``.

        Returns:
            A dict with ``predictions``, label maps (H, W), and ``visualization``, RGB pictures
            where they were drawn; each a list, or its one entry for one image. With
            ``return_datasamples`` the data samples alike. An image of several that cannot be read
            has None in every list, and a warning says why.

        Raises:
            DataError: The one image cannot be read, or a folder holds none.
        """
        images = self._images(inputs)
        img_folder = Path(show_dir) if show_dir else _below(out_dir, img_out_dir)
        pred_folder = _below(out_dir, pred_out_dir)
        draws = bool(return_vis or show or img_folder)
        samples: list[SegDataSample | None] = []
        labels: list[Any] = []
        pictures: list[Any] = []
        names: set[str] = set()
        found = (
            iter([inference_model(self.model, inputs)])
            if images is None
            else _label_all(self.model, images, batch_size)
        )
        for image, sample in zip([inputs] if images is None else images, found, strict=True):
            number, self.num_images = self.num_images, self.num_images + 1
            label = None if sample is None else sample.pred_sem_seg.data[0].cpu().numpy()
            if return_datasamples:
                samples.append(sample)
            else:
                labels.append(label)
            if pred_folder and label is not None:
                data = encode_label(label)
                _write(pred_folder / f"{number:08}_pred.png", data)
            if not draws:
                continue
            picture = None
            if sample is not None:
                file = img_folder / _picture_name(image, number, names) if img_folder else None
                picture = show_result_pyplot(
                    self.model, image, sample, opacity, wait_time=wait_time, show=show,
                    with_labels=with_labels, out_file=file,
                )  # fmt: skip
            if return_vis or not img_folder:
                pictures.append(picture)
        if return_datasamples:
            return samples[0] if len(samples) == 1 else samples
        results = {"predictions": labels, "visualization": pictures}
        return {key: each[0] if len(each) == 1 else each for key, each in results.items()}

    def _images(self, inputs: Any) -> Sequence[Any] | None:
        """Return the images of a list or a folder, and None for one image."""
        if not _is_one(inputs):
            return list(inputs)
        if not isinstance(inputs, (str, Path)) or not Path(inputs).is_dir():
            return None
        files = sorted(p for p in Path(inputs).iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise DataError(f"{inputs}: no image in this folder ({', '.join(IMAGE_SUFFIXES)})")
        return files


def _built(model: Any, weights: str | Path | None, device: str | torch.device | None) -> nn.Module:
    if isinstance(model, nn.Module) and weights is not None:
        raise ConfigError("weights: the model has its own; give a config with weights")
    if isinstance(model, nn.Module):
        return model if device is None else model.to(_device(device))
    if _is_weights(model) and weights is not None:
        raise ConfigError(f"model: {model} is a checkpoint, and weights are given too")
    if _is_weights(model) or (model is None and weights is not None):
        alone: Any = model or weights
        return init_model(_config_in(alone), alone, device)
    if not isinstance(model, (str, Path, Config)):
        raise ConfigError(f"model: is a {type(model).__name__}; give a config or a model")
    if weights is None and str(model) in NAMES:
        weights = model = NAMES[str(model)]
    if weights is None and (isinstance(model, Config) or not is_on_the_hub(model)):
        warnings.warn("MMSegInferencer: no weights are given, so results are random", stacklevel=3)
    return init_model(model, weights, device)


def _is_weights(model: Any) -> bool:
    return isinstance(model, (str, Path)) and Path(model).suffix in WEIGHT_SUFFIXES


def _config_in(weights: str | Path) -> Config:
    """Return what a checkpoint's own config says of the network and its test pipeline.

    Raises:
        ConfigError: It holds no config, or one that names more than registered classes.
    """
    text = mapping(read_checkpoint(weights), "meta", str(weights)).get("cfg")
    if not isinstance(text, str):
        raise ConfigError(
            f"{weights}: holds no config (meta.cfg); give the config beside it: "
            "MMSegInferencer(CONFIG, WEIGHTS)"
        )
    place = f"{weights}: meta.cfg"
    try:
        values = rename_scope(parse_assignments(text))
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error
    used = {key: values[key] for key in _OF_PREDICTION if values.get(key) is not None}
    if not isinstance(used.get("model"), dict):
        raise ConfigError(f"{place}: has no 'model'")
    used["model"].update(pretrained=None)
    refuse_code(used, place)
    return Config(used)


def _below(out_dir: str | Path, name: str) -> Path | None:
    return Path(out_dir) / name if out_dir and name else None


def _picture_name(image: Any, number: int, taken: set[str]) -> str:
    """Name the picture of an image; two images of one name get two names."""
    name = Path(image).name if isinstance(image, (str, Path)) else f"{number:08}_vis.jpg"
    if name in taken:
        name = f"{number:08}_{name}"
    taken.add(name)
    return name


def _write(file: Path, data: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_file(file, data)
