"""A page to try a network: upload, labelled image, and the attention of a clicked point.

Built on Gradio, which the extra ``demo`` installs. It listens on this machine only unless it is
told otherwise, shares nothing, and loads nothing from elsewhere.
"""

import html
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import UnidentifiedImageError

from nlseg.errors import DataError, UserError
from nlseg.predict.attention import Looked, look
from nlseg.predict.labeller import Network, Preparer
from nlseg.visualization.painter import Painter
from nlseg.visualization.pictures import Image

MOST_PX = 25_000_000
_FONTS = ("system-ui", "sans-serif")
_BUTTONS = ["download", "fullscreen"]  # and not the one that shares
_SHOWN_PX = 640
_ORIENTATION = 0x0112  # the EXIF tag
_PICTURES = {
    "result": "Prediction: click a point",
    "heat": "Attention",
    "confidence": "Confidence: white is sure",
}


class Demo:
    """What the page does, apart from how it looks.

    Args:
        network: Labels images; gives probabilities.
        preparer: Reads them.
        painter: Draws them.
    """

    def __init__(self, network: Network, preparer: Preparer, painter: Painter) -> None:
        self.network, self.preparer, self.painter = network, preparer, painter

    def label(self, path: str | None) -> tuple[Looked, NDArray[np.float32], list[str]]:
        """Label an uploaded file.

        Returns:
            What the network saw; its confidence (H, W), the largest probability of each pixel; and
            what was done to the image before.

        Raises:
            UserError: The file is no image, or larger than the page takes.
        """
        if path is None:
            raise UserError("choose an image first")
        notes = check_upload(Path(path))
        self.network.confidence = None
        looked = look(self.network, self.preparer.read(Path(path)))
        confidence = self.network.confidence
        assert confidence is not None
        return looked, confidence, notes

    def draw(self, looked: Looked, hidden: Sequence[str], alpha: float) -> Image:
        """Draw the labelled image (H, W, 3) with some classes left out.

        Args:
            looked: What was labelled.
            hidden: Names of the classes that are not drawn.
            alpha: Weight of the colours, in [0, 1].
        """
        label = looked.label.astype(np.int64)
        off = [k for k, name in enumerate(self.painter.classes) if name in hidden]
        painter = Painter(self.painter.classes, self.painter.palette, alpha)
        painter.is_background = painter.is_background.copy()
        painter.is_background[off] = True
        return painter.draw(looked.image, label)

    def legend(self, looked: Looked) -> str:
        """Return colour, name and share of each class as HTML."""
        rows = []
        for name, share in self.painter.shares(looked.label).items():
            colour = self.painter.palette[self.painter.classes.index(name)]
            box = f"background:rgb({colour[0]},{colour[1]},{colour[2]})"
            rows.append(
                "<tr><td><span style='display:inline-block;width:1em;height:1em;"
                f"border:1px solid #888;{box}'></span></td>"
                f"<td>{html.escape(name)}</td><td style='text-align:right'>{100 * share:.1f} %</td>"
                "</tr>"
            )
        return f"<table id='legend'>{''.join(rows)}</table>"

    def attend(self, looked: Looked, place: tuple[int, int]) -> tuple[Image, list[list[Any]]]:
        """Return the heat map of a clicked point, and the regions that weigh most as rows."""
        weights = looked.weights(place)
        picture = looked.draw(weights, None if looked.is_global else place)
        rows = [
            [region.label, round(100 * region.weight, 1), round(100 * region.share, 1)]
            for region in looked.regions(weights, self.painter)
        ]
        return picture, rows


