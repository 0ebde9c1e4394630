"""A data set of images and label maps, described by folders, suffixes and class names."""

import copy
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from mmengine.fileio import join_path
from mmengine.utils import is_abs
from torch.utils.data import Dataset

from nlseg.bounds import Natural
from nlseg.datasets.bad_samples import BadSamplePolicy, BadSamples
from nlseg.datasets.cache import FrameCache, attach_frames, cache_files
from nlseg.datasets.metainfo import class_map, fit_palette, join_label_maps, read_metainfo
from nlseg.datasets.pairs import Folders, PairSource, find_pairs
from nlseg.datasets.stream import global_seeds, sample_rng
from nlseg.datasets.transforms.compose import Compose, FuseMode
from nlseg.datasets.transforms.draws import seeded_globals
from nlseg.datasets.transforms.labels import check_range
from nlseg.datasets.transforms.pack import final_label
from nlseg.errors import ConfigError, DataError
from nlseg.extension import Absent, Extensible, check_overrides, extension_point, overridden, takes
from nlseg.registry import DATASETS
from nlseg.structures import IGNORE_INDEX, SampleIndex

Pipeline = Sequence[dict[str, Any] | Callable[[Any], Any]]
Entry = dict[str, Any]
"""What is known of a sample before it is loaded: its files and the rules for its labels."""
_OLD_METAINFO = ("CLASSES", "PALETTE")


