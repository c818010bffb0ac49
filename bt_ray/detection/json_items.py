"""Reads a large JSON file item by item, so that it is never in memory whole."""

import json
import re
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any, TextIO

from bt_ray.errors import DataError

_PART = 2**22
"""Characters that are read at a time."""
_SURE = 3
"""So many characters behind a value tell that it has ended: `1e+` may be the start of `1e+3`."""
_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n]*")


def read_members(file: Path, arrays: Container[str]) -> Iterator[tuple[str, Any]]:
    """The members of the object that a file holds: name and value, in the order of the file.

    Args:
      arrays: names of members that are arrays, which yield each of their items with their name.
    Raises: DataError if the file is missing, holds no object, or is damaged, or if one of
      `arrays` is none.
    """
    try:
        with file.open(encoding="utf-8-sig") as stream:
            text = _Text(stream)
            text.expect("{")
            while text.peek() != "}":
                name = text.name()
                text.expect(":")
                if name in arrays:
                    text.expect("[")
                    while text.peek() != "]":
                        yield name, text.value()
                        text.skip_comma("]")
                    text.expect("]")
                else:
                    yield name, text.value()
                text.skip_comma("}")
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{file} is damaged, or holds no annotations as COCO has them ({error}); fetch it "
            "again."
        ) from error


class _Text:
    """The characters of a stream, of which only those that are looked at are in memory."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._text, self._at, self._gone = stream, "", 0, 0

    def peek(self) -> str:
        """The next character that is no space; nothing at the end."""
        while True:
            at = self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
            if at < len(self._text):
                return self._text[at]
            if not self._read_on():
                return ""

    def expect(self, character: str) -> None:
        """Takes this character. Raises: ValueError if another one is next."""
        found = self.peek()
        if found != character:
            raise ValueError(
                f"{character!r} was expected at character {self._gone + self._at:,}, "
                f"not {found!r}" if found else f"it ends where {character!r} was expected"
            )  # fmt: skip
        self._at += 1

    def skip_comma(self, end: str) -> None:
        """Takes the comma that must be there unless `end` is next. Raises: ValueError."""
        if self.peek() != end:
            self.expect(",")

    def name(self) -> str:
        """Takes a member's name. Raises: ValueError."""
        if self.peek() != '"':
            self.expect('"')
        return str(self.value())

    def value(self) -> Any:
        """Takes the next value. Raises: ValueError."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                place = self._gone + error.pos
                if self._read_on():
                    continue  # it was cut off
                raise ValueError(f"{error.msg} at character {place:,}") from error
            length = end - self._at
            if len(self._text) - end >= _SURE or not self._read_on():
                self._at += length
                return value

    def _read_on(self) -> bool:
        """Reads another part, and more the longer a value is; whether there was one."""
        part = self._stream.read(max(_PART, len(self._text) - self._at))
        self._gone += self._at
        self._text, self._at = self._text[self._at :] + part, 0
        return bool(part)
