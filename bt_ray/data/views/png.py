"""PNG files without their notes, of which Pillow takes large ones for an attack."""

import struct
from typing import Any

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TRANSPARENCY = b"tRNS"
_LOWER_CASE = 0x20
"""Bit of a chunk's first letter: pictures are whole without it."""


def without_notes(encoded: Any) -> bytes | None:
    """The file with the chunks alone that its pixels need; None if it is no PNG.

    Texts and profiles of colour are left out, which may be large (a workflow of an image editor, a
    scanner's profile) or damaged.
    """
    view = memoryview(encoded).cast("B")
    if view[: len(_SIGNATURE)] != _SIGNATURE:
        return None
    kept, start = [_SIGNATURE], len(_SIGNATURE)
    while start + 8 <= len(view):
        size, kind = struct.unpack(">I4s", view[start : start + 8])
        stop = start + 12 + size
        if not kind[0] & _LOWER_CASE or kind == _TRANSPARENCY:
            kept.append(bytes(view[start:stop]))
        start = stop
    return b"".join(kept)
