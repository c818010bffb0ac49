"""Images that are not 8-bit RGB become shards that say what they are, and are measured."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from bt_ray.config import Pixels, Settings, override
from bt_ray.data.preparation.job import Treatment
from bt_ray.data.preparation.prepare import describe_data, prepare_data, write_source
from bt_ray.data.preparation.statistics import known_statistics, stride_of
from bt_ray.data.preparation.tasks import Task, one_after_the_other
from bt_ray.data.preparation.write import write_shards
from bt_ray.data.shards.manifest import Manifest
from bt_ray.data.shards.shard_file import to_table
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.sources import open_source
from bt_ray.errors import DataError, SettingsError
from bt_ray.forecast.sample import decode_sample
from bt_ray.presets import preset
from bt_ray.training.launch import notes_on_images
from pipelines.prepare import Prepare, prepare
from tests.data.pictures import encoded, tar_bytes, write_folder
from tests.data.rasters import dicom, levels, npy, pages, pillow

FIVE = Pixels(channels=5, bit_depth=16)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two row groups of five."""
    monkeypatch.setattr("bt_ray.data.preparation.job._ROWS_PER_SHARD", 10)


def image(number: int) -> NDArray[np.uint16]:
    """One of thirty, of five channels, two sizes and three ranges."""
    return levels(number, size=(12, 9) if number % 2 else (20, 30)) >> (number % 3)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """The thirty images, in files of two kinds."""
    images = {f"{i}.npy": npy(image(i)) for i in range(20)}
    images |= {f"{i}.tif": pages(image(i)) for i in range(20, 30)}
    return write_folder(tmp_path / "images", images)


@pytest.fixture
def settings(folder: str, tmp_path: Path) -> Settings:
    return override(preset("digits"), {
        "data.train": folder, "data.test": None, "data.rows_per_row_group": 5,
        "data.channels": 5, "data.bit_depth": 16, "storage": str(tmp_path / "runs"),
    })  # fmt: skip


def write(source: str, root: Path, pixels: Pixels, **options: Any) -> Manifest:
    return write_shards(
        open_source(source), str(root), rows_per_row_group=5, treatment=Treatment(pixels=pixels),
        **options,
    ).manifest  # fmt: skip


def backwards(tasks: Sequence[Task]) -> Any:
    return one_after_the_other(list(reversed(tasks)))


def test_mean_and_deviation_are_those_of_the_images(folder: str, tmp_path: Path) -> None:
    """Each image counts alike, whatever its size; whoever writes which shard, in any order."""
    manifest = write(folder, tmp_path / "out", FIVE)
    shares = [image(i) / 65535 for i in range(30)]
    mean = np.mean([share.mean((0, 1)) for share in shares], axis=0)
    square = np.mean([(share**2).mean((0, 1)) for share in shares], axis=0)
    assert manifest.mean == pytest.approx(mean, rel=1e-9)
    assert manifest.std == pytest.approx(np.sqrt(square - mean**2), rel=1e-9)
    assert (manifest.pixels, manifest.num_measured) == (FIVE, 30)
    assert len(manifest.shards) == 3
    again = write(folder, tmp_path / "again", FIVE, run_all=backwards)
    assert again.digest == manifest.digest
    rows = ShardSet.open(str(tmp_path / "out")).read(np.arange(6)).to_pylist()
    assert {(row["width"], row["height"]) for row in rows} == {(12, 9), (20, 30)}


