"""Which parameters an optimizer treats as weights, and AdamW as an optimizer."""

from pathlib import Path

import pytest
import torch
from torch import nn

from bt_ray.checkpoints.checkpoint import restore_checkpoint, save_checkpoint
from bt_ray.checkpoints.state import TrainingState
from bt_ray.config import Settings, override
from bt_ray.model.encoder import build_encoder
from bt_ray.optim.build import build_optimizer

VIT = {"model.encoder": "timm:vit_tiny_patch16_224", "model.patch_px": 8, "views.image_px": 16}
EXCLUDED = {
    "timm:vit_tiny_patch16_224": {"cls_token", "pos_embed"},
    "torchvision:vit_b_16": {"class_token", "encoder.pos_embedding"},
    "torchvision:convnext_tiny": {f"features.1.{i}.layer_scale" for i in range(3)},
    "torchvision:swin_t": {
        f"features.1.{i}.attn.relative_position_bias_table" for i in range(2)
    },
}  # fmt: skip


@pytest.mark.parametrize("name", EXCLUDED)
@pytest.mark.parametrize("kind", ["lars", "adamw"])
def test_positions_tokens_and_scales_are_neither_adapted_nor_decayed(
    small_settings: Settings, name: str, kind: str
) -> None:
    settings = override(
        small_settings, {"model.encoder": name, "views.image_px": 64, "optimizer.kind": kind}
    )
    with torch.device("meta"):
        module = build_encoder(settings)
    weights, others = build_optimizer(settings, module).param_groups
    names = {id(p): n for n, p in module.named_parameters()}
    excluded = {names[id(p)] for p in others["params"]}
    assert excluded >= EXCLUDED[name]
    assert all(p.dim() > 1 for p in weights["params"])
    assert {n for n, p in module.named_parameters() if p.dim() <= 1} <= excluded
    assert len(excluded) + len(weights["params"]) == len(names)
    if kind == "lars":
        assert (weights["adapt"], others["adapt"]) == (True, False)
    else:
        assert (weights["weight_decay"], others["weight_decay"]) == (0.05, 0.0)


def test_a_modules_own_list_is_heard() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.kernel = nn.Parameter(torch.ones(3, 3)), nn.Parameter(torch.ones(3, 3))

        def no_weight_decay(self) -> set[str]:
            return {"table"}

    from bt_ray.presets import preset

    module = nn.Sequential(Own())
    weights, others = build_optimizer(preset("digits"), module).param_groups
    assert [p is module[0].kernel for p in weights["params"]] == [True]
    assert [p is module[0].table for p in others["params"]] == [True]


def test_adamw_is_torchs_with_the_settings_numbers(small_settings: Settings) -> None:
    changes = {"optimizer.kind": "adamw", "optimizer.adamw_rate": 1e-2, "data.global_batch": 512}
    settings = override(small_settings, changes)
    module, plain = nn.Linear(3, 2), nn.Linear(3, 2)
    plain.load_state_dict(module.state_dict())
    ours = build_optimizer(settings, module)
    theirs = torch.optim.AdamW(
        [
            {"params": [plain.weight], "weight_decay": 0.05},
            {"params": [plain.bias], "weight_decay": 0.0},
        ],
        lr=2e-2,
        betas=(0.9, 0.999),
    )
    for _ in range(3):
        for layer, optimizer in ((module, ours), (plain, theirs)):
            optimizer.zero_grad()
            layer(torch.arange(6.0).view(2, 3)).square().sum().backward()
            optimizer.step()
    assert torch.equal(module.weight, plain.weight)
    assert torch.equal(module.bias, plain.bias)
    assert settings.optimizer.rate_setting == "optimizer.adamw_rate"


def test_adamw_goes_on_from_a_checkpoint_bit_for_bit(
    small_settings: Settings, tmp_path: Path
) -> None:
    settings = override(small_settings, {"optimizer.kind": "adamw"})

    def state() -> TrainingState[nn.Module]:
        torch.manual_seed(0)
        module = nn.ModuleDict({"encoder": nn.Linear(3, 2)})
        optimizer = build_optimizer(settings, module)
        return TrainingState(module, optimizer, torch.amp.GradScaler("cpu", enabled=False))

    def train(kept: TrainingState[nn.Module], steps: int) -> None:
        for _ in range(steps):
            layer = kept.module["encoder"]  # type: ignore[index]
            layer(torch.arange(6.0).view(2, 3)).square().sum().backward()
            kept.step_optimizer()
            kept.step += 1

    whole, first, second = state(), state(), state()
    train(whole, 5)
    train(first, 2)
    save_checkpoint(tmp_path / "checkpoint", first, settings)
    restore_checkpoint(tmp_path / "checkpoint", second, settings)
    train(second, 3)
    for ours, theirs in zip(whole.module.parameters(), second.module.parameters(), strict=True):
        assert torch.equal(ours, theirs)
