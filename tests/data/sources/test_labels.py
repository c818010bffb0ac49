"""Labels as people write them: WebDataset's keys, and text files of any program."""

from pathlib import Path

import pytest

from bt_ray.data.sources import open_source
from bt_ray.errors import DataError
from tests.data.pictures import encoded, write_folder, write_tar


def labelled(place: str, labels: str | None = None) -> dict[str, str | None]:
    return {image.sample_id: image.class_name for image in open_source(place, labels).read()}


def test_keys_with_dots_keep_their_labels(tmp_path: Path) -> None:
    """Also where images share a label, or the label's file says more than the key."""
    members: dict[str, bytes] = {}
    for i in range(10):
        members |= {f"img.{i}.jpg": encoded(i), f"img.{i}.cls": str(i % 3).encode()}
    members |= {"b.left.jpg": encoded(20), "b.right.png": encoded(21), "b.cls": b"2\n"}
    members |= {"c.jpg": encoded(22), "c.label.cls": b"\xef\xbb\xbf1"}
    found = labelled(write_tar(tmp_path / "x.tar", members))
    assert [found[f"img.{i}.jpg"] for i in range(10)] == [str(i % 3) for i in range(10)]
    assert (found["b.left.jpg"], found["b.right.png"], found["c.jpg"]) == ("2", "2", "1")


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ({"a.b.jpg": b"", "a.c.cls": b"1", "a.d.cls": b"2"}, "'a.b.jpg' in .* cannot be told"),
        ({"a.jpg": b"", "a.cls": b"\xff\xfe\xfd"}, "'a.cls' in .* not UTF-8"),
        ({"a.jpg": b"", "a.cls": b" "}, "'a.cls' in .* is empty"),
    ],
)
def test_labels_that_cannot_be_told_are_refused_by_name(
    tmp_path: Path, members: dict[str, bytes], sentence: str
) -> None:
    with pytest.raises(DataError, match=sentence):
        open_source(write_tar(tmp_path / "x.tar", members))


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbfa b.jpg\tcat\nc.jpg\tguinea pig\n",
        b"a b.jpg;cat\r\nc.jpg;guinea pig\r\n",
        "a b.jpg;cat\nc.jpg;guinea pig\n".encode("utf-16"),
        b"filename,label\na b.jpg,cat\nc.jpg,guinea pig\n",
        b'"a b.jpg","cat"\n"c.jpg","guinea pig"\n',
        b"a b,cat,\nc,guinea pig,\n",
        b"a b.jpg cat\nc.jpg guinea pig\n",
        b"./a b.jpg cat\nsome\\folder\\c.jpg;guinea pig\n",
    ],
)
def test_label_files_of_any_program_are_read(tmp_path: Path, text: bytes) -> None:
    place = write_folder(tmp_path / "in", {"a b.jpg": encoded(0), "c.jpg": encoded(1)})
    (tmp_path / "labels").write_bytes(text)
    assert labelled(place, str(tmp_path / "labels")) == {"a b.jpg": "cat", "c.jpg": "guinea pig"}


def test_one_label_a_line_may_begin_with_a_mark(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar", {f"{i}.jpg": encoded(i) for i in range(3)})
    (tmp_path / "labels").write_bytes(b"\xef\xbb\xbf10\n2\n1\n")
    found = {
        image.sample_id: image.label for image in open_source(tar, str(tmp_path / "labels")).read()
    }
    assert found == {"0.jpg": 10, "1.jpg": 2, "2.jpg": 1}


def test_equal_names_in_several_folders_are_told_apart(tmp_path: Path) -> None:
    place = write_folder(tmp_path / "in", {n: encoded(i) for i, n in enumerate(
        ("x.jpg", "a/1.jpg", "b/1.jpg", "b/1.png"))})  # fmt: skip
    (tmp_path / "labels").write_text("x cat\na/1.jpg cat\nb/1.jpg dog\nin/b/1.png cow\n")
    found = labelled(place, str(tmp_path / "labels"))
    assert found == {"x.jpg": "cat", "a/1.jpg": "cat", "b/1.jpg": "dog", "b/1.png": "cow"}
    for line, sentence in (
        ("1.jpg cat", "'1.jpg' in .* cannot be told: .*1.jpg' or '.*1.jpg'"),
        ("b/1 cat", "'b/1' in .* cannot be told"),
        ("x.jpg cat\nx dog", "'x.jpg' two labels, 'cat' and 'dog'"),
        ("x.jpg,48,40,cat", "4 columns, and which is the label"),
        ("x.jpg", "has no label"),
        ("x.jpg;", "has no label"),
    ):
        (tmp_path / "labels").write_text(line)
        with pytest.raises(DataError, match=sentence):
            open_source(place, str(tmp_path / "labels"))
