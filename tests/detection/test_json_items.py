"""A JSON file is read in parts as it would be read whole."""

import json
from pathlib import Path
from typing import Any

import pytest

from bt_ray.detection import json_items
from bt_ray.detection.json_items import read_members
from bt_ray.errors import DataError

TREE: dict[str, Any] = {
    "info": {"a": [1, {"b": None}], "c": "é\n\"]}"},
    "empty": [],
    "numbers": [1, -2.5e3, 1234567890123, True],
    "items": [{"id": n, "words": "x" * n, "deep": [[n, [n]]]} for n in range(40)],
    "last": 1234567,
}  # fmt: skip


@pytest.mark.parametrize("part", [1, 2, 7, 64, 10_000])
@pytest.mark.parametrize("indent", [None, 3])
def test_parts_of_any_length(
    part: int, indent: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_items, "_PART", part)
    file = tmp_path / "a.json"
    file.write_text(json.dumps(TREE, indent=indent, ensure_ascii=False), encoding="utf-8")
    expected = [("info", TREE["info"])]
    expected += [(name, item) for name in ("numbers", "items") for item in TREE[name]]
    expected += [("last", TREE["last"])]
    assert list(read_members(file, ("empty", "numbers", "items"))) == expected
    assert dict(read_members(file, ())) == TREE


def test_the_file_is_never_in_memory_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_items, "_PART", 1000)
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"items": [{"id": n} for n in range(20_000)]}))
    lengths: list[int] = []
    read_on = json_items._Text._read_on

    def watched(text: json_items._Text) -> bool:
        more = read_on(text)
        lengths.append(len(text._text))
        return more

    monkeypatch.setattr(json_items._Text, "_read_on", watched)
    assert sum(1 for _ in read_members(file, ("items",))) == 20_000
    assert max(lengths) < 1100


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"it ends where '\{' was expected"),
        ("[1, 2]", r"'\{' was expected at character 0, not '\['"),
        ('{"items": {"a": 1}}', r"'\[' was expected at character 10"),
        ('{"items": [{"a": 1}, {"a": ', "at character"),
        ('{"items": [{"a": 1} {"a": 2}]}', "',' was expected at character 20"),
        ('{"items": [{"a": 1}]', "',' was expected"),
        ('{"items": [{"a": tru}]}', "at character 17"),
        ('{1: []}', "'\"' was expected at character 1"),
    ],
)  # fmt: skip
def test_damage_is_told_with_its_place(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(text)
    with pytest.raises(DataError, match=rf"a\.json is damaged.*{message}"):
        list(read_members(file, ("items",)))


def test_what_is_no_text_or_no_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    with pytest.raises(DataError, match=r"a\.json cannot be read \(No such file"):
        list(read_members(file, ()))
    file.write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(DataError, match=r"a\.json is damaged"):
        list(read_members(file, ()))
