"""Archives are read where they lie: ImageNet's two, WebDataset's, and those that are damaged."""

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bt_ray.data.preparation.write import write_shards
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.sources import SourceImage, open_source
from bt_ray.errors import DataError
from tests.conftest import shared_zip
from tests.data.pictures import encoded, imagenet_train, tar_bytes, write_tar


def images_of(name: str, labels: str | None = None) -> dict[str, SourceImage]:
    return {image.sample_id: image for image in open_source(name, labels).read()}


def test_imagenets_train_archive_is_read_without_being_unpacked(tmp_path: Path) -> None:
    """Every image has its own bytes, its class is its archive, and nothing is extracted."""
    told = imagenet_train(tmp_path / "train.tar")
    source = open_source(str(tmp_path / "train.tar"))
    assert source.classes == ("n00000000", "n00000001", "n00000002")
    assert len(source) == 30
    assert source.num_bytes == sum(len(name) + len(content) for name, content in told.items())
    for image in source.read():
        assert image.encoded == told[image.sample_id]
        assert image.class_name == image.sample_id.partition(".")[0]
        assert source.classes[image.label or 0] == image.class_name
        assert image.origin == image.sample_id
    assert [entry.name for entry in tmp_path.iterdir()] == ["train.tar"]


def test_an_image_is_read_by_its_number_without_the_others(tmp_path: Path) -> None:
    imagenet_train(tmp_path / "train.tar")
    source = open_source(str(tmp_path / "train.tar"))
    whole = list(source.read())
    assert list(source.take([17, 3]).read()) == [whole[17], whole[3]]


def test_imagenets_val_archive_has_labels_if_they_are_given(tmp_path: Path) -> None:
    """By name, with or without suffix, in any order; or one a line, by the order of names."""
    names = [f"ILSVRC2012_val_{i:08d}.JPEG" for i in range(1, 6)]
    val = write_tar(tmp_path / "val.tar", {n: encoded(i) for i, n in enumerate(names[::-1])})
    words = ["n03", "n01", "n02", "n01", "n03"]
    bare = open_source(val)
    assert bare.classes == ()
    assert {image.label for image in bare.read()} == {None}
    by_name = [f"{name} {word}" for name, word in zip(names, words, strict=True)][::-1]
    kaggle = [f"{name[:-5]},{word} 1 2 3 4" for name, word in zip(names, words, strict=True)]
    for lines in (by_name, ["ImageId,PredictionString", *kaggle], words):
        (tmp_path / "labels.txt").write_text("\n".join(lines) + "\n")
        found = images_of(val, str(tmp_path / "labels.txt"))
        assert [found[name].class_name for name in names] == words
        assert [found[name].label for name in names] == [2, 0, 1, 0, 2]
    (tmp_path / "labels.txt").write_text("\n".join(f"{n} {i}" for i, n in enumerate(names)))
    found = images_of(val, str(tmp_path / "labels.txt"))
    assert [found[name].label for name in names] == [0, 1, 2, 3, 4]
    assert open_source(val).identity != open_source(val, str(tmp_path / "labels.txt")).identity


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["a.jpg n01"], "no line for 1 of 2 images, such as 'b.jpg'"),
        (["n01"], "holds 1 labels for 2 images"),
    ],
)
def test_labels_that_leave_an_image_out_are_refused(
    tmp_path: Path, lines: list[str], sentence: str
) -> None:
    val = write_tar(tmp_path / "val.tar", {"a.jpg": encoded(0), "b.jpg": encoded(1)})
    (tmp_path / "labels.txt").write_text("\n".join(lines))
    with pytest.raises(DataError, match=sentence):
        open_source(val, str(tmp_path / "labels.txt"))
    with pytest.raises(DataError, match="labels of its own"):
        open_source("digits", str(tmp_path / "labels.txt"))


def test_webdatasets_archives_are_labelled_by_their_cls_files(tmp_path: Path) -> None:
    """By braces or by their folder; keys may repeat from archive to archive."""
    for number in range(3):
        write_tar(tmp_path / f"w-{number:03d}.tar", {
            "000.jpg": encoded(10 * number), "000.cls": b"4\n", "000.json": b"{}",
            "001.png": encoded(10 * number + 1, kind="PNG"), "001.cls": b"0",
        })  # fmt: skip
    braces = images_of(str(tmp_path / "w-{000..002}.tar"))
    assert braces == images_of(str(tmp_path))
    assert len(braces) == 6
    assert braces["w-002.tar/001.png"].encoded == encoded(21, kind="PNG")
    assert [braces[f"w-001.tar/{name}"].label for name in ("000.jpg", "001.png")] == [4, 0]
    assert open_source(str(tmp_path)).classes == ("0", "1", "2", "3", "4")
    assert len(images_of(str(tmp_path / "w-{001..002}.tar"))) == 4


