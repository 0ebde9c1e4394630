"""The files of a published model, and what must not be in them."""

import hashlib
import io
import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import mmengine
import numpy as np
import torch
from mmengine.config import Config
from numpy.random import RandomState
from torch import nn

import nlseg
from nlseg.api import inference_model, init_model, test_steps
from nlseg.config import load_config
from nlseg.config.show import read_any
from nlseg.config.text import python_text
from nlseg.datasets.street_scene import draw_scene
from nlseg.errors import DataError, UserError
from nlseg.files import in_use, write_file
from nlseg.publish.card import card_of, score_of
from nlseg.registry import SCOPE
from nlseg.visualization.painter import Painter
from nlseg.visualization.pictures import as_palette
from nlseg.weights.files import read_checkpoint
from nlseg.weights.hub import CONFIG, WEIGHTS
from nlseg.weights.safetensors_file import write_safetensors
from nlseg.zoo.receipt import read_receipt

CARD, EXAMPLE = "README.md", "example.jpg"
_PLACES = ("pretrained", "checkpoint", "init_cfg", "load_from", "data_root", "work_dir")
"""Keys whose values name files, or say how to start a training; no network needs them."""
_SHORTEST = 5  # letters from which a host name is more than a common word


def publish(
    checkpoint: Path,
    out: Path,
    *,
    config: str | None = None,
    overrides: Sequence[str] = (),
    name: str | None = None,
    licence: str = "other",
    receipt: str | None = None,
    example: str | None = None,
    repository: str | None = None,
) -> list[Path]:
    """Write the folder of a model.

    Args:
        checkpoint: Weights of a run, or of anyone, that fit ``config``.
        out: Folder, absent or empty.
        config: Config file or published name; the one in the checkpoint where None.
        overrides: ``key=value`` on top of it.
        name: Of the model; that of the folder where None.
        licence: Identifier of the Hub.
        receipt: Of the score; without one no score is written.
        example: Image that is painted; a drawn scene where None.
        repository: ``OWNER/NAME`` that the card tells to load from.

    Returns:
        The files.

    Raises:
        UserError: The folder is not empty, weights do not fit or are not finite, the receipt is not
            of these weights, or a file would tell a path or a name of this machine.
    """
    if why := in_use(out):
        raise UserError(f"{out}: {why}; give a new folder")
    cfg = read_any(checkpoint) if config is None else load_config(config, overrides)
    content = read_checkpoint(checkpoint)
    model = init_model(cfg, checkpoint, "cpu")
    values = config_of(model, cfg)
    name = name or out.resolve().name
    score = None if receipt is None else score_of(read_receipt(receipt), checkpoint)
    files: dict[str, bytes] = {CONFIG: json_bytes(values)}
    weights = weights_bytes(model, values, content.get("meta"))
    weights_file = f"{name}-{hashlib.sha256(weights).hexdigest()[:8]}.pth"
    files[weights_file] = weights
    card = card_of(
        name, values, source=repository or f"path/to/{name}", weights_file=weights_file,
        licence=licence, data_set=data_set_of(cfg), score=score,
    )  # fmt: skip
    files[CARD] = card.encode()
    files[EXAMPLE] = painted(model, example)
    refuse_leaks(files, places_of(checkpoint, cfg))
    out.mkdir(parents=True, exist_ok=True)
    write_safetensors(weights_of(model), out / WEIGHTS)
    for file, data in files.items():
        write_file(out / file, data)
    return sorted(out.iterdir())


