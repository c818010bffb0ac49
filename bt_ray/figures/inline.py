"""Pictures as text that is part of a page of HTML."""

import base64
import io
import re
from contextlib import AbstractContextManager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

_STYLE: Any = {
    "svg.fonttype": "none",  # letters stay letters, in the page's own font
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": "#8a9099",
    "axes.labelcolor": "#4a4f57",
    "text.color": "#23262b",
    "xtick.color": "#6a7078",
    "ytick.color": "#6a7078",
}


def styled() -> AbstractContextManager[None]:
    """A context in which figures are drawn in the page's style."""
    return matplotlib.rc_context(_STYLE)


def to_svg(figure: Figure, *, name: str, words: str) -> str:
    """The figure as an SVG element that is as wide as the page makes it.

    Args:
      name: unique on the page; it keeps the ids in this SVG apart from those in others.
      words: what the figure shows, for screen readers.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    label = words.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def to_png(levels: NDArray[np.uint8], palette: NDArray[np.uint8] | None = None) -> str:
    """The picture (h, w) of a palette (256, 3), or (h, w, 3), as a `data:` address."""
    image = Image.fromarray(levels)
    if palette is not None:
        image.putpalette(palette.tobytes())
    return _address(image, "PNG", optimize=True)


def to_jpeg(levels: NDArray[np.uint8]) -> str:
    """The picture (h, w, 3) as a `data:` address."""
    return _address(Image.fromarray(levels), "JPEG", quality=80, optimize=True)


def _address(image: Image.Image, kind: str, **options: object) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    text = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/{kind.lower()};base64,{text}"