def test_of_many_images_some_all_over_the_set_are_measured(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [stride_of(n) for n in (0, 1, 4096, 4097, 1_281_167)] == [1, 1, 1, 2, 313]
    monkeypatch.setattr("bt_ray.data.preparation.statistics._MOST_MEASURED", 8)
    some = write(folder, tmp_path / "some", FIVE)
    assert some.num_measured == 3 * 3, "every fourth of ten, in each of three shards"
    assert some.digest == write(folder, tmp_path / "again", FIVE, run_all=backwards).digest


def test_a_run_takes_the_measured_numbers_once_and_for_all(settings: Settings) -> None:
    """The same command again resolves to the same numbers; given ones, and other images', stay."""
    prepared = prepare_data(settings)
    manifest = ShardSet.open(prepared.data.train).manifest
    assert (prepared.data.mean, prepared.data.std) == (manifest.mean, manifest.std)
    assert prepare_data(settings) == prepared
    assert prepare_data(prepared) == prepared, "as a run's stored settings"
    given = override(settings, {"data.mean": [0.5] * 5, "data.std": [0.25] * 5})
    assert prepare_data(given).data.mean == (0.5,) * 5


def test_usual_images_keep_imagenets_numbers(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "rgb", {f"{i}.jpg": encoded(i) for i in range(6)})
    usual = override(preset("digits"), {
        "data.train": folder, "data.test": None, "storage": str(tmp_path / "runs"),
    })  # fmt: skip
    prepared = prepare_data(usual)
    assert prepared.data.mean is None
    measured = ShardSet.open(prepared.data.train).manifest.mean
    assert measured is not None
    assert len(measured) == 3


def test_a_channel_without_variation_can_be_divided_by(tmp_path: Path, settings: Settings) -> None:
    flat = {f"{i}.npy": npy(np.full((4, 4), 300, np.uint16)) for i in range(3)}
    grey = Pixels(channels=1, bit_depth=16)
    manifest = write(write_folder(tmp_path / "flat", flat), tmp_path / "out", grey)
    assert manifest.std == (0.0,)
    one = override(settings, {"data.channels": 1})
    known = known_statistics(one, manifest).data
    assert (known.mean, known.std) == ((300 / 65535,), (1 / 65535,))


def test_shards_of_other_pixels_are_other_shards(settings: Settings, tmp_path: Path) -> None:
    """Below the storage each has a folder; a folder that is named is refused for another use."""
    grey = write_folder(tmp_path / "grey", {
        f"{i}.png": pillow(levels(i, channels=1)[..., 0]) for i in range(6)
    })  # fmt: skip
    one = override(settings, {"data.train": grey, "data.channels": 1})
    roots = {
        prepare_data(override(one, changes)).data.train
        for changes in (
            {}, {"data.bit_depth": 8}, {"data.channels": 3}, {"data.orientation": "exif"},
            {"data.channels": 3, "data.bit_depth": 8},
        )
    }  # fmt: skip
    assert len(roots) == 5
    named = override(one, {"data.train": prepare_data(one).data.train, "data.bit_depth": 8})
    with pytest.raises(DataError, match=r"1 channel of 16 bits, and .*--channels 1 --bit-depth 8"):
        prepare_data(named)
    out = tmp_path / "out"
    write(grey, out, Pixels(channels=1))
    with pytest.raises(DataError, match="pixels=1 channel of 8 bits, where None is wanted"):
        write(grey, out, Pixels())
    part = write_source(open_source(grey), str(tmp_path / "runs"), rows_per_row_group=5,
                        pixels=Pixels(channels=1))  # fmt: skip
    assert ShardSet.open(part).manifest.pixels == Pixels(channels=1)


def test_images_of_other_channels_are_bad_images(
    folder: str, settings: Settings, tmp_path: Path
) -> None:
    """They stop a preparation, all named; or they are left out."""
    Path(folder, "four.npy").write_bytes(npy(levels(channels=4)))
    Path(folder, "scan.dcm").write_bytes(dicom(np.zeros((2, 2)), pixels=False))
    with pytest.raises(DataError, match="2 of 32 images") as caught:
        prepare_data(settings)
    for words in ("neither its first nor its last axis is data.channels=5", "without pixels"):
        assert words in str(caught.value)
    prepared = prepare_data(override(settings, {"data.on_bad_image": "skip"}))
    manifest = ShardSet.open(prepared.data.train).manifest
    assert (manifest.num_rows, manifest.num_rejected) == (30, 2)


def turned(number: int, orientation: int) -> bytes:
    noted = Image.Exif()
    noted[0x0112] = orientation
    return pillow(levels(number, channels=3, dtype=np.uint8), "JPEG", exif=noted)


def test_cameras_notes_are_told_once_or_followed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Three images of six are turned; a note that an image is upright is no reason to say so."""
    orientations = (1, 6, 1, 8, 3, 1)
    images = {f"{i}.jpg": turned(i, orientation) for i, orientation in enumerate(orientations)}
    images["plain.jpg"], images["grey.tif"] = encoded(7), pages(levels(8, channels=1))
    settings = override(preset("digits"), {
        "data.train": write_folder(tmp_path / "images", images), "data.test": None,
        "storage": str(tmp_path / "runs"),
    })  # fmt: skip
    ignored = prepare_data(settings)
    [told] = [r.getMessage() for r in caplog.records if "EXIF" in r.getMessage()]
    assert "3 images that a camera noted how to turn" in told
    [note] = notes_on_images(ignored)
    assert note.startswith("data.train: 3 images that a camera noted")
    followed = prepare_data(override(settings, {"data.orientation": "exif"}))
    assert notes_on_images(followed) == []
    rows = ShardSet.open(followed.data.train).read(np.arange(1)).to_pylist()
    sizes = {row["sample_id"]: (row["width"], row["height"]) for row in rows}
    assert sizes["1.jpg"] == sizes["3.jpg"] == (9, 12)
    assert sizes["0.jpg"] == sizes["4.jpg"] == sizes["plain.jpg"] == (12, 9)


def test_turned_images_are_resized_upright_and_others_not_at_all(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "images", {"a.jpg": turned(0, 6)})
    treatment = Treatment(max_side_px=8, pixels=Pixels(orientation="exif"))
    shards = write_shards(
        open_source(folder), str(tmp_path / "out"), rows_per_row_group=5, treatment=treatment
    )
    [row] = shards.read(np.arange(1)).to_pylist()
    assert (row["width"], row["height"]) == (6, 8)
    with pytest.raises(SettingsError, match="max_side_px=8 makes JPEGs"):
        Treatment(max_side_px=8, pixels=FIVE)


def test_the_command_prepares_such_images(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By `--channels`, `--bit-depth` and `--orientation`."""
    import tyro

    order = tyro.cli(Prepare, args=[
        folder, str(tmp_path / "out"), "--channels", "5", "--bit-depth", "16",
        "--orientation", "exif", "--cpus", "0", "--on-bad-image", "skip",
    ])  # fmt: skip
    assert order.treatment.pixels == Pixels(channels=5, bit_depth=16, orientation="exif")
    assert prepare(order)["images"] == 30


@pytest.mark.parametrize("pack", [write_folder, lambda path, images: _tar(path, images)])
def test_arrays_and_dicom_are_images_by_ending_or_content(
    pack: Callable[[Path, dict[str, bytes]], str], tmp_path: Path
) -> None:
    scan = dicom(np.ones((2, 2), np.uint16))
    images = {
        "a/1.npy": npy(levels()), "a/2.DCM": scan, "b/3.dicom": scan, "b/IM000001": scan,
        "b/1.2.840.113": scan, "b/array": npy(levels()), "b/notes": b"no image" * 40,
        "a/DICOMDIR": scan,
    }  # fmt: skip
    source = open_source(pack(tmp_path / "images", images))
    taken = set(source.entries["sample_id"].to_pylist())
    assert taken == set(images) - {"b/notes", "a/DICOMDIR"}


def _tar(path: Path, images: dict[str, bytes]) -> str:
    file = path.with_suffix(".tar")
    file.write_bytes(tar_bytes(images))
    return str(file)


def test_a_dry_run_names_images_of_other_channels(folder: str, settings: Settings) -> None:
    """Before anything is written: as rows of what would be written, which it decodes views of."""
    Path(folder, "four.npy").write_bytes(npy(levels(channels=4)))
    described, _ = describe_data(settings)
    assert described.manifest.pixels == FIVE
    assert described.source is not None
    found = []
    for one in described.source.read():
        try:
            to_table((one,), pixels=settings.data.pixels)
        except DataError as error:
            found.append(str(error))
    assert len(found) == 1
    assert "data.channels=5" in found[0]


def test_a_sample_of_turned_images_is_decoded(tmp_path: Path) -> None:
    images = {f"{i}.jpg": turned(i, 6) for i in range(4)}
    settings = override(preset("digits"), {
        "data.train": write_folder(tmp_path / "images", images), "data.test": None,
        "data.orientation": "exif", "storage": str(tmp_path / "runs"),
    })  # fmt: skip
    described, _ = describe_data(settings)
    for backend in ("fast", "reference"):
        chosen = override(settings, {"views.backend": backend})
        sample = decode_sample(described, chosen, budget_s=5)
        assert (sample.num_images, sample.unreadable) == (4, ())
        assert sample.images_per_s