def config_of(model: nn.Module, cfg: Config) -> dict[str, Any]:
    """Return the content of ``config.json``: the network and how it is fed, no file, no training.

    Args:
        model: From ``init_model``.
        cfg: The config that it was built from.
    """
    inner: Any = model
    classes = list(inner.dataset_meta.get("classes") or map(str, range(inner.num_classes)))
    palette = as_palette(inner.dataset_meta.get("palette"), len(classes)).tolist()
    network = _plain(cfg.model.to_dict())
    return {
        "library_name": "nlseg",
        "versions": {
            "nlseg": nlseg.__version__,
            "torch": torch.__version__,
            "mmengine": mmengine.__version__,
        },
        "classes": classes,
        "palette": palette,
        "default_scope": cfg.get("default_scope") or SCOPE,
        "model": network,
        "test_pipeline": _plain([dict(step) for step in test_steps(cfg)]),
    }


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the weights; averaged ones where the checkpoint had them in their place."""
    return {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}


def weights_bytes(
    model: nn.Module, values: Mapping[str, Any], meta: Mapping[str, Any] | None
) -> bytes:
    """Return a checkpoint in OpenMMLab's layout: ``meta`` and ``state_dict``, nothing to resume."""
    known = meta or {}
    content = {
        "meta": {
            "dataset_meta": {"classes": values["classes"], "palette": values["palette"]},
            "cfg": python_text(
                {key: values[key] for key in ("default_scope", "model", "test_pipeline")}
            ),
            "nlseg_version": nlseg.__version__,
            "mmengine_version": mmengine.__version__,
            **{key: known[key] for key in ("iter", "epoch") if isinstance(known.get(key), int)},
        },
        "state_dict": weights_of(model),
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def json_bytes(values: Mapping[str, Any]) -> bytes:
    """Return values as the bytes of a JSON file."""
    return (json.dumps(values, indent=1, allow_nan=False) + "\n").encode()


def data_set_of(cfg: Config) -> str | None:
    """Return the name of the config's test data, None where it has none."""
    settings = (cfg.get("test_dataloader") or {}).get("dataset", {})
    while "dataset" in settings or "datasets" in settings:
        settings = settings["dataset"] if "dataset" in settings else settings["datasets"][0]
    kind = settings.get("type")
    return None if kind is None else str(kind).rsplit(".", 1)[-1].removesuffix("Dataset").lower()


def painted(model: nn.Module, image: str | None) -> bytes:
    """Return a JPEG of an image beside its prediction, with a legend.

    Raises:
        DataError: The image cannot be read.
    """
    if image is None:
        picture = draw_scene(RandomState(0), 256, 512)[0]
    else:
        try:  # cv2.imread ends the process at a name that is not UTF-8
            data = np.frombuffer(Path(image).read_bytes(), np.uint8)
        except OSError as error:
            raise DataError(f"{image}: cannot be read: {error.strerror}") from error
        read = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
        if read is None:
            raise DataError(f"{image}: is no image that OpenCV can read")
        picture = np.asarray(read, np.uint8)
    inner: Any = model
    classes = inner.dataset_meta.get("classes") or list(map(str, range(inner.num_classes)))
    label = inference_model(model, picture).pred_sem_seg.data[0].numpy()
    painter = Painter(classes, inner.dataset_meta.get("palette"))
    drawn = painter.draw_beside(np.ascontiguousarray(picture[..., ::-1]), label)
    return bytes(cv2.imencode(".jpg", drawn[..., ::-1])[1])


def places_of(checkpoint: Path, cfg: Config) -> dict[str, str]:
    """Return what must not be published: text to what it is."""
    found = {
        str(Path.cwd()): "the working folder",
        str(Path.home()): "the home folder",
        str(checkpoint.resolve().parent): "the folder of the checkpoint",
        socket.gethostname(): "the name of this machine",
    }
    for key, kind in (("work_dir", "the work folder"), ("data_root", "the folder of the data")):
        value = cfg.get(key)
        if isinstance(value, str) and os.path.isabs(value):
            found[value] = kind
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if os.environ.get(variable):
            found[os.environ[variable]] = f"the value of {variable}"
    return {
        text: kind
        for text, kind in found.items()
        if len(text) >= _SHORTEST and text not in ("localhost", os.sep)
    }


def refuse_leaks(files: Mapping[str, bytes], places: Mapping[str, str]) -> None:
    """Refuse to write what tells of this machine.

    Raises:
        UserError: It names the file and what is in it.
    """
    for name, data in files.items():
        for text, kind in places.items():
            if text.encode() in data:
                shown = "" if kind.startswith("the value") else f" ({text})"
                raise UserError(
                    f"{name}: would hold {kind}{shown}; give a config without it by --config"
                )


def push(folder: Path, repository: str) -> str:
    """Upload a folder to the Hub; returns its address. The token is huggingface_hub's own.

    Raises:
        UserError: huggingface_hub is not installed, or the Hub refuses.
    """
    try:
        import huggingface_hub
    except ImportError:
        raise UserError("--push: needs huggingface_hub; pip install 'nlseg[hub]'") from None
    try:
        hub = huggingface_hub.HfApi()
        hub.create_repo(repository, exist_ok=True)
        done = hub.upload_folder(repo_id=repository, folder_path=folder)
    except Exception as error:  # what carries the requests, and so its errors, changed over time
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise UserError(
            f"--push {repository}: {reason}; the folder {folder} is whole; after 'hf auth login' "
            f"'hf upload {repository} {folder}' sends it"
        ) from None
    return str(done.commit_url)


def _plain(value: Any) -> Any:
    """Return a value of JSON without the keys that name files."""
    if isinstance(value, Mapping):
        return dict(_kept(value))
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise UserError(f"config: {value!r} is a {type(value).__name__}, which no config.json can hold")


def _kept(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if key not in _PLACES and not (key == "class_weight" and isinstance(value, str)):
            yield key, _plain(value)
