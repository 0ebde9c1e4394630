"""The wheel: installed into a fresh environment it labels an image from an empty folder."""

import os
import re
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from nlseg.errors import UserError
from nlseg.predict.raster import LARGE_PX, is_raster
from tests.predict.test_predict import NAME, picture, weights

__all__ = ["weights"]
ROOT = Path(__file__).parents[2]
PUBLISHED = "nonlocal_r50-d8_4xb2-40k_cityscapes-512x1024"
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]


def copy_of_the_source(target: Path) -> Path:
    """Copy what a wheel is built from, so that no build folder is left in the checkout."""
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    files = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if files.returncode:
        pytest.skip("not a git checkout")
    for name in files.stdout.splitlines():
        wanted = name.startswith(("nlseg/", "configs/", "requirements/")) or "/" not in name
        if wanted and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes((ROOT / name).read_bytes())
    return target


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = copy_of_the_source(folder / "source")
    options = ["--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*PIP, "wheel", *options, str(source)], check=True, capture_output=True)
    (built,) = folder.glob("nlseg-*.whl")
    return built


@pytest.mark.slow
def test_installed_wheel_labels_an_image_from_an_empty_folder(
    wheel: Path, weights: Path, tmp_path: Path
) -> None:
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False, symlinks=True)
    python = environment / "bin/python"
    (site,) = environment.glob("lib/*/site-packages")
    # The dependencies as they are here; an editable nlseg is not among them, because .pth files
    # of a folder that is itself named by one are not read.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    command = [*PIP, "--python", str(python), "install", "--no-deps", "--ignore-installed"]
    subprocess.run([*command, str(wheel)], check=True)
    cv2.imwrite(str(tmp_path / "street.png"), picture(1))
    empty = tmp_path / "empty"
    empty.mkdir()
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}

    def nlseg(*words: str) -> str:
        done = subprocess.run(
            [environment / "bin/nlseg", *words], cwd=empty, env=clean, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    said = nlseg("config", PUBLISHED, "--tree").splitlines()
    assert said[0] == str(site / f"nlseg/configs/nonlocal_net/{PUBLISHED}.py")
    assert list(empty.iterdir()) == []
    image = str(tmp_path / "street.png")
    assert "1 labelled" in nlseg("predict", NAME, str(weights), image, "--out", "labelled")
    with Image.open(empty / "labelled/masks/street.png") as mask:
        assert mask.size == (96, 64)
    assert [path.name for path in empty.iterdir()] == ["labelled"]


def requirements_of(wheel: Path) -> tuple[list[Requirement], set[str]]:
    """Return what a wheel requires, and the names of its extras."""
    import zipfile
    from email.parser import Parser

    with zipfile.ZipFile(wheel) as archive:
        (file,) = (name for name in archive.namelist() if name.endswith("METADATA"))
        metadata = Parser().parsestr(archive.read(file).decode())
    needed = [Requirement(line) for line in metadata.get_all("Requires-Dist") or ()]
    return needed, set(metadata.get_all("Provides-Extra") or ())


@pytest.mark.slow
def test_extras_and_one_pinned_set_that_all_of_them_accept(wheel: Path) -> None:
    needed, extras = requirements_of(wheel)
    assert extras >= {"hub", "export", "demo", "geo", "docs", "all"}
    pins = {}
    for line in (ROOT / "requirements/constraints.txt").read_text().split():
        pin = Requirement(line)
        (version,) = pin.specifier
        assert version.operator == "=="
        assert pins.setdefault(canonicalize_name(pin.name), version.version) == version.version
    wrong = []
    for one in needed:
        version = pins.get(canonicalize_name(one.name))
        if version is None or not one.specifier.contains(version):
            wrong.append(f"{one}: pinned to {version}")
    assert wrong == []

    def names(extra: str) -> set[str]:
        return {n.name for n in needed if n.marker and n.marker.evaluate({"extra": extra})}

    parts = extras - {"all", "docs", "tests"}
    assert names("all") == set().union(*(names(extra) for extra in parts))


def places_that_name_an_extra() -> Iterator[tuple[str, str]]:
    for file in (ROOT / "nlseg").rglob("*.py"):
        for extra in re.findall(r"nlseg\[(\w+)\]", file.read_text()):
            yield str(file.relative_to(ROOT)), extra


def test_extras_that_messages_name_exist() -> None:
    known = {path.stem for path in (ROOT / "requirements").glob("*.txt")} | {"all"}
    named = set(places_that_name_an_extra())
    assert {extra for _, extra in named} >= {"hub", "demo", "geo", "optional", "completion"}
    assert [place for place in named if place[1] not in known] == []


def test_a_missing_part_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = tmp_path / "large.tif"
    with open(large, "wb") as file:
        file.truncate(LARGE_PX + 1)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs rasterio: pip install 'nlseg\[geo\]'"):
        is_raster(large)
