"""One decoder: the rule for each kind of file, and a named error for whatever is broken."""

import io
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.random import RandomState
from PIL import Image

from nlseg.datasets.transforms import Compose as MMCompose
from nlseg.datasets.transforms import LoadAnnotations, LoadImageFromFile, decode
from nlseg.datasets.transforms.decode import picture_to_array
from nlseg.doctor.hook import image_size
from nlseg.doctor.probe import probe
from nlseg.doctor.tally import seen_size
from nlseg.errors import DataError
from nlseg.export.facts import color_type_of, resize_rule
from nlseg.export.runtime import read_picture
from nlseg.predict.labeller import Preparer
from nlseg.registry import DATASETS
from nlseg.structures import SampleIndex
from tests.cases import each_case
from tests.datasets.folders import LOAD, config, write_pairs

RGB = RandomState(0).randint(0, 256, (6, 8, 3)).astype(np.uint8)
GREY = RGB[..., 0]
ALPHA = RGB[..., 1]


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise
    return exif


def palette() -> Image.Image:
    picture = Image.fromarray(GREY % 4, mode="P")
    picture.putpalette([level for index in range(256) for level in (index * 9 % 256, 7, index)])
    return picture


def cmyk() -> Image.Image:
    # cyan, magenta, yellow and black of 0 is white; black of 255 is black
    inks = np.zeros((6, 8, 4), np.uint8)
    inks[:3, :, 3] = 255
    return Image.fromarray(inks, mode="CMYK")


def with_alpha() -> Image.Image:
    return Image.fromarray(np.dstack([RGB, ALPHA]), mode="RGBA")


COLOURS: dict[str, tuple[bytes, Any]] = {
    "rgb.png": (encoded(Image.fromarray(RGB), "PNG"), RGB),
    "grey.png": (encoded(Image.fromarray(GREY), "PNG"), np.dstack([GREY] * 3)),
    "grey_alpha.png": (
        encoded(Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA)]), "PNG"),
        np.dstack([GREY] * 3),
    ),
    "bits.png": (
        encoded(Image.fromarray(GREY > 99), "PNG"),
        np.dstack([np.where(GREY > 99, 255, 0)] * 3),
    ),
    "rgba.png": (encoded(with_alpha(), "PNG"), RGB),
    "rgba.tif": (encoded(with_alpha(), "TIFF"), RGB),
    "rgba.webp": (encoded(with_alpha(), "WEBP", lossless=True, exact=True), RGB),
    "palette.png": (
        encoded(palette(), "PNG"),
        np.dstack([GREY % 4 * 9, np.full_like(GREY, 7), GREY % 4]),
    ),
    "palette_transparent.png": (
        encoded(palette(), "PNG", transparency=2),
        np.dstack([GREY % 4 * 9, np.full_like(GREY, 7), GREY % 4]),
    ),
    "cmyk.tif": (
        encoded(cmyk(), "TIFF"),
        np.repeat(np.array([0, 255]), 3)[:, None, None] * np.ones((1, 8, 3)),
    ),
    "deep_grey.png": (
        cv2.imencode(".png", GREY.astype(np.uint16) * 256 + 77)[1].tobytes(),
        np.dstack([GREY] * 3),
    ),
    "deep_grey.tif": (
        cv2.imencode(".tif", GREY.astype(np.uint16) * 256 + 77)[1].tobytes(),
        np.dstack([GREY] * 3),
    ),
    "deep_rgb.png": (
        cv2.imencode(".png", RGB[..., ::-1].astype(np.uint16) * 256 + 77)[1].tobytes(), RGB,
    ),
    "turned.png": (
        encoded(Image.fromarray(RGB), "PNG", exif=turned()), np.rot90(RGB, -1),
    ),
    "turned.tif": (
        encoded(Image.fromarray(RGB), "TIFF", tiffinfo={0x0112: 6}), np.rot90(RGB, -1),
    ),
}  # fmt: skip


@each_case("backend", ["cv2", "pillow"])
@each_case("name", COLOURS)
def test_one_rule_for_each_kind_of_image(tmp_path: Path, name: str, backend: Any) -> None:
    data, expected = COLOURS[name]
    (tmp_path / name).write_bytes(data)
    image = LoadImageFromFile(imdecode_backend=backend).read(str(tmp_path / name))
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image[..., ::-1], expected)
    if name == "turned.png":  # a TIFF's own tag always counts
        for colours in ("color_ignore_orientation", "grayscale_ignore_orientation"):
            load = LoadImageFromFile(color_type=colours, imdecode_backend=backend)
            assert load.read(str(tmp_path / name)).shape[:2] == RGB.shape[:2]
        assert decode.picture_size(str(tmp_path / name)) == (8, 6)


