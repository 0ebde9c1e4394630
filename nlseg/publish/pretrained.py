"""A published model by the interface of the Hugging Face Hub."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import torch
from huggingface_hub import PyTorchModelHubMixin
from mmengine.config import Config
from numpy.typing import NDArray
from torch import Tensor, nn

from nlseg.api import inference_model, init_model
from nlseg.errors import ConfigError
from nlseg.files import write_file
from nlseg.publish.card import card_of
from nlseg.publish.folder import CARD, config_of, json_bytes, weights_of
from nlseg.weights.hub import CONFIG, WEIGHTS, refuse_code
from nlseg.weights.safetensors_file import write_safetensors


class PretrainedSegmentor(nn.Module, PyTorchModelHubMixin):
    """A segmentor with ``save_pretrained``, ``from_pretrained`` and ``push_to_hub``.

    From the Hub ``config.json`` and ``model.safetensors`` are read; no code of a repository runs.

    Args:
        segmentor: From ``nlseg.api.init_model``.
    """

    def __init__(self, segmentor: nn.Module) -> None:
        super().__init__()
        self.segmentor: Any = segmentor

    def forward(self, inputs: Tensor) -> Tensor:
        """Map normalised images (N, 3, H, W) to the head's logits (N, K, h, w)."""
        logits: Tensor = self.segmentor(inputs, mode="tensor")
        return logits

    def label(self, image: Any) -> NDArray[np.integer]:
        """Return the classes (H, W) of a file, a BGR array (H, W, 3) or a Pillow image."""
        label: NDArray[np.integer]
        label = inference_model(self.segmentor, image).pred_sem_seg.data[0].cpu().numpy()
        return label

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes."""
        return list(self.segmentor.dataset_meta["classes"])

    def _save_pretrained(self, save_directory: Path) -> None:
        values = config_of(self.segmentor, self.segmentor.cfg)
        write_safetensors(weights_of(self.segmentor), save_directory / WEIGHTS)
        card = card_of(
            save_directory.name, values, source=f"path/to/{save_directory.name}",
            weights_file=WEIGHTS, licence="other", data_set=None, score=None, example=False,
        )  # fmt: skip
        for file, data in ((CONFIG, json_bytes(values)), (CARD, card.encode())):
            write_file(save_directory / file, data)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        map_location: str | torch.device = "cpu",
        strict: bool = True,
        **_: object,
    ) -> "PretrainedSegmentor":
        """Build the segmentor of a folder or repository; every weight has to fit."""

        def file(name: str) -> Path:
            if Path(model_id).is_dir():
                return Path(model_id) / name
            return Path(
                huggingface_hub.hf_hub_download(
                    model_id, name, revision=revision, cache_dir=cache_dir,
                    force_download=force_download, local_files_only=local_files_only, token=token,
                )
            )  # fmt: skip

        place = f"{model_id}/{CONFIG}"
        try:
            values = json.loads(file(CONFIG).read_text())
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{place}: is no JSON: {error}") from None
        if not isinstance(values, dict) or not isinstance(values.get("model"), dict):
            raise ConfigError(f"{place}: describes no model of nlseg (it has no 'model')")
        refuse_code(values, place)
        model = init_model(Config(values), file(WEIGHTS), map_location)
        meta = {key: values[key] for key in ("classes", "palette") if key in values}
        model.dataset_meta = {**model.dataset_meta, **meta}  # type: ignore[dict-item, assignment]
        return cls(model)
