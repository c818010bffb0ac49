"""One sentence before a run starts, for a GPU that could not carry it out."""

from dataclasses import replace

import pytest

from bt_ray.config import Settings, override
from bt_ray.errors import LaunchError
from bt_ray.training.preflight import Card, check_cards

V100 = Card(
    machine="node-3",
    name="Tesla V100-SXM2-32GB",
    capability=(7, 0),
    torch_version="2.7.1",
    torch_code=("sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"),
    interfaces=("lo", "eth0"),
    wanted_interfaces=None,
)


def _settings(settings: Settings, **values: object) -> Settings:
    return override(settings, {f"training.{key}": value for key, value in values.items()})


@pytest.mark.parametrize(
    ("capability", "torch_code", "runs"),
    [
        ((7, 0), ("sm_75", "sm_80", "sm_90"), False),
        ((7, 0), ("sm_60", "sm_80"), False),
        ((7, 0), ("sm_60", "compute_60"), True),
        ((8, 6), ("sm_80",), True),
        ((8, 0), ("sm_86",), False),
        ((9, 0), ("sm_80", "sm_90a"), True),
        ((10, 0), ("sm_90a", "compute_90a"), False),
        ((12, 1), ("sm_120",), True),
        ((12, 0), ("sm_100", "compute_120"), True),
        ((7, 0), (), False),
    ],
)
def test_a_card_needs_code(
    small_settings: Settings, capability: tuple[int, int], torch_code: tuple[str, ...], runs: bool
) -> None:
    card = replace(V100, capability=capability, torch_code=torch_code)
    if runs:
        check_cards([card], small_settings)
        return
    with pytest.raises(LaunchError, match=r"torch 2\.7\.1 has no code for the Tesla V100.*node-3"):
        check_cards([card], small_settings)


def test_bf16_needs_a_card_that_has_it(small_settings: Settings) -> None:
    bf16 = _settings(small_settings, precision="bf16")
    with pytest.raises(LaunchError, match=r"bf16 is emulated on the Tesla V100.*use fp16"):
        check_cards([V100], bf16)
    check_cards([replace(V100, capability=(8, 0))], bf16)
    check_cards([V100], _settings(small_settings, precision="fp16"))


@pytest.mark.parametrize(
    ("wanted", "finds"),
    [
        (None, True), ("eth", True), ("eth1", False), ("=eth0", True), ("=eth", False),
        ("ib0,eth0", True), ("^lo,docker", True), ("^lo,eth", False), ("^=lo,eth", True),
    ],
)  # fmt: skip
def test_nccl_must_find_its_interface(
    small_settings: Settings, wanted: str | None, finds: bool
) -> None:
    card = replace(V100, wanted_interfaces=wanted)
    two = override(small_settings, {"scaling.workers": 2})
    if finds:
        check_cards([card], two)
        return
    with pytest.raises(LaunchError, match=r"names no network interface of node-3.*lo, eth0"):
        check_cards([card], two)
    check_cards([card], override(small_settings, {"scaling.workers": 1}))
