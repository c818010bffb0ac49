"""Counts the bytes that a worker's collectives send."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch.distributed as dist
from torch import Tensor


@dataclass
class Traffic:
    """Bytes that this worker has sent."""

    bytes_sent: float = 0.0


@contextmanager
def counted() -> Iterator[Traffic]:
    """Counts what is sent inside, with the collectives that bt_ray.distributed.collectives uses.

    An all-reduce of m bytes counts as 2 m (W − 1)/W and an all-gather of m from each worker as
    m (W − 1), what their ring algorithms send; an all-to-all as what it hands to other workers.
    """
    traffic = Traffic()
    reduce, gather, exchange = dist.all_reduce, dist.all_gather, dist.all_to_all_single

    def all_reduce(x: Tensor, *arguments: Any, **options: Any) -> Any:
        workers = dist.get_world_size(options.get("group"))
        traffic.bytes_sent += 2 * x.nbytes * (workers - 1) / workers
        return reduce(x, *arguments, **options)

    def all_gather(parts: list[Tensor], x: Tensor, **options: Any) -> Any:
        traffic.bytes_sent += x.nbytes * (len(parts) - 1)
        return gather(parts, x, **options)

    def all_to_all_single(
        received: Tensor, sent: Tensor, from_each: list[int], to_each: list[int], **options: Any
    ) -> Any:
        others = sum(to_each) - to_each[dist.get_rank(options.get("group"))]
        traffic.bytes_sent += others * sent.itemsize
        return exchange(received, sent, from_each, to_each, **options)

    with mock.patch.multiple(
        dist, all_reduce=all_reduce, all_gather=all_gather, all_to_all_single=all_to_all_single
    ):
        yield traffic
