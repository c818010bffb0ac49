"""What is said of a folder of images is what was put into it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bt_ray.advice.duplicates import find_duplicates, find_leak
from bt_ray.advice.fingerprint import differing_bits, fingerprint
from bt_ray.advice.glance import Glance, Kind, Unreadable, glance
from bt_ray.advice.sample import class_sizes, fair_sample
from bt_ray.advice.survey import Survey, survey
from bt_ray.config import DataSettings, Settings
from bt_ray.data.preparation.prepare import Described, describe_data
from bt_ray.data.preparation.write import write_shards
from bt_ray.data.sources import SourceImage, open_source
from bt_ray.errors import DataError
from tests.advice.scenes import encode, scene, two_classes
from tests.data.pictures import write_folder

RGB, GREY, DEEP = (
    Kind(channels=3, bits=8),
    Kind(channels=1, bits=8),
    Kind(channels=1, bits=16),
)


def described(name: str, storage: Path) -> Described:
    settings = Settings(name="x", storage=str(storage), data=DataSettings(train=name))
    return describe_data(settings)[0]


def look(name: str, storage: Path, most: int = 1000) -> Survey:
    return survey(described(name, storage), most=most)


def glanced(name: str, encoded: bytes) -> Glance:
    seen = glance(SourceImage(name, encoded, None))
    assert isinstance(seen, Glance)
    return seen


def test_numbers_sizes_kinds_and_classes_are_those_of_the_folder(tmp_path: Path) -> None:
    deep = Image.fromarray(np.arange(32 * 40, dtype=np.uint16).reshape(32, 40) * 51)
    folder = two_classes(tmp_path / "set", each=5)
    write_folder(tmp_path / "set", {
        "cat/small.png": encode(scene(50, (20, 10)), "PNG"),
        "cat/large.png": encode(scene(51, (300, 200)).convert("L"), "PNG"),
        "dog/deep.png": encode(deep, "PNG"),
        "dog/palette.gif": encode(scene(52).convert("P"), "GIF"),
        "dog/broken.jpg": encode(scene(53))[:200],
    })  # fmt: skip
    seen = look(folder, tmp_path / "runs")
    assert (seen.count, seen.num_looked_at, len(seen.seen)) == (15, 15, 14)
    assert [one.name for one in seen.unreadable] == ["dog/broken.jpg"]
    assert seen.class_sizes == {"cat": 7, "dog": 8}
    assert seen.sides == (10, 48, 200)
    assert seen.sizes == ("20×10", "64×48", "300×200")
    assert seen.kinds == {RGB: 12, GREY: 1, DEEP: 1}
    assert seen.num_grey == 2
    assert not seen.is_grey


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {"quality": 60}), ("PNG", {})])
def test_grey_is_seen_however_it_is_stored(kind: str, options: dict[str, int]) -> None:
    grey = scene(1).convert("L")
    for stored in (grey, grey.convert("RGB")):
        assert glanced("grey", encode(stored, kind, **options)).is_grey
    assert not glanced("colour", encode(scene(1), kind, **options)).is_grey


def test_a_jpeg_that_is_decoded_in_small_has_its_own_size() -> None:
    seen = glanced("large", encode(scene(1, (1000, 700))))
    assert (seen.width, seen.height, seen.kind) == (1000, 700, RGB)


def test_copies_are_found_and_other_pictures_are_not() -> None:
    original = encode(scene(1, (320, 240)))
    copies = {
        "again": original,
        "weaker": encode(scene(1, (320, 240)), quality=40),
        "smaller": encode(scene(1, (160, 120)), quality=90),
        "png": encode(scene(1, (320, 240)), "PNG"),
    }
    others = {f"other {i}": encode(scene(i, (320, 240))) for i in range(2, 40)}
    seen = [glanced(n, c) for n, c in ({"first": original} | copies | others).items()]
    found = find_duplicates(seen)
    assert found.exact == (("again", "first"),)
    [group] = found.near
    assert set(group) | {"again"} == {"first", *copies}
    assert found.num_spare == 4


def test_a_leak_is_every_held_out_image_that_is_trained_on() -> None:
    train = [glanced(f"train {i}", encode(scene(i))) for i in range(20)]
    test = [
        glanced("same", encode(scene(3))),
        glanced("weaker", encode(scene(4), quality=50)),
        *(glanced(f"new {i}", encode(scene(100 + i))) for i in range(10)),
    ]
    leak = find_leak(test, train)
    assert leak.exact == (("same", "train 3"),)
    assert leak.near == (("weaker", "train 4"),)
    assert leak.count == 2
    assert find_leak(test[2:], train).count == 0


def test_pictures_of_a_few_pixels_are_compared_as_files_alone() -> None:
    """Handwritten digits of 8×8 pixels look alike without being copies."""
    seen = [glanced(str(q), encode(scene(1, (16, 16)), quality=q)) for q in (40, 95)]
    assert find_duplicates(seen).num_spare == 0
    assert find_duplicates([*seen, glanced("again", encode(scene(1, (16, 16)), quality=40))]).exact


def test_bits_are_counted_as_one_would_one_by_one() -> None:
    rng = np.random.default_rng(0)
    hashes = np.array([fingerprint(rng.integers(0, 256, (64, 64), dtype=np.uint8)) for _ in "abc"])
    bits = np.unpackbits(hashes.view(np.uint8), axis=1)
    naive = [int((row != bits[0]).sum()) for row in bits]
    assert differing_bits(hashes[0], hashes).tolist() == naive
    assert naive[0] == 0


def test_a_sample_is_taken_from_all_over_the_set(tmp_path: Path) -> None:
    """Of sources and of shards, with no image twice, the same each time."""
    folder = two_classes(tmp_path / "set", each=40)
    source = described(folder, tmp_path / "runs")
    shards = write_shards(open_source(folder), str(tmp_path / "shards"), rows_per_row_group=4)
    for data in (source, described(shards.root, tmp_path / "runs")):
        names = [image.sample_id for image in fair_sample(data, 24)]
        assert len(set(names)) == 24
        assert names == [image.sample_id for image in fair_sample(data, 24)]
        assert len({image.sample_id for image in fair_sample(data, 1000)}) == 80
        cats = sum(name.startswith("cat") for name in names)
        assert 5 <= cats <= 19
        assert class_sizes(data) == {"cat": 40, "dog": 40}


def test_without_labels_there_are_no_classes(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "flat", {f"{i}.jpg": encode(scene(i)) for i in range(4)})
    assert class_sizes(described(folder, tmp_path / "runs")) == {}


def test_images_of_which_none_decodes_are_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "bad", {f"{i}.jpg": b"\xff\xd8no" for i in range(3)})
    with pytest.raises(DataError, match=r"None of the 3 images .* can be decoded"):
        look(folder, tmp_path / "runs")


def test_what_cannot_be_decoded_is_named() -> None:
    seen = glance(SourceImage("bad", b"no image", None))
    assert isinstance(seen, Unreadable)
    assert seen.name == "bad"
