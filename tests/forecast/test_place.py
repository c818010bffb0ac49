"""What `--on` says is what is planned for, and what it cannot say is answered with a sentence."""

import pytest

from bt_ray.errors import SettingsError
from bt_ray.forecast.network import build_network
from bt_ray.forecast.place import parse_place
from bt_ray.forecast.rates import GPUS


@pytest.mark.parametrize(
    ("text", "gpu", "nodes", "gpus", "wire"),
    [
        ("32 V100, 100GbE", "V100", 4, 8, "100 Gb/s GbE"),
        ("4x8 V100-32GB, 4x100 IB", "V100-32GB", 4, 8, "4 × 100 Gb/s IB"),
        ("3×4 a100, 25 GbE", "A100", 3, 4, "25 Gb/s GbE"),
        ("16 H100, InfiniBand 8x400", "H100", 2, 8, "8 × 400 Gb/s IB"),
        ("16 V100, 100 RoCE", "V100", 2, 8, "100 Gb/s RoCE"),
        ("64 V100-16GB, 10GbE", "V100-16GB", 8, 8, "10 Gb/s GbE"),
        ("8 H200", "H200", 1, 8, "NVLink"),
        ("1 V100", "V100", 1, 1, "NVLink"),
        ("4 A100, NVLink", "A100", 1, 4, "NVLink"),
    ],
)
def test_a_place_is_read(text: str, gpu: str, nodes: int, gpus: int, wire: str) -> None:
    place = parse_place(text)
    assert place.gpu is GPUS[gpu]
    assert (place.nodes, place.gpus, str(place.wire)) == (nodes, gpus, wire)
    assert place.workers == nodes * gpus


def test_a_gpu_that_nobody_knows_has_the_rates_that_are_stated() -> None:
    place = parse_place("16 X9000 (fp16 300 TFLOP/s, 2 TB/s, 48 GB, NVLink 200 GB/s), 200GbE")
    gpu = place.gpu
    assert (gpu.name, gpu.half_flops, gpu.memory_bytes_per_s) == ("X9000", 300e12, 2e12)
    assert (gpu.memory_bytes, gpu.link_bytes_per_s) == (48e9, 200e9)
    assert gpu.single_flops == gpu.half_flops / 16
    assert (
        parse_place("8 X (fp16 300 TFLOPs, fp32 40 TFLOP/s, 2 TB/s, 48 GB)").gpu.single_flops
        == 40e12
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("many V100", "known GPUs: V100"),
        ("", "write for example '32 V100, 100GbE'"),
        ("8 V10O", "did you mean V100"),
        ("8 MI300X", "the GPUs known are V100, V100-16GB, V100-32GB, A100, H100, H200"),
        ("12 V100, 100GbE", "12 GPUs are no whole number of nodes of 8"),
        ("0 V100", "at least one GPU"),
        ("32 V100", "4 nodes need a network between them"),
        ("32 V100, NVLink", "4 nodes need a network between them"),
        ("32 V100, fast", "'fast' cannot be read"),
        ("32 V100, 100 carrier pigeons", "cannot be read"),
        ("32 V100, 0GbE", "cannot be read"),
        ("32 V100 100GbE", "comes a comma"),
        ("8 X (fp16 300 TFLOP/s)", "X lacks memory's rate and memory"),
        ("8 X (fp16 0 TFLOP/s, 1 TB/s, 8 GB)", "X lacks fp16, above 0"),
        ("8 X (int8 300 TOPS)", "a GPU's rates are fp16"),
    ],
)
def test_what_cannot_be_read_is_answered(text: str, sentence: str) -> None:
    with pytest.raises(SettingsError, match=r"--on|need a network") as caught:
        parse_place(text)
    assert sentence.lower() in str(caught.value).lower()


def test_tcp_has_a_ceiling_and_rdma_has_none() -> None:
    by_tcp = [parse_place(f"32 V100, {gbit}GbE").wire.bytes_per_s for gbit in (10, 25, 100, 400)]
    assert by_tcp == pytest.approx([0.875e9, 2.1875e9, 5e9, 5e9])
    assert parse_place("32 V100, 100 RoCE").wire.bytes_per_s == pytest.approx(11.875e9)
    assert parse_place("32 V100, 4x100 IB").wire.bytes_per_s == pytest.approx(47.5e9)


def test_collectives_take_as_long_as_their_bytes_and_a_latency() -> None:
    place = parse_place("32 V100, 100GbE")
    network, size = place.network, 1e9
    assert network.all_reduce_s(size) == pytest.approx(2 * 31 / 32 * size / 5e9 + 150e-6)
    assert network.all_gather_s(size) == pytest.approx(31 / 32 * size / 5e9 + 150e-6)
    # Eight GPUs of a node send three quarters of theirs over its one wire.
    assert network.all_to_all_s(size) == pytest.approx(8 * 0.75 * size / 5e9 + 150e-6)
    alone = build_network(GPUS["V100"], 1, 1, place.wire)
    assert alone.all_reduce_s(size) == alone.all_gather_s(size) == alone.all_to_all_s(size) == 0
