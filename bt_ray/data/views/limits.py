"""How large an image may be that is decoded."""

from PIL import Image

MOST_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0)
"""Most pixels of an image that is decoded; Pillow takes a larger one for an attack."""


def refuse_large(width: int, height: int) -> None:
    """Raises OSError for an image of more pixels than the limit."""
    if width * height > MOST_PIXELS:
        raise OSError(
            f"it has {width} × {height} pixels, more than the {MOST_PIXELS:,} of an image that is "
            "decoded"
        )
