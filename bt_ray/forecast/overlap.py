"""The backward pass under DistributedDataParallel: when it waits for the network. A model.

Gradients travel in buckets while the pass goes on. Each batch norm stops the pass until its sums
are back. A communicator does what it is given in order.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from bt_ray.forecast.network import Network
from bt_ray.forecast.rates import BUCKET_BYTES, FIRST_BUCKET_BYTES


@dataclass(frozen=True, kw_only=True)
class Event:
    """A piece of the backward pass."""

    seconds: float
    exchanges: bool = False
    """It begins with a batch norm's exchange."""
    gradient_bytes: int = 0
    """Of gradients that are complete with it, in their own type."""
    share_sent: float = 1.0
    """Of these bytes; a half if they travel in half precision."""


@dataclass(frozen=True, kw_only=True)
class Backward:
    """Where its seconds go, beside the arithmetic."""

    exchanges_s: float
    """Waiting for batch norm's sums."""
    gradients_s: float
    """Waiting for the last gradients, when the pass itself is done."""


def wait_in_backward(
    events: Iterable[Event], network: Network, *, own_communicator: bool
) -> Backward:
    """The waits of a backward pass of these events.

    With a communicator of its own batch norm waits for a message's latency alone, or for two
    while gradients are on the same wire; without, also for all gradients that were sent before.
    """
    now = wire_is_free = waited = 0.0
    bucket, sent, cap = 0, 0.0, FIRST_BUCKET_BYTES

    def send(num_bytes: float) -> None:
        nonlocal wire_is_free
        wire_is_free = max(wire_is_free, now) + network.all_reduce_s(num_bytes)

    for event in events:
        if event.exchanges:
            before = now
            if own_communicator:
                now += network.latency_s * (2 if wire_is_free > now else 1)
            else:
                now = wire_is_free = max(wire_is_free, now) + network.latency_s
            waited += now - before
        now += event.seconds
        bucket += event.gradient_bytes
        sent += event.share_sent * event.gradient_bytes
        if bucket >= cap:
            send(sent)
            bucket, sent, cap = 0, 0.0, BUCKET_BYTES
    if bucket:
        send(sent)
    return Backward(exchanges_s=waited, gradients_s=max(0.0, wire_is_free - now))
