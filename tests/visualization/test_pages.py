"""The pages, as text and in a real browser."""

import json
import shutil
import subprocess
from html import unescape

import numpy as np
import pytest
from jinja2 import UndefinedError
from PIL import Image

from nlseg.doctor.report import STRAY, doctor_page, label_thumbnail, thumbnail
from nlseg.visualization.pages import browse_page, render
from nlseg.visualization.pictures import Cell

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def report(tmp_path):
    Image.fromarray(np.full((60, 80, 3), 200, np.uint8)).save(tmp_path / "i.png")
    Image.fromarray(np.full((60, 80), 7, np.uint8)).save(tmp_path / "l.png")
    (tmp_path / "broken.png").write_text("no picture")
    image, label = str(tmp_path / "i.png"), str(tmp_path / "l.png")
    finding = {
        "code": "stray-labels", "severity": "error", "split": "train",
        "title": "Label values <outside>", "detail": "7 & more", "remedy": "a = {7: 255}",
        "files": [label, str(tmp_path / "broken.png"), "not/there.png"], "count": 2,
    }  # fmt: skip
    entry = {"name": "a <b>", "colour": [9, 8, 7], "pixels": 5, "share": 1.0}
    split = {
        "name": "train", "key": "train_dataloader.dataset", "where": "c.py:3", "num_images": 1,
        "num_labels": 1, "ignored_share": 0.25, "mean": [1.0, 2, 3], "std": [1.0, 2, 3],
        "sizes": [[60, 80, 1]], "classes": [{**entry, "images": 1, "weight": 1.0}],
        "values": [{"value": "0", "pixels": 5, "files": 1, "becomes": 0},
                   {"value": "7", "pixels": 4800, "files": 1, "becomes": None},
                   {"value": "255", "pixels": 3, "files": 1, "becomes": "ignored"}],
    }  # fmt: skip
    return {
        "config": "c.py", "created": "now", "num_files": 2, "seconds": 0.5, "findings": [finding],
        "splits": [split], "partners": {label: image, image: label}, "labels": [label],
    }  # fmt: skip


def browse():
    rows = [[Cell(np.full((40, 80, 3), level, np.uint8), f'"><i>{level}')] * 5 for level in (0, 99)]
    palette = np.array([[1, 2, 3], [200, 100, 0]], np.uint8)
    return browse_page(rows, title="samples", classes=["x<y", "z"], palette=palette)


def test_page_escapes_names_and_needs_no_other_file(tmp_path):
    html = doctor_page(report(tmp_path))
    assert "Label values &lt;outside&gt;" in html
    assert "a &lt;b&gt;" in html
    assert "<b>" not in html
    assert html.count("<img") == html.count('src="data:image/jpeg;base64,') == 2
    assert "http" not in html
    assert "x&lt;y" in browse()
    assert "<i>" not in browse()


def test_a_value_that_a_template_lacks_is_an_error():
    with pytest.raises(UndefinedError, match="'rows' is undefined"):
        render("visualization/browse.html", title="t", subtitle="", legend=[])


def test_what_values_become_and_how_often_is_shown(tmp_path):
    html = doctor_page(report(tmp_path))
    first, second, third = html.split("Values in the label files")[1].split("<tr>")[2:5]
    assert "outside the classes" in first  # strays come first
    assert "rgb(255,0,255)" in first
    assert "4,800" in first
    assert "width:100.00%" in first
    # log10(5 + 1) / log10(4800 + 1) = 0.2114
    assert "0 a &lt;b&gt;" in second
    assert "width:21.14%;background:rgb(9,8,7)" in second
    assert "ignored" in third


def test_a_report_without_findings_says_so(tmp_path):
    clean = {**report(tmp_path), "findings": []}
    assert "Nothing was found that is wrong." in doctor_page(clean)
    assert "Nothing was found" not in doctor_page(report(tmp_path))


def test_stray_values_are_magenta(tmp_path):
    Image.fromarray(np.array([[0, 7], [7, 1]], np.uint8)).save(tmp_path / "l.png")
    shown = label_thumbnail(str(tmp_path / "l.png"), {0: (9, 8, 7), 7: STRAY}, height=2)
    assert shown[0].tolist() == [[9, 8, 7], list(STRAY)]
    assert shown[1, 0].tolist() == list(STRAY)
    deep = Image.fromarray(np.array([[0, 1000]], np.uint16))
    deep.save(tmp_path / "d.png")
    shown = label_thumbnail(str(tmp_path / "d.png"), {1000: STRAY}, height=1)
    assert shown[0, 1].tolist() == list(STRAY)


def test_broken_files_get_a_box_with_words(tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    assert thumbnail(str(tmp_path / "a.png"), 90).shape == (90, 120, 3)
    assert label_thumbnail(str(tmp_path / "a.png"), height=90).shape == (90, 120, 3)


PROBE = """<pre id="probe"></pre><script>
const complaints = [];
addEventListener("error", event => complaints.push(String(event.message)), true);
addEventListener("load", () => {
  const loaded = performance.getEntriesByType("resource").map(entry => entry.name);
  document.getElementById("probe").textContent = JSON.stringify({
    complaints, requests: loaded.filter(name => !name.startsWith("data:")),
    width: document.documentElement.scrollWidth, shown: innerWidth,
    images: [...document.images].map(image => image.naturalWidth),
  });
});
</script>"""


def in_browser(html, file, width):
    """Load a page in a browser without a display and return what a script in it sees."""
    file.write_text(html.replace("<main>", PROBE + "<main>"))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--window-size={width},800", f"--user-data-dir={file.parent}", f"file://{file}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return json.loads(unescape(done.stdout.split('<pre id="probe">')[1].split("</pre>")[0]))


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize("width", [1180, 500])  # a window is at least 500 px wide
@pytest.mark.parametrize("kind", ["doctor", "browse"])
def test_pages_in_a_browser(width, kind, tmp_path):
    found = report(tmp_path)
    found["findings"][0]["detail"] = "a/very/long/path" * 20
    html = doctor_page(found) if kind == "doctor" else browse()
    seen = in_browser(html, tmp_path / "page.html", width)
    assert seen["complaints"] == seen["requests"] == []
    assert len(seen["images"]) == html.count("<img") > 0
    assert min(seen["images"]) > 0
    assert seen["width"] <= seen["shown"] <= width
