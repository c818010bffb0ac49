"""`benchmarks.gpu` compares like with like; on a CPU, in small."""

from pathlib import Path

import pytest
import torch

from benchmarks import gpu, gpu_curve
from benchmarks.gpu import Benchmark, build_settings, compare, device_peak, summarize
from benchmarks.gpu_marks import Marks
from benchmarks.gpu_plain import PlainLars, PlainRun, noise_views, plain_loss
from bt_ray.config import override
from bt_ray.errors import DataError, LaunchError, SettingsError
from bt_ray.methods.barlow_twins import BarlowTwinsLearner
from bt_ray.model.twins import build_twins
from bt_ray.objective.barlow import BarlowTwins
from bt_ray.optim.build import build_optimizer
from tests.conftest import shared_zip

CPU = torch.device("cpu")
SHORT = {"tiny": True, "seconds": 1e-3, "rounds": 1}


def unpack(archive: str, folder: Path, names: dict[str, int]) -> Path:
    """So many images of each of the archive's folders."""
    with shared_zip(archive) as images:
        for start, number in names.items():
            found = [n for n in images.namelist() if n.startswith(start) and not n.endswith("/")]
            for name in found[:number]:
                images.extract(name, folder)
    return folder


def test_both_losses_are_the_papers() -> None:
    z_a, z_b = (torch.randn(12, 20, dtype=torch.float64, requires_grad=True) for _ in range(2))
    theirs = plain_loss(z_a, z_b, 5e-3)
    ours = BarlowTwins(5e-3)(z_a, z_b).loss
    assert float(theirs.detach()) == pytest.approx(float(ours.detach()), rel=1e-6)
    for one, other in zip(
        torch.autograd.grad(theirs, [z_a, z_b]), torch.autograd.grad(ours, [z_a, z_b]), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_both_optimizers_go_the_same_way() -> None:
    settings = override(build_settings(Benchmark(tiny=True)), {"data.global_batch": 256})
    torch.manual_seed(0)
    twins, others = build_twins(settings), build_twins(settings)
    others.load_state_dict(twins.state_dict())
    ours, theirs = build_optimizer(settings, twins), PlainLars(list(others.parameters()), settings)
    for _ in range(3):
        for one, other in zip(twins.parameters(), others.parameters(), strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        ours.step()
        theirs.step()
    for one, other in zip(twins.parameters(), others.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_both_start_from_the_same_model() -> None:
    settings = build_settings(Benchmark(tiny=True))
    plain = PlainRun(settings, CPU, noise_views(settings, CPU)).twins.state_dict()
    ours = BarlowTwinsLearner(settings, CPU, steps_per_epoch=1).module.state_dict()
    assert plain.keys() == ours.keys()
    assert all(torch.equal(plain[name], ours[name]) for name in plain)


def test_parts_are_what_lies_between_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 3.0, 6.0, 10.0, 13.0, 15.0, 20.0])
    monkeypatch.setattr("benchmarks.gpu_marks.time.perf_counter", lambda: next(clock))
    marks = Marks(CPU)
    for _ in range(2):
        marks.begin()
        marks.mark("forward")
        marks.mark("loss")
        marks.mark("forward")
    # First 1 + 3 and 2, then 3 + 5 and 2.
    assert marks.seconds() == {"forward": 6.0, "loss": 2.0}


def test_the_losss_backward_ends_with_its_first_gradient() -> None:
    marks = Marks(CPU)
    marks.begin()
    z_a, z_b = (torch.ones(3, requires_grad=True) * 2 for _ in range(2))
    marks.mark_gradient("loss", z_a, z_b)
    (z_a * z_b).sum().backward()
    assert list(marks.seconds()) == ["loss"]


@pytest.mark.run
def test_all_contenders_run(tmp_path: Path) -> None:
    images = unpack("imagenet-sample.zip", tmp_path, {"train/": 16}) / "train"
    record = compare(Benchmark(images=images, **SHORT))
    assert list(record["pairs_per_s"]) == ["a", "a2", "b", "c"]
    assert set(record["reached"]) == set(record["goals"])
    for name, speed in record["pairs_per_s"].items():
        spent = sum(record["parts_s"][name].values())
        assert spent > 0
        assert speed > 0
        assert record["rounds"][name] == [speed]
    assert record["parts_s"]["c"]["input"] > record["parts_s"]["b"]["input"]
    assert record["device"] == "cpu"
    assert record["mfu"]["a"] is None


@pytest.mark.run
def test_shards_serve_c_alone(tmp_path: Path) -> None:
    images = unpack("imagenet-sample.zip", tmp_path, {"train/": 8}) / "train"
    compare(Benchmark(images=images, only="c", out=tmp_path / "out", **SHORT))
    (shards,) = (tmp_path / "out").iterdir()
    assert list(compare(Benchmark(images=shards, only="c", **SHORT))["pairs_per_s"]) == ["c"]
    with pytest.raises(DataError, match="a2 needs --images"):
        compare(Benchmark(images=shards, only="a2", **SHORT))


def test_what_cannot_be_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(LaunchError, match="--tiny runs on the CPU"):
        compare(Benchmark())
    with pytest.raises(SettingsError, match="must name some of a, a2, b, c"):
        Benchmark(only="a,d")
    with pytest.raises(SettingsError, match="rounds=0 must be above 0"):
        Benchmark(rounds=0)
    with pytest.raises(SettingsError, match="--curve needs --images and --out"):
        Benchmark(curve=True)
    with pytest.raises(DataError, match="a2, c needs --images"):
        compare(Benchmark(only="a2,c", **SHORT))


@pytest.mark.parametrize(
    ("name", "precision", "peak"),
    [
        ("Tesla V100-SXM2-16GB", "fp16", 125e12),
        ("NVIDIA A100-SXM4-80GB", "bf16", 312e12),
        ("NVIDIA H100 80GB HBM3", "fp16", 989e12),
        ("NVIDIA H200", "fp32", 495e12),
        ("NVIDIA GeForce RTX 3090", "fp16", None),
    ],
)
def test_mfu_is_of_the_datasheets_peak(
    name: str, precision: str, peak: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "device_name", lambda _: name)
    assert device_peak(CPU, precision) == peak
    settings = override(build_settings(Benchmark(tiny=True)), {"training.precision": precision})
    turn = gpu.Turn(pairs_per_s=800.0, parts=dict.fromkeys(gpu.PARTS, 1.0))
    record = summarize({"b": [turn]}, settings, CPU)
    expected = None if peak is None else record["flops"] * 100 / peak
    assert record["mfu"]["b"] == expected
    assert record["reached"] == {"(loss + optimizer) / step of b": pytest.approx(0.4)}


def test_the_curve_goes_on_where_it_stopped(tmp_path: Path) -> None:
    images = unpack(
        "cifar10-imagefolder.zip", tmp_path / "images",
        {"train/cat": 40, "train/dog": 40, "test/cat": 20, "test/dog": 20},
    )  # fmt: skip
    out = tmp_path / "out"
    first = gpu_curve.run_curve(images, out, minutes=1e-4, tiny=True)
    assert 0 < first["steps"] < first["total_steps"]
    second = gpu_curve.run_curve(images, out, minutes=1.0, tiny=True)
    assert second["steps"] == second["total_steps"] == 4
    assert second["epochs"] == [0, 1, 2]
    assert (out / "curve.json").is_file()
    again = gpu_curve.run_curve(images, out, minutes=1.0, tiny=True)
    assert again == second
