"""The lane's calls of CUDA, recorded: without a GPU they would raise, or do nothing."""

from unittest.mock import MagicMock, call

import pytest
import torch

from bt_ray.data.stream import lane as lanes
from bt_ray.data.stream.lane import CudaLane, build_lane

DEVICE = torch.device("cuda", 3)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> MagicMock:
    """`torch.cuda` of the lane's module."""
    recorder = MagicMock()
    recorder.Stream.return_value.name = "the lane's"
    monkeypatch.setattr(lanes, "torch", MagicMock(cuda=recorder, empty=recorder.empty))
    return recorder


def test_the_stream_and_its_memory_are_the_workers_devices(cuda: MagicMock) -> None:
    """A thread starts with device 0, and must not make a context there."""
    lane = CudaLane(DEVICE)
    cuda.Stream.assert_called_once_with(DEVICE)
    lane.pinned((2, 3), torch.uint8)
    cuda.device.assert_called_once_with(DEVICE)
    names = [c[0] for c in cuda.mock_calls]
    assert names.index("device().__enter__") < names.index("empty")
    assert cuda.empty.call_args == call((2, 3), dtype=torch.uint8, pin_memory=True)
    lane.beside()
    cuda.stream.assert_called_once_with(cuda.Stream.return_value)


def test_a_copy_is_not_waited_for(cuda: MagicMock) -> None:
    pinned = MagicMock()
    CudaLane(DEVICE).copy(pinned)
    assert pinned.mock_calls == [call.to(DEVICE, non_blocking=True)]


def test_a_mark_is_joined_by_the_stream_that_computes(cuda: MagicMock) -> None:
    """That stream waits, not the host; and the memory is not used anew before it is done."""
    lane, tensor = CudaLane(DEVICE), MagicMock()
    mark, event, computing = lane.mark(), cuda.Event.return_value, cuda.current_stream.return_value
    assert event.mock_calls == [call.record(cuda.Stream.return_value)]
    mark.join([tensor])
    cuda.current_stream.assert_called_once_with(DEVICE)
    assert computing.mock_calls == [call.wait_event(event)]
    assert tensor.mock_calls == [call.record_stream(computing)]
    assert not event.synchronize.called
    mark.wait()
    event.synchronize.assert_called_once_with()


def test_a_cpu_has_no_lane() -> None:
    assert build_lane(torch.device("cpu")) is None