@each_case("name", COLOURS)
def test_training_evaluation_prediction_api_and_exported_files_see_the_same(
    tmp_path: Path, name: str
) -> None:
    data, expected = COLOURS[name]
    path = tmp_path / "images" / name
    path.parent.mkdir()
    path.write_bytes(data)
    expected = np.asarray(expected, np.uint8)
    (tmp_path / "labels").mkdir()
    label = np.zeros(expected.shape[:2], np.uint8)
    Image.fromarray(label).save(tmp_path / "labels" / f"{path.stem}.png")
    suffix = path.suffix
    for settings in ({}, {"test_mode": True}, {"cache": "memmap"}):
        dataset = DATASETS.build(config(
            tmp_path, img_suffix=suffix, **settings,
            pipeline=[{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"},
                      {"type": "PackSegInputs"}],
        ))  # fmt: skip
        packed = dataset[0]["inputs"].numpy()  # BGR (3, H, W)
        np.testing.assert_array_equal(packed[::-1].transpose(1, 2, 0), expected)
    steps = MMCompose([{"type": "LoadImageFromFile"}])
    np.testing.assert_array_equal(Preparer(steps).read(path).image, expected)
    np.testing.assert_array_equal(read_picture(path)[..., ::-1], expected)
    with Image.open(path) as picture:
        of_api = picture_to_array(picture, "color")  # an image of Pillow, given to the API
    np.testing.assert_array_equal(of_api[..., ::-1], expected)
    # what the check compares the sizes of labels with, decoded and by the header alone
    assert seen_size(probe("image", str(path))) == label.shape
    assert seen_size(image_size(str(path))) == label.shape
    assert decode.picture_size(str(path)) == label.shape


def test_an_exported_file_leaves_images_as_stored_where_its_config_does(tmp_path: Path) -> None:
    path = tmp_path / "turned.png"
    path.write_bytes(COLOURS["turned.png"][0])
    assert read_picture(path).shape == (8, 6, 3)
    np.testing.assert_array_equal(read_picture(path, "color_ignore_orientation")[..., ::-1], RGB)
    for color_type in ("color", "color_ignore_orientation"):
        step = LoadImageFromFile(color_type=color_type)
        assert color_type_of([step]) == color_type
        assert resize_rule([step]) == (None, [])
    other = LoadImageFromFile(color_type="unchanged")
    assert resize_rule([other])[1] == ["LoadImageFromFile(color_type='unchanged')"]


@each_case("backend", ["cv2", "pillow"])
@each_case("kind", ["fractions", "numbers"])
def test_depths_without_a_scale_are_refused(tmp_path: Path, backend: Any, kind: str) -> None:
    levels = GREY.astype(np.float32 if kind == "fractions" else np.int32)
    path = tmp_path / "deep.tif"
    path.write_bytes(encoded(Image.fromarray(levels), "TIFF"))
    with pytest.raises(DataError, match=r"deep.tif: no readable image .* no 8-bit levels; convert"):
        LoadImageFromFile(imdecode_backend=backend).read(str(path))
    whole = LoadImageFromFile(color_type="unchanged", imdecode_backend=backend)
    np.testing.assert_array_equal(whole.read(str(path)), levels)


def test_labels_are_taken_as_they_are_stored(tmp_path: Path) -> None:
    path = str(tmp_path / "label.png")
    Image.fromarray(GREY).save(path, exif=turned())
    np.testing.assert_array_equal(LoadAnnotations().read(path, {}), GREY)
    palette().save(path)
    np.testing.assert_array_equal(LoadAnnotations().read(path, {}), GREY % 4)
    Image.fromarray(GREY > 99).save(path)
    np.testing.assert_array_equal(LoadAnnotations().read(path, {}), GREY > 99)
    wide = str(tmp_path / "label.tif")
    Image.fromarray((GREY % 5).astype(np.float32)).save(wide)
    np.testing.assert_array_equal(LoadAnnotations().read(wide, {}), GREY % 5)
    Image.fromarray((GREY % 5).astype(np.float32) + 0.5).save(wide)
    with pytest.raises(
        DataError, match=r"label.tif: labels are whole numbers, this file is float32"
    ):
        LoadAnnotations().read(wide, {})


def test_label_maps_of_any_honest_size_load(tmp_path: Path) -> None:
    side = 13_500  # 182 megapixels; Pillow's own limit is 179
    path = str(tmp_path / "label.png")
    label = Image.new("P", (side, side), 1)
    label.putpalette([0, 0, 0, 255, 0, 0])
    label.save(path, compress_level=1)
    limit = Image.MAX_IMAGE_PIXELS
    loaded = LoadAnnotations().read(path, {"seg_map_path": path})
    assert (loaded.shape, int(loaded.min()), int(loaded.max())) == ((side, side), 1, 1)
    assert limit == Image.MAX_IMAGE_PIXELS


def png_that_claims(height: int, width: int, colour: int = 0, pixels: int = 1000) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        end = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + end

    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    body = zlib.compress(bytes(pixels), 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", body), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@each_case("height, width", [(60_000, 60_000), (2**31 - 1, 2**31 - 1), (0, 9)])
def test_bombs_are_refused(tmp_path: Path, height: int, width: int) -> None:
    path = tmp_path / "bomb.png"
    for colour in (0, 2):
        path.write_bytes(png_that_claims(height, width, colour))
        for backend in ("cv2", "pillow"):
            image = LoadImageFromFile(imdecode_backend=backend)  # type: ignore[arg-type]
            with pytest.raises(DataError, match=r"bomb.png: no readable image"):
                image.read(str(path))
        with pytest.raises(DataError, match=r"bomb.png: no readable image"):
            LoadAnnotations().read(str(path), {})
    assert decode.picture_size(str(path)) is None


def claiming(kind: str) -> bytes:
    """Return a small file that claims 30,000 x 30,000 px, or 12,288 x 12,288 for WebP."""
    data = encoded(Image.fromarray(RGB), kind)
    height, width = RGB.shape[:2]
    if kind == "GIF":
        return data[:6] + struct.pack("<HH", 30_000, 30_000) + data[10:]
    if kind == "BMP":
        return data[:18] + struct.pack("<ii", 30_000, 30_000) + data[26:]
    if kind == "WEBP":
        place = data.index(b"\x9d\x01\x2a") + 3
        return data[:place] + struct.pack("<HH", 12_288, 12_288) + data[place + 4 :]
    if kind == "JPEG":
        place = data.index(b"\xff\xc0") + 5
        return data[:place] + struct.pack(">HH", 30_000, 30_000) + data[place + 4 :]
    for tag, value in {0x0100: width, 0x0101: height, 0x0116: height}.items():  # and rows a strip
        for code, form in ((3, "<HHIHH"), (4, "<HHII")):
            old = struct.pack(form, tag, code, 1, value, *([0] if code == 3 else []))
            data = data.replace(old, struct.pack("<HHII", tag, 4, 1, 30_000))
    return data


@each_case("kind", ["GIF", "BMP", "WEBP", "JPEG", "TIFF"])
def test_bombs_of_other_kinds_are_refused_by_their_header(kind: str) -> None:
    data = claiming(kind)
    for backend in ("cv2", "pillow"):
        for color_type in ("color", "unchanged"):
            with pytest.raises(DataError, match=r"x: no readable image .* px cannot be in so few"):
                decode.decode(data, "x", color_type, backend)


def test_a_file_of_one_colour_may_be_small() -> None:
    data = encoded(Image.new("L", (8192, 8192), 7), "WEBP", lossless=True)
    assert len(data) < 4096
    decode.check_claim(data)


def test_a_label_map_of_another_size_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_that_claims(30_000, 30_000, pixels=200_000))
    sample = {"seg_map_path": str(path), "ori_shape": (20, 30)}
    with pytest.raises(DataError, match=r"bomb.png: label map of 30000 x 30000 px"):
        LoadAnnotations().transform(sample)


class Panic(BaseException):
    """What a decoder written in Rust raises: no ``Exception``."""


@pytest.fixture
def panicking(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def decoder() -> Any:
        def panic(data: bytes, size: Any, is_rgb: bool) -> Any:
            if panic.calls < 4:  # it passes its trial, two pictures twice
                panic.calls += 1
                array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
                return array[..., ::-1] if is_rgb else array
            raise Panic("called `Option::unwrap()` on a `None` value")

        panic.calls = 0
        return panic

    monkeypatch.setattr(decode, "_CANDIDATES", {"panicking": decoder})
    decode.fast_decoder.cache_clear()
    yield
    decode.fast_decoder.cache_clear()


def test_a_decoder_that_panics_is_followed_by_the_ordinary_one(
    tmp_path: Path, panicking: None
) -> None:
    assert decode.fast_decoder() is not None
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    np.testing.assert_array_equal(LoadImageFromFile().read(str(path))[..., ::-1], RGB)
    path.write_bytes(path.read_bytes()[:-30] + b"\0\0\0\0IEND\xaeB`\x82")
    with pytest.raises(DataError, match=r"a.png: no readable image .* inside of a chunk"):
        LoadImageFromFile().read(str(path))


def test_a_panic_of_the_ordinary_decoder_is_a_data_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def panic(*_: Any) -> Any:
        raise Panic

    monkeypatch.setattr(decode.Image, "open", panic)
    with pytest.raises(DataError, match=r"x.png: no readable image \(3 bytes\): Panic"):
        decode.decode(b"abc", "x.png", "color", "pillow")


@pytest.mark.filterwarnings("ignore")
@each_case("name", [*COLOURS, "photo.jpg", "picture.gif"])
def test_damaged_files_give_pixels_or_a_data_error(name: str) -> None:
    if name in COLOURS:
        data = COLOURS[name][0]
    else:
        data = encoded(Image.fromarray(RGB), "JPEG" if name.endswith("jpg") else "GIF")
    rng = RandomState(len(name))
    for _ in range(60):
        broken = bytearray(data[: rng.randint(1, len(data) + 1)])
        for place in rng.randint(0, len(broken), rng.randint(1, 9)):
            broken[place] = rng.randint(256)
        for backend in ("cv2", "pillow"):
            for color_type in ("color", "unchanged"):
                with suppress(DataError):
                    assert decode.decode(bytes(broken), name, color_type, backend).size


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to("loop.png")
    for name, text in {
        "pipe": "is a FIFO (named pipe), not a file", "device": "is a device, not a file",
        "folder": "is a folder, not a file", "loop": "Too many levels of symbolic links",
        "nothing": "No such file", "null\0": "null",
    }.items():  # fmt: skip
        with pytest.raises(DataError) as caught:
            decode.read_bytes(f"{tmp_path}/{name}.png")
        assert text in str(caught.value)
        assert str(caught.value).startswith(f"{tmp_path}/{name}.png: ")


def test_bad_files_of_all_kinds_can_be_replaced(tmp_path: Path) -> None:
    write_pairs(tmp_path, list("abcde"))
    (tmp_path / "images/a.png").write_bytes(png_that_claims(60_000, 60_000, 2))
    (tmp_path / "images/b.png").unlink()
    os.mkfifo(tmp_path / "images/b.png")
    (tmp_path / "labels/c.png").unlink()
    (tmp_path / "labels/c.png").symlink_to("c.png")
    (tmp_path / "labels/d.png").write_bytes(png_that_claims(60_000, 60_000))
    dataset = DATASETS.build(config(tmp_path, bad_samples={"policy": "replace"}))
    for number in range(8):
        sample = dataset[SampleIndex(number % 5, number)]
        assert Path(sample["data_samples"].img_path).stem == "e"
    assert len(dataset.bad_samples.seen) == 4


def test_one_cause_of_one_file_is_told_in_the_same_words_each_time(tmp_path: Path) -> None:
    write_pairs(tmp_path, list("ab"))
    (tmp_path / "labels/a.png").write_bytes(b"GIF89a")
    dataset = DATASETS.build(config(tmp_path, bad_samples={"policy": "replace"}))
    for number in (0, 2, 4):
        dataset[SampleIndex(0, number)]
    (cause,) = dataset.bad_samples.seen
    assert cause == f"{tmp_path}/labels/a.png: no readable image (6 bytes): " + (
        "cannot identify image file"
    )


def test_a_loop_of_folders_is_named(tmp_path: Path) -> None:
    write_pairs(tmp_path, ["deep/a"])
    (tmp_path / "images/deep/again").symlink_to(tmp_path / "images")
    with pytest.raises(DataError, match=r"images/deep/again: this link leads back to .*/images,"):
        DATASETS.build(config(tmp_path))
    (tmp_path / "images/deep/again").unlink()
    (tmp_path / "images/twice").symlink_to(tmp_path / "images/deep")  # no loop, only twice
    (tmp_path / "labels/twice").symlink_to(tmp_path / "labels/deep")
    assert len(DATASETS.build(config(tmp_path, pipeline=LOAD))) == 2
