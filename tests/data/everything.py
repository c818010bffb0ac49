"""A folder with one of everything that people bring: `python -m tests.data.everything FOLDER`.

Forty good images of two classes lie in it, a few of them of unusual kinds; beside them lies what no
data set has on purpose. Each is called by what it is.
"""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from tests.data.pictures import encoded, write_folder, write_tar

CLASSES = ("cat", "dog [old] scans")
NUM_GOOD = 40
"""Images that are decoded, whatever rule is used for pixels beyond 8 bits."""
BROKEN = ("cat/empty.jpg", "cat/text.jpg", "dog [old] scans/cut short.jpg")
PASSED_OVER = (
    ".ipynb_checkpoints", "__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN",
    "System Volume Information", "lost+found", ".git", ".thumbnails", "cat/._00.jpg",
    "cat/.DS_Store", "cat/Thumbs.db", "cat/desktop.ini", "cat/05.jpg.part", "cat/00.jpg~",
    "manifest.json", "cat/notes.txt", "cat/labels.csv", "cat/data", "cat/photo.heic",
    "cat/photos.zip", "cat/photos.tar", "cover.jpg", "cat/back", "cat/gone", "cat/itself",
    "dog [old] scans/cat",
)  # fmt: skip


def write_everything(folder: Path) -> list[str]:
    """Writes all of it; what of it is to be passed over, as far as this file system takes it."""
    cat, dog = (folder / name for name in CLASSES)
    write_folder(folder, {f"{name}/{i:02d}.jpg": encoded(10 * number + i, size=(48, 40))
                          for number, name in enumerate(CLASSES) for i in range(14)})  # fmt: skip
    _unusual(cat, dog)
    write_folder(folder, {
        "cat/empty.jpg": b"", "cat/text.jpg": b"a story",
        "dog [old] scans/cut short.jpg": encoded(99, size=(48, 40))[:300],
        "cat/._00.jpg": b"\0\5\26\7\0\2\0\0Mac OS X", "cat/.DS_Store": b"\0\0\0\1Bud1",
        "cat/Thumbs.db": b"\xd0\xcf\x11\xe0", "cat/desktop.ini": b"[.ShellClassInfo]",
        "cat/05.jpg.part": encoded(5)[:200], "cat/00.jpg~": encoded(0),
        "manifest.json": b'{"name": "my images"}', "cat/notes.txt": b"a cat",
        "cat/labels.csv": b"\xef\xbb\xbfname;label\n", "cat/data": b"\x00\x01" * 50,
        "cat/photo.heic": b"\0\0\0\x18ftypheic", "cat/photos.zip": b"PK\3\4",
        "cover.jpg": encoded(77),
    })  # fmt: skip
    for name in PASSED_OVER[:9]:
        write_folder(folder / name, {"00.jpg": encoded(0), "deep/01.jpg": encoded(1)})
    write_tar(cat / "photos.tar", {"00.jpg": encoded(0)})
    made = list(PASSED_OVER)
    for link, target in (("cat/back", ".."), ("cat/gone", "nowhere"), ("cat/itself", "itself"),
                         ("dog [old] scans/cat", "../cat")):  # fmt: skip
        try:
            (folder / link).symlink_to(target)
        except OSError:
            made.remove(link)
    return made


def _unusual(cat: Path, dog: Path) -> None:
    """Twelve good images: other kinds, other endings or none, other pixels, other names."""
    random = np.random.default_rng(0)
    write_folder(cat, {"photo.jfif": encoded(30), "no ending": encoded(31, kind="PNG"),
                       "IMG.20230405": encoded(32), "LOUD.JPEG": encoded(33)})  # fmt: skip
    write_folder(dog, {"a\nb.jpg": encoded(34), "%s {x} 'q' \"d\".jpg": encoded(35)})
    _save(dog / "face.pgm", random.integers(0, 256, (40, 48), np.uint8))
    _save(dog / "alpha.png", random.integers(0, 256, (40, 48, 4), np.uint8))
    notes = PngImagePlugin.PngInfo()
    notes.add_text("workflow", "x" * 2_000_000, zip=True)
    _save(dog / "notes.png", random.integers(0, 256, (40, 48, 3), np.uint8), pnginfo=notes)
    _save(dog / "16 bits.png", random.integers(0, 2**16, (40, 48), np.uint16))
    _save(dog / "pages.webp", random.integers(0, 256, (40, 48, 3), np.uint8))
    _in_bytes(os.fsencode(dog) + b"/caf\xe9.jpg", encoded(36))


def write_deep_pixels(folder: Path) -> None:
    """Writes images of pixels that 8 bits do not hold: float and whole numbers of 32 bits."""
    random = np.random.default_rng(1)
    folder.mkdir(parents=True, exist_ok=True)
    _save(folder / "float.tiff", random.random((40, 48), np.float32))
    _save(folder / "int32.tiff", random.integers(0, 256, (40, 48), np.int32))
    _save(folder / "12 bits.tiff", random.integers(0, 4096, (40, 48), np.uint16))


def _save(file: Path, levels: np.ndarray[Any, Any], **options: Any) -> None:
    Image.fromarray(levels).save(file, **options)


def _in_bytes(path: bytes, content: bytes) -> None:
    """Writes a file whose name is no text; under a plain one where the file system wants text."""
    for name in (path, path.replace(b"\xe9", b"e")):
        try:
            with open(name, "wb") as file:  # noqa: PTH123 - Path takes no bytes
                file.write(content)
            return
        except OSError:
            continue


if __name__ == "__main__":
    write_everything(Path(sys.argv[1]))
