"""Batch normalisation with the statistics of the global batch, on any device and backend."""

from bt_ray.model.batch_norm.grouped import GroupedBatchNorm, group_batch_norm, share_statistics
from bt_ray.model.batch_norm.module import GlobalBatchNorm, globalize_batch_norm

__all__ = [
    "GlobalBatchNorm",
    "GroupedBatchNorm",
    "globalize_batch_norm",
    "group_batch_norm",
    "share_statistics",
]
