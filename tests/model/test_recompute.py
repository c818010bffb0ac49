"""Blocks that are computed again give the same bits, and have side effects once."""

from typing import cast

import pytest
import torch
from torch import Tensor, nn

from bt_ray.config import Settings, differences, override
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.stream.batches import local_batches
from bt_ray.errors import SettingsError
from bt_ray.forecast.memory import saved_storages
from bt_ray.methods.barlow_twins import BarlowTwinsLearner
from bt_ray.methods.step import build_step
from bt_ray.model.batch_norm import globalize_batch_norm
from bt_ray.model.encoder import build_encoder
from bt_ray.model.recompute import RecomputedBlocks, recompute_blocks, still_statistics
from tests.workers import run_workers

CPU = torch.device("cpu")


class Dropped(nn.Module):
    """A random layer in a block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6)
        self.line = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + nn.functional.dropout(self.norm(self.line(x)), 0.5, self.training).relu()


def staged() -> nn.Module:
    torch.manual_seed(2)
    stem, stage = nn.Linear(4, 6), nn.Sequential(Dropped(), Dropped(), Dropped())
    return nn.Sequential(stem, stage, nn.Linear(6, 2))


def pass_twice(module: nn.Module, autocast: bool = False) -> dict[str, Tensor]:
    """Outputs, gradients and buffers after two steps with random layers."""
    torch.manual_seed(4)
    found = {}
    for step in range(2):
        x = torch.randn(8, 4)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output = module(x)
        found[f"output {step}"] = output.detach()
        output.float().square().sum().backward()
    found |= {n: cast(Tensor, p.grad) for n, p in module.named_parameters()}
    return found | dict(module.named_buffers()) | {"next": torch.rand(3)}


@pytest.mark.parametrize("autocast", [False, True])
def test_outputs_gradients_and_statistics_are_the_same_bits(autocast: bool) -> None:
    """With random layers, with and without autocast; and the names of weights do not change."""
    plain, again = staged(), staged()
    names = list(again.state_dict())
    recompute_blocks(again)
    assert list(again.state_dict()) == names
    expected = pass_twice(plain, autocast)
    for name, value in pass_twice(again, autocast).items():
        assert torch.equal(value, expected[name]), name
    assert int(expected["1.0.norm.num_batches_tracked"]) == 2


def test_less_is_kept_and_each_block_is_computed_twice() -> None:
    kept, calls = {}, {}
    for name, module in (("plain", staged()), ("again", staged())):
        if name == "again":
            recompute_blocks(module)
        counts = [0, 0, 0]

        def count(block: nn.Module, *_: object, counts: list[int] = counts) -> None:
            counts[[*module[1]].index(block)] += 1  # type: ignore[index, misc] # noqa: B023

        for block in module[1]:  # type: ignore[index, union-attr]
            block.register_forward_pre_hook(count)
        with saved_storages() as held:
            output = module(torch.randn(64, 4))
        for parameter in module.parameters():
            held.pop(parameter.untyped_storage()._cdata, None)
        output.sum().backward()
        kept[name], calls[name] = sum(held.values()), counts
    assert calls == {"plain": [1, 1, 1], "again": [2, 2, 2]}
    assert kept["again"] < 0.5 * kept["plain"]


def test_nothing_is_computed_twice_without_a_graph_or_in_eval_mode() -> None:
    module = staged()
    recompute_blocks(module)
    with torch.no_grad():
        assert not module(torch.randn(8, 4)).requires_grad
    module.eval()
    with saved_storages() as kept:
        module(torch.randn(8, 4))
    assert len(kept) > 10, "autograd keeps what the blocks computed"


def test_resnets_are_supported_and_others_are_refused(small_settings: Settings) -> None:
    for name, stages in (("resnet18", [2, 2, 2, 2]), ("resnet50", [3, 4, 6, 3])):
        with torch.device("meta"):
            encoder = build_encoder(override(small_settings, {"model.encoder": name}))
        recompute_blocks(encoder)
        found = [len(m) for m in encoder.children() if isinstance(m, RecomputedBlocks)]
        assert found == stages
    with pytest.raises(SettingsError, match=r"ConvEncoder has no nn\.Sequential of blocks"):
        recompute_blocks(build_encoder(override(small_settings, {"model.encoder": "conv4"})))
    with pytest.raises(SettingsError, match=r"model\.encoder=conv4 has none"):
        override(small_settings, {"training.activation_checkpointing": True})


def test_statistics_can_be_held_still() -> None:
    torch.manual_seed(0)
    plain = nn.BatchNorm2d(3)
    wide = globalize_batch_norm(nn.BatchNorm2d(3), views=2)
    other = nn.BatchNorm2d(3, track_running_stats=False)
    x = torch.randn(4, 3, 2, 2)
    for norm in (plain, wide, other):
        free = norm(x)
        before = {name: buffer.clone() for name, buffer in norm.named_buffers()}
        with still_statistics(norm):
            assert torch.equal(norm(x), free)
        for name, buffer in norm.named_buffers():
            assert torch.equal(buffer, before[name]), name
    assert [int(norm.num_batches_tracked) for norm in (plain, wide)] == [1, 2]  # type: ignore[arg-type]
    assert [norm.momentum for norm in (plain, wide, other)] == [0.1] * 3
    plain.eval()
    free = plain(x)
    with still_statistics(plain):
        assert torch.equal(plain(x), free), "an eval mode uses the running statistics"


def _step(
    rank: int, world_size: int, settings: Settings
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gradients and buffers of two steps, under DDP where there are two workers."""
    learner = BarlowTwinsLearner(settings, CPU, steps_per_epoch=1)
    with torch.no_grad():  # torchvision's begins with blocks that add nothing
        for name, parameter in learner.module.named_parameters():
            if name.endswith("bn2.weight"):
                parameter.fill_(0.5)
    step = build_step(learner, settings)
    shards = ShardSet.open(settings.data.train)
    for batch in local_batches(
        settings, shards, start=0, stop=2, device=CPU, rank=rank, world_size=world_size
    ):
        step.backward(step.forward(batch).loss)
    grads = {n: cast(Tensor, p.grad) for n, p in learner.module.named_parameters()}
    return grads, dict(learner.module.named_buffers())


@pytest.mark.run
@pytest.mark.parametrize(
    ("world_size", "changes"),
    [
        (1, {}),
        (2, {}),
        (2, {"training.precision": "bf16"}),
        (2, {"training.micro_batch": 3}),
    ],
)
def test_a_resnets_steps_are_the_same_bits(
    small_settings: Settings, world_size: int, changes: dict[str, object]
) -> None:
    """Also with batch norm of two workers, whose collectives repeat in backward, and in parts."""
    base = {"model.encoder": "resnet18", "model.stem": "cifar", "data.global_batch": 8}
    plain = override(small_settings, {**base, **changes})
    again = override(plain, {"training.activation_checkpointing": True})
    assert differences(plain, again) == []
    expected = run_workers(world_size, _step, plain)
    for found, wanted in zip(run_workers(world_size, _step, again), expected, strict=True):
        for ours, theirs in zip(found, wanted, strict=True):
            assert ours.keys() == theirs.keys()
            for name, value in theirs.items():
                assert torch.equal(ours[name], value), name
