"""Every row of Tables 5 and 6 trains, is checkpointed, and warns of nothing it is not."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bt_ray.checkpoints.start import load_start
from bt_ray.config import Settings, override
from bt_ray.methods import barlow_twins
from bt_ray.objective.objective import Objective
from bt_ray.training.first_weights import settle_start
from bt_ray.training.launch import pretrain
from bt_ray.training.summary import find_doubt
from tests.states import build_state
from tests.training.test_loop import CPU, assert_equal, run

pytestmark = pytest.mark.run

ROWS: dict[str, dict[str, Any]] = {
    "only invariance": {"objective.variant": "invariance_only"},
    "only redundancy reduction": {"objective.variant": "redundancy_only"},
    "feature dimension": {"objective.variant": "feature_normalization"},
    "no BN": {"model.projector_batch_norm": False},
    "no BN, no normalization": {
        "model.projector_batch_norm": False,
        "objective.variant": "cross_covariance",
    },
    "cross-entropy": {"objective.variant": "cross_entropy"},
    "auto-correlation": {"objective.variant": "auto_correlation"},
    "stop-gradient": {"model.stop_gradient": True},
    "predictor": {"model.predictor_widths": [32, 64]},
    "both": {"model.predictor_widths": [32, 64], "model.stop_gradient": True},
}
BOTH = ROWS["both"]


def losses_of(settings: Settings, folder: Path) -> Tensor:
    """Of twelve steps."""
    changes = {"schedule.epochs": 6, "training.probe_every_epochs": 6, "probe.bank_images": 64}
    _, context = run(override(settings, changes), folder)
    losses = torch.tensor([m["train/loss"] for _, m in context.reports if "train/loss" in m])
    assert len(losses) == 12
    assert losses.isfinite().all()
    return losses


@pytest.mark.parametrize("row", [row for row in ROWS if row != "only redundancy reduction"])
def test_it_trains(small_settings: Settings, tmp_path: Path, row: str) -> None:
    """The loss is finite and falls."""
    losses = losses_of(override(small_settings, ROWS[row]), tmp_path)
    assert losses[-3:].mean() < losses[:3].mean()


def test_redundancy_reduction_alone_undoes_what_invariance_alone_does(
    small_settings: Settings, tmp_path: Path
) -> None:
    """Embeddings of fresh weights are at its least loss already, the noise of 128 images."""
    losses_of(override(small_settings, ROWS["only invariance"]), tmp_path / "invariance")
    start = {"model.start_from": str(tmp_path / "invariance" / "12")}
    settings = settle_start(
        override(small_settings, {**ROWS["only redundancy reduction"], **start})
    )
    losses = losses_of(settings, tmp_path / "redundancy")
    assert losses[-3:].mean() < 0.5 * losses[0]


@pytest.mark.parametrize("row", ["only invariance", "cross-entropy", "both"])
def test_a_whole_run_ends_in_a_summary_and_pictures(small_settings: Settings, row: str) -> None:
    """Without Ray; also where a term is missing, and where losses are negative."""
    changes = {"scaling.workers": 0, "schedule.epochs": 1, **ROWS[row]}
    summary = pretrain(override(small_settings, changes), register=False)
    assert summary.steps == summary.total_steps == 2
    assert summary.scores["loss"] is not None
    if row != "both":
        assert summary.warnings == ()
    assert Path(summary.paths["curves"]).is_file()


def test_a_run_with_a_predictor_continues_bit_for_bit(
    small_settings: Settings, tmp_path: Path
) -> None:
    settings = override(small_settings, BOTH)
    whole, _ = run(settings, tmp_path)
    assert (tmp_path / "3" / "predictor.safetensors").is_file()
    for later in (4, 5, 6):
        (tmp_path / str(later)).rename(tmp_path / f"first {later}")
    resumed, _ = run(settings, tmp_path, start=3)
    assert_equal(whole, resumed)


def test_a_new_run_takes_the_predictor_if_it_is_built_alike(
    small_settings: Settings, tmp_path: Path
) -> None:
    settings = override(small_settings, BOTH)
    trained, _ = run(settings, tmp_path)
    start = {"model.start_from": str(tmp_path / "6")}
    same = build_state(settings, CPU).module
    load_start(same, settle_start(override(settings, start)))
    assert_equal(trained, same)
    changes = {**start, "name": "narrower", "model.predictor_widths": [16, 64]}
    narrower = settle_start(override(settings, changes))
    other, fresh = (build_state(narrower, CPU).module for _ in range(2))
    load_start(other, narrower)
    assert_equal_parts(other.projector, trained.projector)
    assert_equal_parts(other.predictor, fresh.predictor)
    changes = {**start, "name": "bare", "model.projector_batch_norm": False}
    bare = settle_start(override(settings, changes))
    other, fresh = (build_state(bare, CPU).module for _ in range(2))
    load_start(other, bare)
    assert_equal_parts(other.encoder, trained.encoder)
    assert_equal_parts(other.projector, fresh.projector)


def assert_equal_parts(one: nn.Module | None, other: nn.Module | None) -> None:
    assert one is not None
    assert other is not None
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


class Contrast(nn.Module):
    """A contrastive loss of one worker's rows: no statistics, a temperature, a term of its own."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, z_a: Tensor, z_b: Tensor, counts: Sequence[int]) -> Objective:
        y_a, y_b = (functional.normalize(z) for z in (z_a, z_b))
        logits = y_a @ y_b.T / self.temperature
        hits = (logits.argmax(1) == torch.arange(len(logits))).float().mean()
        loss = functional.cross_entropy(logits, torch.arange(len(logits)))
        return Objective(loss=loss, terms={"contrastive_top1": hits})


def test_the_loop_asks_nothing_else_of_an_objective(
    small_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that has nothing of the paper's goes through it unchanged."""
    monkeypatch.setattr(barlow_twins, "build_objective", lambda _: Contrast(temperature=0.2))
    settings = override(small_settings, {"schedule.epochs": 6})
    _, context = run(settings, tmp_path)
    reports = [m for _, m in context.reports if "train/loss" in m]
    assert reports[-1]["train/loss"] < reports[0]["train/loss"]
    assert {name for name in reports[0] if name.startswith("train/")} == {
        "train/epoch",
        "train/loss",
        "train/contrastive_top1",
        "train/weight_rate",
    }


@pytest.mark.parametrize("row", ROWS)
def test_only_the_papers_loss_is_doubted(small_settings: Settings, row: str) -> None:
    """Terms that mean collapse in Eq. 1 mean nothing known elsewhere, where one may be missing."""
    settings = override(small_settings, ROWS[row])
    if settings.objective.variant == "barlow_twins":
        collapsed = {"train/on_diagonal": 0.0, "train/off_diagonal": 64.0 * 63}
        assert "collapsing" in str(find_doubt(settings, collapsed))
    else:
        assert find_doubt(settings, {}) is None