def test_folders_in_an_archive_are_classes(tmp_path: Path) -> None:
    """As in a folder of images; what all names begin with is no class."""
    names = ["./top/cat/a.jpg", "./top/dog/deep/b.jpg"]
    tar = write_tar(tmp_path / "x.tar", {name: encoded(i) for i, name in enumerate(names)})
    assert {i.class_name for i in open_source(tar).read()} == {"cat", "dog"}
    flat = write_tar(tmp_path / "y.tar", {"top/a.jpg": encoded(0), "top/b.jpg": encoded(1)})
    assert open_source(flat).classes == ()


def test_any_row_group_is_a_fair_mixture_of_the_classes(tmp_path: Path) -> None:
    """Though an archive holds one class after the other."""
    imagenet_train(tmp_path / "train.tar", classes=4, each=100)
    source = open_source(str(tmp_path / "train.tar"))
    shards = write_shards(source, str(tmp_path / "out"), rows_per_row_group=80)
    for group in range(5):
        labels = shards.read(np.array([group]))["label"].to_numpy()
        assert (np.abs(np.bincount(labels, minlength=4) - 20) <= 12).all()


def damaged(whole: bytes, fault: str) -> bytes:
    """An archive of two images with one fault."""
    first = 512 + 1024  # header and image
    return {
        "absent": b"",
        "empty file": b"",
        "no image": tar_bytes({"notes.txt": b"x"}),
        "no tar": b"this is a story, and no archive" * 100,
        "gzip": gzip.compress(whole),
        "cut in an image": whole[: first + 600],
        "cut in a header": whole[: first + 300],
        "cut between": whole[:first],
        "garbled header": whole[:first] + b"\xff" * 512 + whole[first + 512 :],
        "cut in a nested one": tar_bytes({"n01.tar": whole[:first]}),
        "twice": tar_bytes({"a.jpg": whole[:10]})[:1024] + tar_bytes({"a.jpg": whole[:10]}),
    }[fault]


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("absent", "There is no file"),
        ("empty file", "no tar archive"),
        ("no image", "no image in"),
        ("no tar", "no tar archive"),
        ("gzip", "is compressed"),
        ("cut in an image", "cut short"),
        ("cut in a header", "cut short"),
        ("cut between", "cut short or damaged: after its 1 images"),
        ("garbled header", "cut short or damaged: after its 1 images"),
        ("cut in a nested one", "'n01.tar' is cut short"),
        ("twice", "'a.jpg' is in .* twice"),
    ],
)
def test_a_damaged_archive_is_refused_in_a_sentence(
    tmp_path: Path, fault: str, sentence: str
) -> None:
    """Above all one that ends too early where an image ends: no images may go missing unsaid."""
    whole = tar_bytes({"a.jpg": b"x" * 1000, "b.jpg": b"y" * 1000})
    if fault != "absent":
        (tmp_path / "x.tar").write_bytes(damaged(whole, fault))
    with pytest.raises(DataError, match=sentence) as caught:
        open_source(str(tmp_path / "x.tar"))
    assert "\n" not in str(caught.value)


def test_an_archive_of_two_kinds_is_refused(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar", {
        "n01.tar": tar_bytes({"a.jpg": encoded(0)}), "b.jpg": encoded(1),
    })  # fmt: skip
    with pytest.raises(DataError, match=r"such as 'b\.jpg', have none"):
        open_source(tar)


def test_real_imagenet_images_keep_their_bytes(tmp_path: Path) -> None:
    """A hundred real files, greyscale among them, by way of a nested archive into shards."""
    archive = shared_zip("imagenet-sample.zip")
    names = [name for name in archive.namelist() if name.endswith(".JPEG")][::10]
    by_class = {f"{name.split('/')[1]}.tar": name for name in names}
    write_tar(tmp_path / "train.tar", {
        tar: tar_bytes({name.rpartition("/")[2]: archive.read(name)})
        for tar, name in by_class.items()
    })  # fmt: skip
    source = open_source(str(tmp_path / "train.tar"))
    write_shards(source, str(tmp_path / "out"), rows_per_row_group=32)
    shards = ShardSet.open(str(tmp_path / "out"))
    rows = pq.read_table(tmp_path / "out" / shards.manifest.shards[0].file).to_pylist()
    assert len(rows) == 100
    for row in rows:
        tar, _, _ = row["sample_id"].partition("/")
        content = archive.read(by_class[tar])
        assert row["image"] == content
        assert row["class_name"] == tar.removesuffix(".tar")
        assert shards.manifest.classes[row["label"]] == row["class_name"]
        assert row["source"] == row["sample_id"]
        assert Image.open(io.BytesIO(content)).size == (row["width"], row["height"])


def test_links_in_an_archive_are_passed_over(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        info = tarfile.TarInfo("a.jpg")
        info.size = len(encoded(0))
        tar.addfile(info, io.BytesIO(encoded(0)))
        link = tarfile.TarInfo("b.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "a.jpg"
        tar.addfile(link)
    assert list(images_of(str(tmp_path / "x.tar"))) == ["a.jpg"]
