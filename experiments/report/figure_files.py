"""The study's figures on disk: PNG and SVG in DIR/figures, the same bytes from the same records."""

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from PIL import Image


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A figure on disk: `name`.png and `name`.svg in DIR/figures."""

    name: str
    title: str
    caption: str
    svg: Path
    png: Path

    @property
    def image(self) -> str:
        """The Markdown of the picture, in a document of DIR."""
        return f"![{self.title}](figures/{self.png.name})"


def write(
    directory: Path | str, name: str, title: str, caption: str, draw: Callable[[], Figure]
) -> Drawn:
    """Draws one figure into DIR/figures.

    The PNG has 64 colours, which lines and legends do not exceed visibly, at a third of the size.
    """
    folder = Path(directory) / "figures"
    folder.mkdir(exist_ok=True)
    svg, png = folder / f"{name}.svg", folder / f"{name}.png"
    figure = draw()
    # Identifiers of its own, since a page holds several; text stays text, which is half as long.
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(svg, metadata={"Date": None, "Creator": None})
    figure.set_layout_engine(None)  # Laid out already; any engine would draw it once more.
    pixels = io.BytesIO()
    figure.savefig(pixels, dpi=150, format="png")
    with Image.open(pixels) as image:
        few = image.convert("RGB").quantize(64, dither=Image.Dither.NONE)
        few.save(png, optimize=True)
    return Drawn(name, title, caption, svg, png)
