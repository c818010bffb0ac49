"""The projector at every depth and width of the paper's figures, and without batch norm."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from bt_ray.model.projector import build_projector


@pytest.mark.parametrize(
    "width", [16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384, 65_536]
)
@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_every_depth_and_width_is_built(depth: int, width: int) -> None:
    """On torch's meta device, which has shapes and no memory."""
    with torch.device("meta"):
        projector = build_projector(2048, [width] * depth)
        assert projector(torch.empty(4, 2048)).shape == (4, width)
    kinds = [type(module) for module in projector]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.ReLU] * (depth - 1) + [nn.Linear]
    parameters = sum(parameter.numel() for parameter in projector.parameters())
    assert parameters == 2048 * width + (depth - 1) * (width**2 + 2 * width)


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_it_computes_what_it_says(depth: int) -> None:
    projector = build_projector(7, [6, 5, 4, 3, 2][:depth]).double()
    x = torch.randn(9, 7, dtype=torch.float64)
    expected = x
    for i, linear in enumerate(m for m in projector if isinstance(m, nn.Linear)):
        expected = expected @ linear.weight.T
        if i < depth - 1:
            expected = expected - expected.mean(0)
            expected = expected * torch.rsqrt(expected.var(0, correction=0) + 1e-5)
            expected = functional.relu(expected)
    torch.testing.assert_close(projector(x), expected)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_without_batch_norm_hidden_layers_have_biases(depth: int) -> None:
    projector = build_projector(7, [5] * depth, batch_norm=False)
    kinds = [type(module) for module in projector]
    assert kinds == [nn.Linear, nn.ReLU] * (depth - 1) + [nn.Linear]
    biases = [m.bias is not None for m in projector if isinstance(m, nn.Linear)]
    assert biases == [True] * (depth - 1) + [False]
