"""Which arithmetic a run gets where the settings leave it to the machine, and that it keeps it."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient

from bt_ray.config import SETTINGS_FILE, Settings, from_json, override, to_json
from bt_ray.errors import SettingsError
from bt_ray.forecast.forecast import forecast
from bt_ray.precision import best_on_cpu
from bt_ray.presets import preset
from bt_ray.training import arithmetic, cluster, on_cpu
from bt_ray.training.arithmetic import begun_precision, choose_precision
from bt_ray.training.launch import pretrain
from bt_ray.training.local import choose_device
from bt_ray.training.preflight import Card

HERE = {"scaling.workers": 0, "training.precision": "auto", "schedule.epochs": 1,
        "schedule.warmup_epochs": 0.0}  # fmt: skip


def _machine(monkeypatch: pytest.MonkeyPatch, has_bf16: bool) -> None:
    monkeypatch.setattr("bt_ray.precision.cpu_has_bf16", lambda: has_bf16)
    monkeypatch.setattr(on_cpu, "cpu_has_bf16", lambda: has_bf16)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.run
def test_a_run_says_and_records_what_was_chosen_and_keeps_it(
    small_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    _machine(monkeypatch, True)
    settings = override(small_settings, HERE)
    summary = pretrain(settings, register=False)
    folder = Path(summary.paths["run"])
    assert summary.precision == "bf16"
    assert json.loads((folder / "summary.json").read_text())["precision"] == "bf16"
    assert from_json((folder / SETTINGS_FILE).read_text()).training.precision == "bf16"
    run = MlflowClient(summary.paths["mlflow"]).get_run(summary.run_id)
    assert run.data.params["training.precision"] == "bf16"

    _machine(monkeypatch, False)  # the same command on another machine
    assert pretrain(settings, register=False).precision == "bf16"
    with pytest.raises(SettingsError, match=r"with other settings \(training\.precision\)"):
        pretrain(override(settings, {"training.precision": "fp32"}), register=False)
    for damaged in ("{", None):  # its checkpoint knows, too
        (folder / SETTINGS_FILE).unlink()
        if damaged is not None:
            (folder / SETTINGS_FILE).write_text(damaged)
        assert begun_precision(folder) == "bf16"
    assert begun_precision(folder / "absent") is None


@pytest.mark.parametrize("has_bf16", [True, False])
def test_a_dry_run_says_what_will_be_chosen(
    small_settings: Settings, has_bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    _machine(monkeypatch, has_bf16)
    ahead = forecast(override(small_settings, HERE))
    assert ahead.precision == ("bf16" if has_bf16 else "fp32")
    assert not [warning for warning in ahead.warnings if "precision" in warning]


def test_a_run_that_goes_on_where_its_arithmetic_is_emulated_is_warned_with_what_it_costs(
    small_settings: Settings, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    _machine(monkeypatch, False)
    on_cpu._say.cache_clear()
    monkeypatch.setattr(on_cpu, "slowdown", lambda _: 13.04)
    settings = override(small_settings, HERE)
    (tmp_path / SETTINGS_FILE).write_text(
        to_json(override(settings, {"training.precision": "bf16"}))
    )
    goes_on = choose_precision(settings, tmp_path)
    assert goes_on.training.precision == "bf16"
    with caplog.at_level(logging.WARNING):
        choose_device(goes_on)
    assert "emulated by this CPU: a convolution takes 13 times as long as in fp32" in caplog.text


def test_how_much_longer_emulation_takes_is_measured() -> None:
    on_cpu.slowdown.cache_clear()
    assert 0.05 < on_cpu.slowdown("bf16") < 1000


def _card(*capability: int) -> Card:
    return Card(
        machine="node", name="GPU", capability=(capability[0], capability[1]), torch_version="2",
        torch_code=(), interfaces=(), wanted_interfaces=None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("resources", "found", "best"),
    [
        ({"CPU": 9.0}, ["bf16", "bf16"], "bf16"),
        ({"CPU": 9.0}, ["bf16", "fp32"], "fp32"),
        ({"CPU": 9.0, "GPU": 2.0}, [_card(9, 0), _card(8, 0)], "bf16"),
        ({"CPU": 9.0, "GPU": 2.0}, [_card(9, 0), _card(7, 0)], "fp16"),
        ({"CPU": 9.0, "GPU": 2.0}, [_card(6, 1)], "fp32"),
        ({"CPU": 9.0, "GPU": 2.0}, [], "fp16"),
    ],
)
def test_a_cluster_computes_in_what_all_of_its_nodes_have(
    resources: dict[str, float], found: list[Any], best: str,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:6379")
    monkeypatch.setattr(cluster.ray, "cluster_resources", lambda: resources)
    monkeypatch.setattr(cluster, "_ask_nodes", lambda *_, **__: found)
    monkeypatch.setattr(arithmetic, "connect", lambda _: None)
    settings = choose_precision(preset("digits"), tmp_path)
    assert settings.training.precision == best


def test_a_cluster_that_starts_here_is_this_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cluster.ray, "cluster_resources", lambda: {"CPU": 9.0})
    monkeypatch.setattr(arithmetic, "connect", lambda _: None)
    assert choose_precision(preset("digits"), tmp_path).training.precision == best_on_cpu()
