"""Copies of checkpoints for others: fewer entries, and a hash in the name."""

from collections.abc import Sequence
from pathlib import Path

from nlseg.files import sync_folder
from nlseg.run import checkpoint as files
from nlseg.weights.files import read_checkpoint


def publish(path: Path, keys: Sequence[str], target: Path | None = None) -> Path:
    """Write a copy of a checkpoint with some of its entries.

    Args:
        path: The checkpoint.
        keys: Entries to keep, such as 'meta' and 'state_dict'.
        target: Name of the copy, before the hash is put in; the checkpoint's own when not given.

    Returns:
        The copy, whose name ends in the first 8 digits of its SHA-256.
    """
    content = {key: value for key, value in read_checkpoint(path).items() if key in keys}
    plain_name = target or path
    unnamed = plain_name.with_name(f".{plain_name.stem}.publishing.pth")
    record = files.save(content, unnamed)
    final = plain_name.with_name(f"{plain_name.stem}-{record.sha256[:8]}.pth")
    unnamed.replace(final)
    files.record_path(unnamed).unlink()
    sync_folder(final.parent)
    return final
