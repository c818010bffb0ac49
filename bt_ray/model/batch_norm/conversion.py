"""Batch norms of torch and timm, replaced by others with the same parameters and names."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

AFTERWARDS = ("drop", "act")
"""Layers that follow in a batch norm of timm's: what it calls them, in their order."""
_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_ACTIVATED = ("BatchNormAct2d", "SyncBatchNormAct", "GlobalBatchNorm")


def replace_batch_norms(
    module: nn.Module, kind: Callable[..., _BatchNorm], **attributes: int
) -> nn.Module:
    """`module` with every batch norm replaced by one of this kind, with the same parameters.

    Those of timm that drop out and activate, too, keep doing so, by the same layers. One that is of
    the kind already, or keeps to groups of rows, is left as it is.

    Args:
      attributes: what is set of each new one.
    Raises: ValueError for a batch norm of another kind than torch's and timm's, and for one with a
      cumulative average (momentum=None).
    """
    if not isinstance(module, _BatchNorm):
        for name, child in module.named_children():
            setattr(module, name, replace_batch_norms(child, kind, **attributes))
        return module
    if getattr(module, "keeps_to_groups", False):
        return module
    if module.momentum is None:
        raise ValueError("A cumulative average (momentum=None) of batch norm is not supported.")
    if type(module) not in _PLAIN and type(module).__name__ not in _ACTIVATED:
        raise ValueError(
            f"{type(module).__name__} is a batch norm of its own kind, whose statistics cannot "
            "be taken over other rows; use torch.nn.BatchNorm2d."
        )
    made = kind(
        module.num_features,
        module.eps,
        module.momentum,
        module.affine,
        module.track_running_stats,
    )
    made.train(module.training)
    made.weight, made.bias = module.weight, module.bias
    made.running_mean, made.running_var = module.running_mean, module.running_var
    made.num_batches_tracked = module.num_batches_tracked
    for name in AFTERWARDS:
        if (part := getattr(module, name, None)) is not None:
            setattr(made, name, part)
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


def go_on(norm: nn.Module, y: Tensor) -> Tensor:
    """What the layers that follow in a batch norm of timm's make of its normalised rows."""
    for name in AFTERWARDS:
        if (part := getattr(norm, name, None)) is not None:
            y = part(y)
    return y
