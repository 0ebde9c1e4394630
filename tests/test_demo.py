"""The page of ``nlseg demo``: uploads that are refused, and a real browser from upload to click."""

import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from nlseg.api import inference_pipeline, init_model
from nlseg.config import load_config
from nlseg.demo import Demo, check_upload
from nlseg.errors import UserError
from nlseg.predict.labeller import Network, Preparer
from nlseg.visualization.painter import Painter
from tests.predict.test_predict import NAME, ROOT, picture, weights

__all__ = ["weights"]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def test_bad_uploads_get_a_message(tmp_path: Path) -> None:
    empty, text = tmp_path / "empty.png", tmp_path / "text.png"
    empty.touch()
    text.write_text("hello")
    large = tmp_path / "large.png"
    Image.new("1", (30000, 1000)).save(large)
    for file, message in (
        (empty, "is empty"), (text, "no image that can be read"), (large, "30000 x 1000 px"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            check_upload(file)
    tall = tmp_path / "tall.png"
    Image.new("1", (1000, 30000)).save(tall)
    with pytest.raises(UserError, match="1000 x 30000 px"):
        check_upload(tall)
    for mode, notes in (("CMYK", 1), ("L", 0), ("RGB", 0)):
        good = tmp_path / f"{mode}.jpg"
        Image.new(mode, (20, 10)).save(good)
        assert len(check_upload(good)) == notes


def test_cmyk_and_turned_uploads_are_labelled_and_say_what_was_done(
    weights: Path, tmp_path: Path
) -> None:
    config = load_config(NAME)
    model = init_model(config, weights, device="cpu")
    painter = Painter(model.dataset_meta["classes"], model.dataset_meta["palette"])
    network = Network(model, probabilities=True)
    demo = Demo(network, Preparer(inference_pipeline(config)), painter)
    upright = Image.fromarray(picture(1, (64, 96)))
    upright.save(tmp_path / "upright.png")
    plain, _, notes = demo.label(str(tmp_path / "upright.png"))
    assert notes == []
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying; shown after a quarter turn clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    turned, _, notes = demo.label(str(tmp_path / "turned.png"))
    assert notes == ["turned.png is turned as its EXIF tag says; so are the places of clicks"]
    assert (turned.image == plain.image).all()
    assert (turned.label == plain.label).all()
    upright.convert("CMYK").save(tmp_path / "print.jpg", quality=95)
    cmyk, _, notes = demo.label(str(tmp_path / "print.jpg"))
    assert notes == ["print.jpg holds CMYK; it is shown and labelled in RGB"]
    assert np.abs(cmyk.image.astype(int) - plain.image).mean() < 12


@pytest.fixture(scope="module")
def address(weights: Path) -> Iterator[str]:
    pytest.importorskip("gradio")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "nlseg", "demo", NAME, str(weights), "--port", "7893"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    url = "http://127.0.0.1:7893"
    try:
        for _ in range(120):
            time.sleep(0.5)
            try:
                urllib.request.urlopen(url, timeout=2).read()
                break
            except OSError:
                assert process.poll() is None
        yield url
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.slow
def test_upload_click_and_toggle_in_a_browser(address: str, tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no chromium")
    cv2.imwrite(str(tmp_path / "a.png"), picture(1, (128, 192)))
    (tmp_path / "bad.png").write_text("no picture")
    asked, errors = [], []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-background-networking"]
        )
        page = browser.new_page(viewport={"width": 1300, "height": 1500})
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        page.goto(address)
        page.set_input_files("#upload input[type=file]", str(tmp_path / "a.png"))
        page.wait_for_selector("#result img", timeout=60_000)
        page.wait_for_selector("#legend tr")
        shown = page.get_attribute("#result img", "src")

        box = page.locator("#result img").bounding_box()
        page.mouse.click(box["x"] + box["width"] * 0.25, box["y"] + box["height"] * 0.5)
        page.wait_for_selector("#heat img", timeout=30_000)
        first = page.get_attribute("#heat img", "src")
        page.mouse.click(box["x"] + box["width"] * 0.75, box["y"] + box["height"] * 0.25)
        page.wait_for_function(
            f"document.querySelector('#heat img').src != {first!r}", timeout=30_000
        )
        page.locator("#classes input").first.click()
        page.wait_for_function(f"document.querySelector('#result img').src != {shown!r}")
        target = Path(os.environ.get("NLSEG_ARTIFACTS", tmp_path)) / "demo.png"
        page.screenshot(path=str(target))
        assert np.asarray(Image.open(target)).std() > 10
        assert errors == []

        page.reload()
        page.set_input_files("#upload input[type=file]", str(tmp_path / "bad.png"))
        page.wait_for_selector("text=no image that can be read", timeout=30_000)
        Image.fromarray(picture(1)).convert("CMYK").save(tmp_path / "print.jpg")
        page.reload()
        page.set_input_files("#upload input[type=file]", str(tmp_path / "print.jpg"))
        page.wait_for_selector("text=holds CMYK", timeout=30_000)
        browser.close()
    outside = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert outside == []
