#!/usr/bin/env python3
"""Open what a run left behind as a user would: a click in its demo, its report on three screens.

    python tools/misc/screenshots.py work_dirs/quickstart screenshots

Needs the extra `demo`, Playwright and Chromium. Fails on an error in the browser's console, on an
address outside of this machine, and where a click changes nothing.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CONFIG = "nonlocal_r18-d8_1xb4-300_synthetic-96x192"
SCREENS: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1300, "height": 1000}},
    "phone": {"viewport": {"width": 390, "height": 844}},
    "dark": {"viewport": {"width": 1300, "height": 1000}, "color_scheme": "dark"},
}


@contextmanager
def served(checkpoint: Path, examples: Path) -> Iterator[str]:
    """Serve the demo of a checkpoint, and return its address."""
    command = [sys.executable, "-m", "nlseg", "demo", CONFIG, str(checkpoint), "--port", "7894"]
    process = subprocess.Popen([*command, "--examples", str(examples)])
    url = "http://127.0.0.1:7894"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(url, timeout=2).read()
                break
            except OSError:
                time.sleep(0.5)
                if process.poll() is not None:
                    raise SystemExit("the demo ended before it answered") from None
        yield url
    finally:
        process.terminate()
        process.wait(30)


def click_in_the_demo(page: Any, url: str, image: Path, out: Path) -> None:
    """Upload an image, click two points; the map has to change."""
    page.goto(url)
    page.set_input_files("#upload input[type=file]", str(image))
    page.wait_for_selector("#result img", timeout=60_000)
    page.wait_for_selector("#legend tr")
    box = page.locator("#result img").bounding_box()
    seen = ""
    for x, y in ((0.25, 0.5), (0.75, 0.3)):
        page.mouse.click(box["x"] + box["width"] * x, box["y"] + box["height"] * y)
        page.wait_for_function(
            f"(document.querySelector('#heat img') || {{}}).src"
            f" && document.querySelector('#heat img').src != {json.dumps(seen)}",
            timeout=60_000,
        )
        seen = page.get_attribute("#heat img", "src")
    page.wait_for_function("[...document.images].every((one) => one.complete)")
    page.screenshot(path=str(out / "demo.png"), full_page=True)


def main() -> int:
    """Take the pictures; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="work folder that tools/quickstart.sh has filled")
    parser.add_argument("out", type=Path, help="folder for the pictures")
    args = parser.parse_args()
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        print("no chromium: no pictures")
        return 0
    args.out.mkdir(parents=True, exist_ok=True)
    (checkpoint,) = args.run.glob("best_mIoU_iter_*.pth")
    report = max(args.run.glob("test/*/report.html"))
    images = Path("data/quickstart/leftImg8bit/val")
    image = min(images.rglob("*.png"))
    overlay = min((args.run / "labelled/overlays").rglob("*.jpg"))
    shutil.copy(overlay, args.out / "overlay.jpg")
    errors: list[str] = []
    asked: list[str] = []
    with served(checkpoint, images) as url, sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-background-networking"]
        )
        for name, screen in SCREENS.items():
            page = browser.new_page(**screen)
            page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
            page.on("request", lambda request: asked.append(request.url))
            page.goto(report.resolve().as_uri())
            page.screenshot(path=str(args.out / f"report_{name}.png"), full_page=True)
            if name == "desktop":
                click_in_the_demo(page, url, image, args.out)
            page.close()
        browser.close()
    outside = [one for one in asked if not one.startswith((url, "file:", "data:", "blob:"))]
    for problem in (*errors, *outside):
        print(f"in the browser: {problem}")
    print(*sorted(map(str, args.out.iterdir())), sep="\n")
    return 1 if errors or outside else 0


if __name__ == "__main__":
    sys.exit(main())
