"""A data set's files as a cache of frames: what its pipeline would load, decoded once."""

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlseg.datasets.frame_cache import FrameCache, Source, open_cache
from nlseg.datasets.transforms.annotations import LoadAnnotations
from nlseg.datasets.transforms.loading import LoadImageFromFile
from nlseg.errors import ConfigError

if TYPE_CHECKING:
    from nlseg.datasets.base import BaseSegDataset

_DEFAULT_FOLDER = ".nlseg_cache"
_KEYS = (("img_path", "cached_img"), ("seg_map_path", "cached_label"))


def cache_files(dataset: "BaseSegDataset") -> FrameCache:
    """Open or build the cache of a data set's images and label maps.

    Label maps are kept as the files say; shift and label map are applied after reading.

    Args:
        dataset: Its files are listed; the loading transforms of its pipeline decode.

    Raises:
        ConfigError: The kind of cache is unknown, or the pipeline does not load uint8 images by
            ``LoadImageFromFile``.
        DataError: The folder cannot be written or is too small.
    """
    if dataset.cache != "memmap":
        kind = type(dataset).__name__
        raise ConfigError(f"{kind}.cache: {dataset.cache!r} is neither None nor 'memmap'")
    entries, transforms = dataset.data_list, dataset.pipeline.transforms
    load = next((step for step in transforms if type(step) is LoadImageFromFile), None)
    annotate = next((step for step in transforms if type(step) is LoadAnnotations), None)
    if load is None or not load.is_plain:
        raise ConfigError(
            "cache='memmap': the pipeline needs LoadImageFromFile with color_type='color', "
            "to_float32=False and ignore_empty=False; change that or leave cache out"
        )
    sources = [Source(entry["img_path"], load.read, 3) for entry in entries]
    key = f"{load.color_type} {load.imdecode_backend}"
    if annotate is not None:
        read = partial(annotate.read, sample={"palette_to_index": dataset.palette_to_index})
        labels = [entry["seg_map_path"] for entry in entries if "seg_map_path" in entry]
        sources += [Source(label, read, 0) for label in labels]
        key += (
            f" {annotate.imdecode_backend} {annotate.palette_to_index or dataset.palette_to_index}"
        )
    name = Path(os.path.dirname(entries[0]["img_path"])).name or "frames"
    folder = dataset.cache_dir or os.path.join(dataset.data_root or "", _DEFAULT_FOLDER)
    return open_cache(folder, name, key, sources)


def attach_frames(cache: FrameCache, entry: dict[str, Any]) -> None:
    """Hand a sample its decoded frames, as far as the cache has them."""
    for path, key in _KEYS:
        frame = cache.get(entry[path]) if path in entry else None
        if frame is not None:
            entry[key] = frame