class SharedList(Sequence[Entry]):
    """Entries pickled into one array: worker processes share its memory, as of a list they do not.

    Args:
        entries: In their order.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        pickled = [pickle.dumps(entry, protocol=4) for entry in entries]
        self.ends = np.cumsum([len(one) for one in pickled], dtype=np.int64)
        self.bytes = np.frombuffer(b"".join(pickled), np.uint8)

    def __len__(self) -> int:
        """Count the entries."""
        return len(self.ends)

    def __getitem__(self, index: Any) -> Any:
        """Return a fresh copy of an entry, or of several for a slice."""
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        start = int(self.ends[place - 1]) if place else 0
        return pickle.loads(self.bytes[start : int(self.ends[place])].data)


@DATASETS.register_module()
class BaseSegDataset(Extensible, Dataset[Any]):
    """Images with label maps of the same relative name in another folder.

    Item n of the training stream is ``dataset[SampleIndex(index, n)]``: its random draws depend on
    ``seed`` and n alone.

    Args:
        ann_file: Text file with one relative path without suffix a line. Empty: every image below
            the image folder, sorted.
        img_suffix: End of the image files' names; None for the class's ``IMG_SUFFIX``.
        seg_map_suffix: End of the label files' names; None for the class's ``SEG_MAP_SUFFIX``.
        metainfo: ``dict(classes=..., palette=...)``: names as a tuple, list or text file, and an
            RGB colour for each.
        data_root: Folder that the relative paths start from.
        data_prefix: Folders ``img_path`` and ``seg_map_path``; without the latter there are no
            labels.
        filter_cfg: Kept for subclasses that override ``filter_data``.
        indices: The first n (or last, if negative) images, or those of these numbers.
        serialize_data: Hold the file list as one array, which worker processes share.
        pipeline: Transforms from file names to ``dict(inputs, data_samples)``.
        test_mode: Evaluation: no random generator, every image once.
        lazy_init: Look for the files at first use only.
        max_refetch: How many other images are tried in training when a pipeline gives None.
        ignore_index: Label that neither trains nor counts.
        reduce_zero_label: Label 0 is ignored and k becomes class k - 1; None for the class's
            ``REDUCE_ZERO_LABEL``.
        backend_args: Arguments of an mmengine file backend for files that are not local.
        label_map: Class index for raw values of the label files, such as ``{255: 1}`` for masks
            of 0 and 255; values that it does not name stay. None for the class's ``LABEL_MAP``.
        palette_to_index: Label files are painted in colours: True for the palette's, or a list of
            RGB colours, or a mapping from RGB tuples to class indices.
        check_labels: Refuse label values outside the class range when a label file is loaded, or at
            the end of a pipeline with transforms of your own, which may make other labels of them.
        bad_samples: ``dict(policy="raise" | "skip" | "replace", limit=..., log=...)``: what
            happens to a sample whose files cannot be used.
        fuse: ``exact``, ``fast`` or ``off``: whether random resize, crop and flip are one step, see
            ``transforms.Compose``.
        cache: ``memmap`` keeps the decoded files in one file on disk, see ``nlseg.datasets.cache``.
        cache_dir: Folder of that file; None for ``.nlseg_cache`` in the data root.
        seed: Seed of the random draws; the training sampler hands over the run's.

    Raises:
        ConfigError: An argument is not usable.
        DataError: Files are missing.
    """

    not_called: ClassVar[Mapping[str, str]] = {
        "load_annotations": "write load_data_list(self)",
        "parse_data_info": "write load_data_list(self)",
        "_rand_another": "another image is drawn from the sample's own generator; leave it out",
        "evaluate": "evaluation is a metric's: write a subclass of IoUMetric",
        "pre_eval": "evaluation is a metric's: write a subclass of IoUMetric",
        "format_results": "predictions are written by a metric: write a subclass of IoUMetric",
        "pre_pipeline": "write get_data_info(self, idx)",
        "prepare_train_img": "write prepare_data(self, idx)",
        "prepare_test_img": "write prepare_data(self, idx)",
        "get_classes_and_palette": "give metainfo=dict(classes=..., palette=...)",
    }
    may_take_less = ("prepare_data",)

    _fully_initialized: bool = False
    _number: int | None = None
    METAINFO: ClassVar[dict[str, Any]] = {}
    IMG_SUFFIX: ClassVar[str] = ".jpg"
    SEG_MAP_SUFFIX: ClassVar[str] = ".png"
    REDUCE_ZERO_LABEL: ClassVar[bool] = False
    LABEL_MAP: ClassVar[dict[int, int] | None] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Check what a subclass overrides; names beside ``METAINFO`` may be parts of it."""
        super().__init_subclass__(**kwargs)
        if "METAINFO" not in vars(cls):
            advice = "write METAINFO = dict(classes=..., palette=...)"
            absent: Absent = dict.fromkeys(_OLD_METAINFO, ((), advice))
            check_overrides(cls, absent, may_take_less=cls.may_take_less)

    def __init__(
        self,
        ann_file: str = "",
        img_suffix: str | None = None,
        *,
        seg_map_suffix: str | None = None,
        metainfo: Mapping[str, Any] | None = None,
        data_root: str | None = None,
        data_prefix: Folders | None = None,
        filter_cfg: Mapping[str, Any] | None = None,
        indices: int | Sequence[int] | None = None,
        serialize_data: bool = True,
        pipeline: Pipeline = (),
        test_mode: bool = False,
        lazy_init: bool = False,
        max_refetch: Natural = 1000,
        ignore_index: int = IGNORE_INDEX,
        reduce_zero_label: bool | None = None,
        backend_args: Mapping[str, Any] | None = None,
        label_map: Mapping[int, int] | None = None,
        palette_to_index: Any = None,
        check_labels: bool = True,
        bad_samples: BadSamples | None = None,
        fuse: FuseMode = "exact",
        cache: Literal["memmap"] | None = None,
        cache_dir: str | None = None,
        seed: int = 0,
    ) -> None:
        self.ann_file = ann_file
        self.img_suffix = self.IMG_SUFFIX if img_suffix is None else img_suffix
        self.seg_map_suffix = self.SEG_MAP_SUFFIX if seg_map_suffix is None else seg_map_suffix
        self.data_root = data_root
        whole_root: Folders = {"img_path": "", "seg_map_path": ""}
        self.data_prefix: dict[str, Any] = {**(whole_root if data_prefix is None else data_prefix)}
        self.filter_cfg = copy.deepcopy(filter_cfg)
        self._indices = indices
        self.serialize_data = serialize_data
        self.test_mode = test_mode
        self.max_refetch = max_refetch
        self.ignore_index = ignore_index
        self.reduce_zero_label = (
            self.REDUCE_ZERO_LABEL if reduce_zero_label is None else reduce_zero_label
        )
        self.backend_args = backend_args
        self.check_labels = check_labels
        self.bad_samples = BadSamplePolicy(**(bad_samples or {}))
        self.seed = seed
        self.data_list: Sequence[Entry] = []
        self._join_prefix()
        self._describe_classes(metainfo, label_map)
        self.palette_to_index = palette_to_index
        if palette_to_index is True:
            self.palette_to_index = self._metainfo["palette"]
        self.pipeline = Compose(pipeline, fuse)
        self.cache = cache
        self.cache_dir = cache_dir
        self.frames: FrameCache | None = None
        if not lazy_init:
            self.full_init()

    def _describe_classes(
        self, metainfo: Mapping[str, Any] | None, label_map: Mapping[int, int] | None
    ) -> None:
        """Set ``metainfo`` and ``label_map`` from what the class, the config and overrides say."""
        where = type(self).__name__
        self._metainfo = info = self._load_metainfo(metainfo)
        if self.test_mode and info.get("classes") is None:
            raise ConfigError(f"{where}.metainfo.classes: not given; evaluation needs the names")
        raw_map = self.LABEL_MAP if label_map is None else label_map
        subset = self.get_label_map(info.get("classes"))
        self.label_map = join_label_maps(raw_map, subset, self.reduce_zero_label, where)
        info.update(label_map=self.label_map, reduce_zero_label=self.reduce_zero_label)
        info["palette"] = self._update_palette()

    @classmethod
    def _load_metainfo(cls, metainfo: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return read_metainfo(cls.METAINFO, metainfo, cls.__name__)

    @classmethod
    def get_label_map(cls, new_classes: Sequence[str] | None = None) -> dict[int, int] | None:
        """Map the indices of the standard classes to those of chosen ones, dropped ones to 255.

        Args:
            new_classes: Names of the chosen classes, in their order.

        Returns:
            The map, or None where nothing changes.

        Raises:
            ConfigError: A chosen class is not among the standard ones.
        """
        return class_map(cls.METAINFO.get("classes"), new_classes, cls.__name__)

    def _update_palette(self) -> list[list[int]]:
        info, where = self._metainfo, type(self).__name__
        subset = self.get_label_map(info.get("classes"))
        return fit_palette(info.get("palette"), info.get("classes") or (), subset, where)

    def full_init(self) -> None:
        """Look for the files; nothing happens the second time.

        Raises:
            DataError: Files are missing, or nothing is left after filtering.
        """
        if self._fully_initialized:
            return
        self.data_list = self.load_data_list()
        self.data_list = self.filter_data()
        if self._indices is not None:
            self.data_list = choose(self.data_list, self._indices)
        if not self.data_list:
            raise DataError(
                f"{type(self).__name__}: 0 images left in {self.data_prefix.get('img_path')} after "
                f"filter_cfg={self.filter_cfg} and indices={self._indices}"
            )
        if self.cache is not None:
            self.frames = cache_files(self)
        if self.serialize_data:
            self.data_list = SharedList(self.data_list)
        self._fully_initialized = True

    def _join_prefix(self) -> None:
        """Let relative paths start from ``data_root``."""
        root = self.data_root
        if self.ann_file and root and not is_abs(self.ann_file):
            self.ann_file = join_path(root, self.ann_file)
        for key, folder in self.data_prefix.items():
            if folder is not None and root and not is_abs(folder):
                self.data_prefix[key] = join_path(root, folder)

    @property
    def metainfo(self) -> dict[str, Any]:
        """Classes, palette, and what becomes of the labels."""
        return copy.deepcopy(self._metainfo)

    def filter_data(self) -> Sequence[Entry]:
        """Return the samples to use, those of ``data_list``; for subclasses to override."""
        return self.data_list

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the classes of an image, for mmengine's ``ClassBalancedDataset``.

        Raises:
            NotImplementedError: A subclass has to say it.
        """
        raise NotImplementedError(f"{type(self).__name__}.get_cat_ids is not written")

    def get_subset_(self, indices: int | Sequence[int]) -> None:
        """Keep the first n (last, if negative) images, or those of these numbers."""
        self._find_files()
        chosen = choose(self.data_list, indices)
        self.data_list = SharedList(chosen) if self.serialize_data else chosen

    def get_subset(self, indices: int | Sequence[int]) -> "BaseSegDataset":
        """Return a data set of the first n (last, if negative) images, or of these numbers."""
        self._find_files()
        subset = copy.copy(self)
        subset.get_subset_(indices)
        return subset

    def _find_files(self) -> None:
        if not self._fully_initialized:
            self.full_init()

    def __len__(self) -> int:
        """Count the images."""
        self._find_files()
        return len(self.data_list)

    def load_data_list(self) -> list[dict[str, Any]]:
        """List the samples: files and the rules for their labels.

        Raises:
            DataError: Files are missing.
        """
        source = PairSource(
            images=self.data_prefix.get("img_path", ""),
            labels=self.data_prefix.get("seg_map_path"),
            image_suffix=self.img_suffix,
            label_suffix=self.seg_map_suffix,
            list_file=self.ann_file,
            backend_args=self.backend_args,
        )
        return [self.describe(image, label) for image, label in find_pairs(source)]

    def describe(self, image: str, label: str | None) -> dict[str, Any]:
        """Make the entry of one sample in the list."""
        entry: dict[str, Any] = {"img_path": image}
        if label is not None:
            entry["seg_map_path"] = label
        entry["label_map"] = self.label_map
        entry["reduce_zero_label"] = self.reduce_zero_label
        entry["seg_fields"] = []
        return entry

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return a fresh copy of the entry of image ``idx``, with the rules to check its labels."""
        self._find_files()
        entry: Entry = self.data_list[idx]
        if not self.serialize_data:
            entry = copy.deepcopy(entry)
        entry["sample_idx"] = idx % len(self)
        if self.palette_to_index is not None:
            entry.setdefault("palette_to_index", self.palette_to_index)
        if self.check_labels and self._metainfo.get("classes") is not None:
            entry.setdefault("num_classes", len(self._metainfo["classes"]))
            entry.setdefault("ignore_index", self.ignore_index)
        return entry

    def set_seed(self, seed: int) -> None:
        """Set the seed that random draws depend on."""
        self.seed = seed

    def __getitem__(self, index: int | SampleIndex) -> Any:
        """Return the sample of an image, in training the one with its number's draws.

        Args:
            index: Image, and number in the stream; a plain image's number is the image.

        Raises:
            DataError: The sample cannot be used and the policy is to say so.
        """
        self._find_files()
        image, number = index if isinstance(index, SampleIndex) else (int(index), int(index))
        if self.test_mode:
            with seeded_globals(global_seeds(self.seed, image, "evaluate")):
                return self.bad_samples.load(self._required, image)
        for attempt in range(1, self.max_refetch + 2):
            with seeded_globals(global_seeds(self.seed, number)):
                item = self.bad_samples.load(self._prepare, image, number)
            if item is not None or (self.bad_samples.skips and self.bad_samples.last_was_bad):
                return item
            image = int(sample_rng(self.seed, number, attempt).randint(len(self)))
        raise DataError(
            f"{type(self).__name__}: no usable sample after {self.max_refetch + 1} tries "
            "(max_refetch); the pipeline gives None, or too many files are bad"
        )

    def _required(self, image: int) -> Any:
        item = self.prepare_data(image)
        if item is None:
            path = self.get_data_info(image)["img_path"]
            raise DataError(f"{path}: the pipeline gives None; evaluation needs every image")
        return item

    def _prepare(self, image: int, number: int) -> Any:
        """Prepare a sample, by the ``prepare_data(self, idx)`` of a subclass too."""
        if not overridden(self, "prepare_data"):
            return self.prepare_data(image, number)
        self._number = number  # for the method of ours that theirs may call with the image alone
        try:
            numbered = takes(self.prepare_data, 2)
            return self.prepare_data(image, number) if numbered else self.prepare_data(image)
        finally:
            self._number = None

    @extension_point
    def prepare_data(self, idx: int, number: int | None = None) -> Any:
        """Run the pipeline on image ``idx`` with the draws of sample ``number``.

        A subclass may override it as ``prepare_data(self, idx)``.

        Raises:
            DataError: The sample cannot be used.
        """
        number = self._number if number is None else number
        sample = self.get_data_info(idx)
        if number is not None:
            sample["rng"] = sample_rng(self.seed, number)
        if self.frames is not None:
            attach_frames(self.frames, sample)
        if not self.pipeline.has_foreign_steps:
            return self.pipeline(sample)
        strays: list[DataError] = []
        sample["stray_labels"] = strays
        result = self.pipeline(sample)
        self._check_result(result, sample, strays)
        return result

    def _check_result(
        self, result: Any, entry: dict[str, Any], strays: Sequence[DataError]
    ) -> None:
        """Check the labels at the end, where a user's transform may have made others of them."""
        label = final_label(result)
        if label is None or entry.get("num_classes") is None:
            return
        try:
            path = str(entry.get("seg_map_path"))
            check_range(label, path, entry["num_classes"], entry.get("ignore_index"))
        except DataError as error:
            raise (strays[0] if strays else error) from None


def choose(entries: Sequence[Entry], indices: int | Sequence[int]) -> Sequence[Entry]:
    """Return the first n (last, if negative) entries, or those of these numbers."""
    if isinstance(indices, int):
        return entries[:indices] if indices >= 0 else entries[indices:]
    return [entries[index] for index in indices]
