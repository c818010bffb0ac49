"""What only a GPU can show: `pytest -m gpu`, some minutes on one card, without Ray."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bt_ray.checkpoints.checkpoint import last_checkpoint
from bt_ray.config import Settings, override
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.stream.batches import local_batches
from bt_ray.methods.learner import WholeStep
from bt_ray.model.batch_norm import globalize_batch_norm
from bt_ray.model.export import FORMATS, TOLERANCE, export_encoder
from bt_ray.model.pretrained import load_folder
from bt_ray.optim.build import set_rates
from bt_ray.training.assignment import Pretraining
from bt_ray.training.local import train_here
from bt_ray.training.loop import begin
from bt_ray.training.watch import FiniteWatch

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    yield
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(False)


def _outcome(norm: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    y = norm(x)
    (y.float() * torch.linspace(-1, 1, y.numel(), device="cuda").view_as(y)).sum().backward()
    assert x.grad is not None
    return y.detach(), x.grad


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.float16, 1e-2)])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_two_views_at_once_are_torchs_batch_norm_of_each(
    dtype: torch.dtype, bound: float, layout: torch.memory_format
) -> None:
    x = (3 * torch.randn(16, 24, 14, 14) + 5).to("cuda", dtype).contiguous(memory_format=layout)
    one, both = nn.BatchNorm2d(24).cuda(), globalize_batch_norm(nn.BatchNorm2d(24), 2).cuda()
    expected = _outcome(lambda rows: torch.cat([one(part) for part in rows.chunk(2)]), x)
    got = _outcome(both, x)
    pairs = [*zip(got, expected, strict=True)]
    pairs += zip(both.parameters(), one.parameters(), strict=True)  # type: ignore[arg-type]
    pairs += zip(both.buffers(), one.buffers(), strict=True)  # type: ignore[arg-type]
    pairs += [(p.grad, q.grad) for p, q in zip(both.parameters(), one.parameters(), strict=True)]  # type: ignore[misc]
    for mine, theirs in pairs:
        scale = max(1.0, float(theirs.detach().abs().max()))
        torch.testing.assert_close(
            mine.float() / scale, theirs.float() / scale, rtol=bound, atol=bound
        )


def _run(settings: Settings, total_steps: int, tmp_path: Path) -> dict[str, Tensor]:
    """The weights after so many steps, from the checkpoint if there is one."""
    settings = override(settings, {"storage": str(tmp_path)})
    folder = tmp_path / settings.name
    folder.mkdir(parents=True, exist_ok=True)
    train_here(Pretraining(settings), total_steps)
    checkpoint, step = last_checkpoint(folder)
    assert checkpoint is not None
    assert step == total_steps
    return load_file(checkpoint / "encoder.safetensors")


@pytest.fixture
def on_gpu(small_settings: Settings) -> Settings:
    return override(
        small_settings,
        {"scaling.workers": 0, "scaling.accelerator": "gpu", "training.precision": "fp16"},
    )


def test_a_step_waits_for_nothing(on_gpu: Settings) -> None:
    """The second half of a few steps, once kernels are compiled and algorithms chosen."""
    device = torch.device("cuda")
    learner = Pretraining(on_gpu).build_learner(
        ShardSet.open(on_gpu.data.train), device, steps_per_epoch=2
    )
    state, step = begin(learner, on_gpu, device), WholeStep(learner)
    watch = FiniteWatch(device)
    shards = ShardSet.open(on_gpu.data.train)
    batches = list(local_batches(on_gpu, shards, start=0, stop=6, device=device))
    try:
        for number, batch in enumerate(batches):
            if number == 3:
                torch.cuda.synchronize()
                torch.cuda.set_sync_debug_mode("error")
            set_rates(state.optimizer, learner.rate_factor(number))
            outcome = step(batch)
            watch.look(number, outcome.loss, *outcome.outputs)
            state.scaler.scale(outcome.loss).backward()
            state.step_optimizer()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    watch.check()


def test_a_step_whose_gradients_overflow_is_skipped_and_counted(on_gpu: Settings) -> None:
    device = torch.device("cuda")
    learner = Pretraining(on_gpu).build_learner(
        ShardSet.open(on_gpu.data.train), device, steps_per_epoch=2
    )
    state, step = begin(learner, on_gpu, device), WholeStep(learner)
    shards = ShardSet.open(on_gpu.data.train)
    (batch,) = local_batches(on_gpu, shards, start=0, stop=1, device=device)
    set_rates(state.optimizer, 0.1)
    state.scaler.scale(step(batch).loss).backward()
    before = [p.clone() for p in state.module.parameters()]
    for p in state.module.parameters():
        assert p.grad is not None
        p.grad[..., 0] = torch.inf
    scale = state.scaler.get_scale()
    state.step_optimizer()
    assert all(torch.equal(p, q) for p, q in zip(state.module.parameters(), before, strict=True))
    assert (state.skipped_steps, state.scaler.get_scale()) == (1, scale / 2)


@pytest.mark.parametrize(("deterministic", "bound"), [(True, 0.0), (False, 2e-2)])
def test_three_and_three_steps_equal_six(
    on_gpu: Settings, tmp_path: Path, deterministic: bool, bound: float
) -> None:
    """Bit for bit with deterministic algorithms, otherwise to a hundredth of each weight's norm."""
    settings = override(on_gpu, {"training.deterministic": deterministic})
    whole = _run(override(settings, {"name": "whole"}), 6, tmp_path)
    _run(override(settings, {"name": "parts"}), 3, tmp_path)
    parts = _run(override(settings, {"name": "parts"}), 6, tmp_path)
    for name, value in whole.items():
        error = (parts[name] - value).double().norm()
        assert float(error) <= bound * float(value.double().norm()), name


def test_an_encoder_that_a_gpu_trained_is_exported(on_gpu: Settings, tmp_path: Path) -> None:
    """In every format; what was on the GPU comes out the same on the CPU."""
    _run(on_gpu, 2, tmp_path)
    checkpoint, _ = last_checkpoint(tmp_path / on_gpu.name)
    assert checkpoint is not None
    pretrained = load_folder(checkpoint)
    images = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        on_card = pretrained.encoder.cuda().eval()(images.cuda()).cpu()
        exported = export_encoder(pretrained, tmp_path / "exported", tuple(FORMATS))
        torch.testing.assert_close(pretrained.encoder(images), on_card, rtol=1e-2, atol=1e-2)
    assert all(one.difference <= TOLERANCE for one in exported)
