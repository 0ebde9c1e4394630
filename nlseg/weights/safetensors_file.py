"""Read and write safetensors files, which hold tensors and texts and nothing that could run."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from nlseg.errors import CheckpointError
from nlseg.files import write_file


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file by name.

    Raises:
        CheckpointError: The header is broken or describes data that is not in the file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            # a clone, because the tensors would stay tied to the file and what becomes of it
            return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: is refused, not a whole safetensors file: {error}"
        ) from None


def write_safetensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors to a file that is whole or not there.

    Args:
        tensors: By name. Tensors that share memory are written once each.
        path: The final name.
        metadata: Texts for the header.
    """
    from safetensors.torch import save

    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    data = save(own, {"format": "pt", **(metadata or {})})
    write_file(path, data)