def check_upload(path: Path) -> list[str]:
    """Look at the header of an uploaded file.

    Returns:
        What is done to the image before it is labelled, one sentence each.

    Raises:
        UserError: It is empty, no image, or larger than the page takes.
    """
    if path.stat().st_size == 0:
        raise UserError(f"{path.name} is empty (0 bytes)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PillowImage.DecompressionBombWarning)
            with PillowImage.open(path) as image:
                width, height = image.size
                mode, turned = image.mode, image.getexif().get(_ORIENTATION, 1) != 1
    except (UnidentifiedImageError, OSError, PillowImage.DecompressionBombError) as error:
        if isinstance(error, PillowImage.DecompressionBombError):
            raise UserError(f"{path.name} is too large for this page; use nlseg predict") from None
        raise UserError(f"{path.name} is no image that can be read") from None
    if width * height > MOST_PX:
        raise UserError(
            f"{path.name} has {width} x {height} px; this page takes up to "
            f"{MOST_PX // 10**6} megapixels, nlseg predict takes any size"
        )
    notes = [f"{path.name} holds CMYK; it is shown and labelled in RGB"] if mode == "CMYK" else []
    if turned:
        notes.append(f"{path.name} is turned as its EXIF tag says; so are the places of clicks")
    return notes


def enlargement(shape: Sequence[int]) -> int:
    """Return how many times larger a picture (H, W) is shown, so that small ones can be clicked."""
    return max(1, _SHOWN_PX // max(shape[:2]))


def enlarged(picture: Image) -> Image:
    """Repeat pixels of a small picture (H, W, 3)."""
    times = enlargement(picture.shape)
    return picture.repeat(times, 0).repeat(times, 1)


def build_page(  # noqa: C901, PLR0915 - one layout, and what each part of it does
    demo: Demo, title: str, examples: Sequence[str] = ()
) -> Any:
    """Lay out the page.

    Args:
        demo: What it does.
        title: Written on top.
        examples: Image files to choose from.

    Returns:
        A ``gradio.Blocks``.

    Raises:
        UserError: Gradio is not installed.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio as gr
    except ImportError as error:
        raise UserError("nlseg demo needs Gradio: pip install 'nlseg[demo]'") from error

    def guarded(call: Any) -> Any:
        try:
            return call()
        except (UserError, DataError) as error:
            raise gr.Error(str(error)) from error

    def on_upload(path: str | None, alpha: float) -> Any:
        looked, confidence, notes = guarded(lambda: demo.label(path))
        for note in notes:
            gr.Info(note)
        names = list(demo.painter.shares(looked.label))
        sure = np.uint8(np.clip(confidence, 0, 1) * 255)
        return (
            looked, enlarged(demo.draw(looked, (), alpha)), demo.legend(looked),
            gr.CheckboxGroup(choices=names, value=names),
            enlarged(sure.repeat(3).reshape(*sure.shape, 3)), None, [],
        )  # fmt: skip

    def on_change(looked: Looked | None, shown: list[str], alpha: float) -> Any:
        if looked is None:
            return None
        hidden = [name for name in demo.painter.shares(looked.label) if name not in shown]
        return enlarged(demo.draw(looked, hidden, alpha))

    def on_click(looked: Looked | None, event: gr.SelectData) -> Any:
        if looked is None:
            raise gr.Error("choose an image first")
        column, row = (int(value) // enlargement(looked.label.shape) for value in event.index)
        picture, rows = guarded(lambda: demo.attend(looked, (row, column)))
        return enlarged(picture), rows

    theme = gr.themes.Default(font=_FONTS, font_mono=("monospace",))
    with gr.Blocks(title=title, analytics_enabled=False) as page:
        page.nlseg_theme = theme
        state = gr.State()
        gr.Markdown(f"# {title}\nChoose an image; then click a point of the result to see where "
                    "the network looks from there.")  # fmt: skip
        with gr.Row():
            with gr.Column(scale=1):
                upload = gr.File(label="Image", file_types=["image", ".tif", ".tiff"],
                                 type="filepath", elem_id="upload")  # fmt: skip
                if examples:
                    gr.Examples([[path] for path in examples], [upload])
                alpha = gr.Slider(0, 1, value=0.5, step=0.05, label="Opacity", elem_id="opacity")
                shown = gr.CheckboxGroup([], label="Classes", elem_id="classes")
                legend = gr.HTML(label="Shares")
            with gr.Column(scale=2):
                result, heat, sure = (
                    gr.Image(
                        label=label, elem_id=name, interactive=False, format="png", buttons=_BUTTONS
                    )
                    for name, label in _PICTURES.items()
                )
                heads = ["class", "weight in %", "area in %"]
                table = gr.Dataframe(headers=heads, label="Regions that weigh most")
        shows = [state, result, legend, shown, sure, heat, table]
        upload.change(on_upload, [upload, alpha], shows)
        alpha.release(on_change, [state, shown, alpha], result)
        shown.input(on_change, [state, shown, alpha], result)
        result.select(on_click, [state], [heat, table])
    return page


def serve(page: Any, host: str, port: int | None) -> None:
    """Show the page until the process is stopped.

    Args:
        page: From :func:`build_page`.
        host: Address to listen on; 127.0.0.1 is this machine alone.
        port: None takes the first free one from 7860 on.
    """
    page.launch(
        server_name=host, server_port=port, share=False, show_error=True, theme=page.nlseg_theme,
        footer_links=[], quiet=False, inbrowser=False,
    )  # fmt: skip
