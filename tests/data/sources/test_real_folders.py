"""Folders as people have them: what is passed over, what is taken, and what is said of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from bt_ray.data.shards.shard_set import ShardSet, is_shards
from bt_ray.data.sources import Source, open_source
from bt_ray.data.sources.splits import splits_among
from bt_ray.errors import DataError
from tests.data.everything import BROKEN, NUM_GOOD, write_everything
from tests.data.pictures import encoded, write_folder, write_tar


def write_images(folder: Path, *names: str) -> str:
    return write_folder(folder, {name: encoded(i) for i, name in enumerate(names)})


def ids(source: Source) -> list[str]:
    return sorted(source.entries["sample_id"].to_pylist())


def passed_over(source: Source) -> dict[str, int]:
    assert source.found is not None
    return {reason: count for reason, (count, _) in source.found.passed_over.items()}


@pytest.mark.parametrize(
    "name",
    [
        ".ipynb_checkpoints/a-checkpoint.jpg", "__MACOSX/a.jpg", "@eaDir/a.jpg", "#recycle/a.jpg",
        "$RECYCLE.BIN/a.jpg", "System Volume Information/a.jpg", "lost+found/a.jpg", ".git/a.jpg",
        ".svn/a.jpg", ".thumbnails/a.jpg", ".Trash-1000/files/a.jpg", ".AppleDouble/a.jpg",
        "__pycache__/a.jpg", "cat/.ipynb_checkpoints/a.jpg", "cat/@eaDir/a.jpg", "cat/._a.jpg",
        "cat/.a.jpg", "cat/Thumbs.db", "cat/desktop.ini", ".DS_Store", "._cat", "cat/~$a.jpg",
        "cat/a.jpg.part", "cat/a.jpg~", "cat/notes.txt", "cat/photo.HEIC", "cat/all.zip",
        "cat/weights", "annotations/a.xml", "mlruns/0/a.png",
    ],
)  # fmt: skip
def test_what_is_no_image_of_the_set_is_passed_over_and_counted(tmp_path: Path, name: str) -> None:
    """In a folder and in an archive of it, by the same rules."""
    good = ("cat/a.jpg", "dog/b.jpg")
    content = b"\0\1 no picture" if name in ("cat/weights", "annotations/a.xml") else encoded(9)
    write_images(tmp_path / "in", *good)
    write_folder(tmp_path / "in", {name: content})
    members = {image: encoded(i) for i, image in enumerate(good)} | {name: content}
    for source in (open_source(str(tmp_path / "in")),
                   open_source(write_tar(tmp_path / "in.tar", members))):  # fmt: skip
        assert ids(source) == list(good)
        assert source.classes == ("cat", "dog")
        assert sum(passed_over(source).values()) == 1
        assert source.found is not None
        assert source.found.sentence.startswith("3 found, 2 images taken, 1 passed over: 1 ")


@pytest.mark.parametrize(
    "name", ["a.jfif", "a.JPE", "a", "IMG.20230405", "a.dat", "a.pgm", "a.JPG"]
)
def test_images_of_any_ending_are_known(tmp_path: Path, name: str) -> None:
    """In a folder and in an archive."""
    write_images(tmp_path / "in", "b.png")
    Image.new("L", (8, 8)).save(tmp_path / "in" / name, format="PPM" if "pgm" in name else "JPEG")
    content = (tmp_path / "in" / name).read_bytes()
    tar = write_tar(tmp_path / "in.tar", {name: content, "b.png": encoded(0)})
    for place in (str(tmp_path / "in"), tar):
        assert {i.sample_id: i.encoded for i in open_source(place).read()}[name] == content
        assert not passed_over(open_source(place))


def test_what_was_passed_over_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_images(tmp_path, "a.jpg", ".b.jpg", ".c.jpg")
    for _ in range(2):
        open_source(str(tmp_path))
    assert caplog.messages == [
        f"{tmp_path}: 3 found, 1 images taken, 2 passed over: 2 hidden (.b.jpg, .c.jpg)."
    ]


def test_a_folder_without_images_tells_what_is_there(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a.heic": b"", "b.zip": b""})
    with pytest.raises(DataError, match=r"no image below .* not decoded: convert .*a\.heic"):
        open_source(str(tmp_path))


@pytest.mark.parametrize(
    "folders",
    [
        "Training Testing", "TRAIN TEST", "train test unlabeled", "seg_train seg_test seg_pred",
        "Train Val Extra", "train valid", "training validation", "train2017 val2017",
        "trainA trainB testA testB", "train_images test_images", "trainset testset", "dev train",
        "train test misc", "Unlabelled Train Test", "train extra", "labeled unlabeled",
    ],
)  # fmt: skip
def test_splits_are_refused_whatever_they_are_called(tmp_path: Path, folders: str) -> None:
    names = [f"{folder}/{kind}/a.jpg" for folder in folders.split() for kind in ("cat", "dog")]
    place = write_images(tmp_path / "in", *names)
    with pytest.raises(DataError, match=f"splits of a data set.* --data.train {place}/"):
        open_source(place)
    assert open_source(place, "none").classes == ()
    assert len(open_source(place, "none")) == len(names)
    tar = write_tar(tmp_path / "in.tar", {name: encoded(i) for i, name in enumerate(names)})
    with pytest.raises(DataError, match="splits of a data set"):
        open_source(tar)


@pytest.mark.parametrize(
    "folders", ["car train truck", "test_tube bullet_train", "valley trainer", "cat dog extra"]
)
def test_classes_are_not_taken_for_splits(folders: str) -> None:
    assert not splits_among(folders.split())


def test_splits_below_the_only_folder_are_found(tmp_path: Path) -> None:
    place = write_images(tmp_path, "set/train/cat/a.jpg", "set/test/cat/b.jpg")
    with pytest.raises(DataError, match=f"--data.train {place}/set/train --data.test {place}/set/"):
        open_source(place)


def test_a_stray_image_leaves_the_others_their_labels(tmp_path: Path) -> None:
    names = [f"{kind}/{i}.jpg" for kind in ("cat", "dog") for i in range(5)]
    place = write_images(tmp_path / "in", *names, "cover.jpg")
    tar = write_tar(tmp_path / "x.tar", {n: encoded(i) for i, n in enumerate([*names, "c.jpg"])})
    for source in (open_source(place), open_source(tar)):
        assert source.classes == ("cat", "dog")
        assert len(source) == 10
        assert passed_over(source) == {"outside of the class folders": 1}
        assert {i.sample_id: i.class_name for i in source.read()}["dog/4.jpg"] == "dog"
    assert len(open_source(place, "none")) == 11


def test_images_in_and_outside_of_folders_are_taken_without_labels(tmp_path: Path) -> None:
    source = open_source(
        write_images(tmp_path, "cat/a.jpg", "dog/b.jpg", "c.jpg", "d.jpg", "e.jpg")
    )
    assert (len(source), source.classes, passed_over(source)) == (5, (), {})
    assert source.found is not None
    assert "There are no labels, as 3 of 5 images" in source.found.sentence


def test_labels_none_is_another_source(tmp_path: Path) -> None:
    place = write_images(tmp_path, "2023-01/a.jpg", "2023-02/b.jpg")
    bare = open_source(place, "none")
    assert bare.classes == ()
    assert {image.label for image in bare.read()} == {None}
    assert bare.identity != open_source(place).identity
    assert open_source("digits", "none").classes == ()


def test_a_picture_beside_archives_does_not_decide(tmp_path: Path) -> None:
    write_tar(tmp_path / "in" / "x.tar", {f"{i}.jpg": encoded(i) for i in range(4)})
    place = write_images(tmp_path / "in", "preview.png")
    source = open_source(place)
    assert len(source) == 4
    assert passed_over(source) == {"images beside the archives": 1}
    write_images(tmp_path / "in", *(f"{i}.jpg" for i in range(8)))
    with pytest.raises(DataError, match=r"9 images and 1 \.tar, and which are .* cannot be told"):
        open_source(place)
    write_images(tmp_path / "in", *(f"{i}.jpg" for i in range(30)))
    source = open_source(place)
    assert len(source) == 31
    assert list(passed_over(source).values()) == [1]


def test_links_are_followed_once(tmp_path: Path) -> None:
    """To a parent, to each other, to nowhere, to itself, above the folder; and out of it."""
    write_images(tmp_path / "out", "z.jpg")
    place = write_images(tmp_path / "in", "a/0.jpg", "b/1.jpg")
    for link, target in (("a/back", ".."), ("b/back", ".."), ("a/b", "../b"), ("b/a", "../a"),
                         ("up", "../.."), ("gone", "nowhere"), ("itself", "itself"),
                         ("c", "../out"), ("a/gone.jpg", "nowhere.jpg")):  # fmt: skip
        (tmp_path / "in" / link).symlink_to(target)
    source = open_source(place)
    assert ids(source) == ["a/0.jpg", "b/1.jpg", "c/z.jpg"]
    assert source.classes == ("a", "b", "c")
    assert sorted(passed_over(source).values()) == [3, 5]


def test_a_folder_that_may_not_be_read_is_said() -> None:
    """In a process without root's rights, to whom every folder is open."""
    code = """
import os, pathlib, pydoc, pyarrow.compute, tempfile
from bt_ray.data.sources import open_source
from tests.data.pictures import encoded, write_folder
import PIL.JpegImagePlugin
place = pathlib.Path(tempfile.mkdtemp())
write_folder(place, {"a/0.jpg": encoded(0), "b/1.jpg": encoded(1), "c/2.jpg": encoded(2)})
place.chmod(0o755)
(place / "c").chmod(0)
if os.getuid() == 0:
    os.setuid(65534)
source = open_source(str(place))
print(len(source), source.found.sentence)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.stdout.startswith("2 3 found, 2 images taken, 1 passed over"), ran.stderr
    assert "1 folders that may not be read (c)" in ran.stdout


def test_names_that_are_no_text_are_read(tmp_path: Path) -> None:
    """In Latin-1, with newlines: as files, as folders, and in an archive."""
    write_images(tmp_path / "in", "a\nb.jpg", "plain.jpg")
    with open(os.fsencode(tmp_path / "in") + b"/caf\xe9.jpg", "wb") as file:  # noqa: PTH123
        file.write(encoded(7))
    source = open_source(str(tmp_path / "in"))
    assert ids(source) == ["a\\nb.jpg", "caf\\xe9.jpg", "plain.jpg"]
    assert {i.sample_id: i.encoded for i in source.read()}["caf\\xe9.jpg"] == encoded(7)
    assert [i.sample_id for i in source.take([2, 0]).read()]
    os.rename(tmp_path / "in", os.fsencode(tmp_path) + b"/\xe9")  # noqa: PTH104
    source = open_source(str(tmp_path), "none")
    assert len(list(source.read())) == 3
    with pytest.raises(DataError, match=r"\\\\xe9.* is not UTF-8"):
        open_source(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9"))
    names = [name.decode("utf-8", "surrogateescape") for name in (b"\xe9.jpg", b"\xe8.jpg")]
    tar = write_tar(tmp_path / "x.tar", {name: encoded(i) for i, name in enumerate(names)})
    assert ids(open_source(tar)) == ["\\xe8.jpg", "\\xe9.jpg"]


def test_the_users_folder_comes_before_a_built_in_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("digits", "places205", "inat18", "cifar10", "x.tar", "a{1..2}"):
        write_images(tmp_path / name, "a.jpg")
        assert len(open_source(name)) == 1
    assert len(open_source("digits:train")) == 1437


def _open_shards(place: str) -> ShardSet | None:
    return ShardSet.open(place) if is_shards(place) else None


@pytest.mark.parametrize(
    "text", ['{"name": "my images"}', "[]", "no JSON", "", "null", '{"shards": 1}']
)
def test_a_manifest_is_looked_at_before_it_is_believed(tmp_path: Path, text: str) -> None:
    place = write_images(tmp_path, "a.jpg")
    (tmp_path / "manifest.json").write_text(text)
    assert not is_shards(place)
    assert len(open_source(place)) == 1
    (tmp_path / "shard-00000.parquet").write_bytes(b"")
    with pytest.raises(DataError, match=r"not the manifest of the shards|describes no shards"):
        _open_shards(place)


@pytest.mark.parametrize(
    ("file", "content", "is_ours"),
    [
        ("settings.json", '{"data": {}, "views": {}, "optimizer": {}}', True),
        ("settings.json", '{"camera": "x"}', False),
        ("mlflow_run.json", '{"run_id": "1"}', True),
        ("manifest.json", '{"schema_version": 2, "shards": []}', True),
        ("manifest.json", '{"kind": "embeddings"}', True),
        ("_unfinished/claim.json", '{"identity": "x"}', True),
    ],
)
def test_results_below_the_images_are_passed_over(
    tmp_path: Path, file: str, content: str, is_ours: bool
) -> None:
    place = write_images(tmp_path, "cat/a.jpg", "dog/b.jpg", "runs/mine/figures/curves.png")
    assert len(open_source(place)) == 3
    write_folder(tmp_path, {f"runs/mine/{file}": content.encode()})
    source = open_source(place)
    assert source.classes == (("cat", "dog") if is_ours else ("cat", "dog", "runs"))


def test_a_folder_with_one_of_everything(tmp_path: Path) -> None:
    aside = write_everything(tmp_path)
    source = open_source(str(tmp_path))
    assert len(source) == NUM_GOOD + len(BROKEN)
    assert source.found is not None
    assert source.found.num_passed_over == len(aside)
    assert len(list(source.read())) == len(source)
