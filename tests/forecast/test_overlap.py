"""The backward pass waits for what it must wait for, by hand-made cases."""

import pytest

from bt_ray.forecast.network import Network
from bt_ray.forecast.overlap import Event, wait_in_backward

MB = 2**20
NETWORK = Network(nodes=2, gpus=1, bytes_per_s=1000 * MB, latency_s=0.001)
"""Two workers: an all-reduce sends as many bytes as it sums, a second for 1,000 MB."""


def test_hidden_gradients_cost_nothing() -> None:
    events = [Event(seconds=0.1, gradient_bytes=30 * MB), Event(seconds=1.0)]
    waits = wait_in_backward(events, NETWORK, own_communicator=True)
    assert (waits.exchanges_s, waits.gradients_s) == (0, 0)


def test_the_last_bucket_is_waited_for() -> None:
    events = [Event(seconds=0.5), Event(seconds=0.1, gradient_bytes=100 * MB)]
    waits = wait_in_backward(events, NETWORK, own_communicator=True)
    assert waits.gradients_s == pytest.approx(0.101)


def test_batch_norm_queues_behind_the_gradients_unless_it_has_a_communicator() -> None:
    events = [
        Event(seconds=0.1, gradient_bytes=500 * MB),
        Event(seconds=0.1, exchanges=True),
        Event(seconds=1.0),
    ]
    shared = wait_in_backward(events, NETWORK, own_communicator=False)
    assert shared.exchanges_s == pytest.approx(0.501 + 0.001)
    own = wait_in_backward(events, NETWORK, own_communicator=True)
    assert own.exchanges_s == pytest.approx(2 * 0.001)
    assert (shared.gradients_s, own.gradients_s) == (0, 0)


def test_small_gradients_travel_together() -> None:
    """Each message costs a latency: 30 layers of 2 MB are three, the first of 1 MB and more."""
    events = [Event(seconds=0.0, gradient_bytes=2 * MB) for _ in range(30)]
    waits = wait_in_backward(events, NETWORK, own_communicator=True)
    assert waits.gradients_s == pytest.approx(60 / 1000 + 4 * 0.001)


def test_one_worker_waits_for_nobody() -> None:
    alone = Network(nodes=1, gpus=1, bytes_per_s=1.0, latency_s=0.0)
    events = [Event(seconds=0.1, exchanges=True, gradient_bytes=500 * MB)]
    waits = wait_in_backward(events, alone, own_communicator=False)
    assert (waits.exchanges_s, waits.gradients_s) == (0, 0)


def test_gradients_in_half_precision_take_half_as_long() -> None:
    events = [Event(seconds=0.0, gradient_bytes=100 * MB, share_sent=0.5)]
    waits = wait_in_backward(events, NETWORK, own_communicator=True)
    assert waits.gradients_s == pytest.approx(0.051)
