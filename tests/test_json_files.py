"""Files that were cut cost what was cut, and nothing else."""

from pathlib import Path

import pytest

from bt_ray.json_files import append_line, count_cut_lines, read_json, read_lines, write_json


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1', b"[1]", b"null", b"\0\0\0", b"\xff"])
def test_a_file_that_holds_no_object_is_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "f.json").write_bytes(content)
    assert read_json(tmp_path / "f.json") is None
    write_json(tmp_path / "f.json", {"a": 1})
    assert read_json(tmp_path / "f.json") == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["f.json"]


@pytest.mark.parametrize("torn", [b'{"step": 3, "lo', b"\0\0\0\0", b'{"step": 3, "n": "\xc3', b"7"])
def test_a_torn_line_costs_itself_alone(tmp_path: Path, torn: bytes) -> None:
    file = tmp_path / "f.jsonl"
    assert read_lines(file) == []
    append_line(file, {"step": 1})
    with file.open("ab") as stream:
        stream.write(torn)
    assert read_lines(file) == [{"step": 1}]
    append_line(file, {"step": 2})
    assert count_cut_lines(file) == 1
    assert read_lines(file) == [{"step": 1}, {"step": 2}]
