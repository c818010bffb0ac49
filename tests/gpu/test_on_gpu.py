"""What only a GPU can show: `pytest -m gpu`, some minutes on one card, without Ray."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bt_ray.config import Settings, override
from bt_ray.model.batch_norm import globalize_batch_norm
from bt_ray.training.assignment import Pretraining
from bt_ray.training.local import train_here

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
        scale = max(1.0, float(theirs.abs().max()))
        torch.testing.assert_close(
            mine.float() / scale, theirs.float() / scale, rtol=bound, atol=bound
        )


def _run(settings: Settings, total_steps: int, tmp_path: Path) -> dict[str, Tensor]:
    """The weights after so many steps, from the checkpoint if there is one."""
    from safetensors.torch import load_file

    from bt_ray.checkpoints.checkpoint import last_checkpoint

    folder = tmp_path / settings.name
    folder.mkdir(parents=True, exist_ok=True)
    train_here(Pretraining(settings, folder), total_steps)
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
