"""Lines of a text file of labels: which image each one means, and its label."""

import csv
import re
from collections import defaultdict
from collections.abc import Iterator

from bt_ray.data.sources.kinds import IMAGE_SUFFIXES
from bt_ray.errors import DataError

_SEPARATORS = ("\t", ";", ",")
_KAGGLE = re.compile(r"(\S+)( \d+){4}")
"""`n01440764 12 24 180 200 …`: a class, then its boxes."""


class NameIndex:
    """Finds the image that a name means: with or without folders in front and suffix behind."""

    def __init__(self, names: list[str], shown: str) -> None:
        self._shown = shown
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for name in names:
            self._by_stem[_stem(_file(name))].append(name)

    def find(self, given: str) -> str | None:
        """The image; None if there is none of this name.

        Raises: DataError if several are meant.
        """
        given = given.replace("\\", "/").removeprefix("./")
        file = _file(given)
        found = [n for n in self._by_stem.get(_stem(file), ()) if _file(n) == file]
        if not found:
            found = [n for n in self._by_stem.get(file, ()) if _stem(_file(n)) == file]
        if not found and file.lower().endswith(IMAGE_SUFFIXES):  # it has another suffix here
            found = self._by_stem.get(_stem(file), [])
        within = [n for n in found if _ends(_folder(n), _folder(given))]
        exact = [n for n in within if _folder(n) == _folder(given)]
        # Images of a folder that the line's path leads through are named shorter than there.
        outside = [n for n in found if _ends(_folder(given), _folder(n))]
        for candidates in (exact, within, outside):
            if len(candidates) == 1:
                return candidates[0]
            if len(candidates) > 1:
                raise DataError(
                    f"Which image {given!r} in {self._shown!r} means cannot be told: "
                    f"{candidates[0]!r} or {candidates[1]!r}; give its folder and suffix, too."
                )
        return None


def read_line(line: str, index: NameIndex, shown: str) -> tuple[str | None, str]:
    """The image that a line means, or None, and its label.

    What separates the two is a tab, a semicolon, a comma or a space: the first of them that leaves
    the name of an image. So names and labels may have spaces.

    Raises: DataError if the line has more columns than two, or no label.
    """
    for cells in _cuts(line):
        name = index.find(cells[0].strip())
        if name is None:
            continue
        words = [cell.strip() for cell in cells[1:]]
        while words and not words[-1]:
            words.pop()
        if len(words) > 1:
            raise DataError(
                f"The line {line!r} of {shown!r} has {len(words) + 1} columns, and which is the "
                "label cannot be told; give `NAME LABEL`, with a tab between them."
            )
        if not words or not words[0]:
            raise DataError(f"The line {line!r} of {shown!r} has no label; give `NAME LABEL`.")
        boxes = _KAGGLE.match(words[0])
        return name, boxes[1] if boxes else words[0]
    if line.lower().endswith(IMAGE_SUFFIXES) and index.find(line) is not None:
        raise DataError(f"The line {line!r} of {shown!r} has no label; give `NAME LABEL`.")
    return None, ""


def is_one_word(line: str) -> bool:
    """Whether nothing in the line separates a name from a label."""
    return not re.search(r"[\s;,]", line)


def _cuts(line: str) -> Iterator[list[str]]:
    """The ways in which a line may be cut into columns."""
    for separator in _SEPARATORS:
        if separator in line:
            yield next(csv.reader([line], delimiter=separator, skipinitialspace=True))
    if len(words := line.split()) > 1:
        yield line.rsplit(None, 1)  # a name with spaces
        yield line.split(None, 1)  # a label with spaces
        if len(words) > 2:
            for i in range(2, len(words) - 1):
                yield [" ".join(words[:i]), " ".join(words[i:])]


def _file(name: str) -> str:
    return name.rpartition("/")[2]


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _stem(file: str) -> str:
    return file.rpartition(".")[0] or file


def _ends(folder: str, with_folder: str) -> bool:
    """Whether the path of a folder ends with another one."""
    return not with_folder or f"/{folder}".endswith(f"/{with_folder}")
