"""How large a group of workers is, on clusters that are made up."""

from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from ray.train import Checkpoint, ScalingConfig
from ray.train.v2._internal.execution.controller.state import RunningState
from ray.train.v2._internal.execution.scaling_policy import NoopDecision, ResizeDecision
from ray.train.v2._internal.execution.training_report import _TrainingReport
from ray.train.v2._internal.execution.worker_group.poll import WorkerGroupPollStatus, WorkerStatus

from bt_ray import ray_internals
from bt_ray.config import Settings, override
from bt_ray.data.stream.plan import worker_rows
from bt_ray.errors import SettingsError
from bt_ray.presets import preset
from bt_ray.ray_internals import ClusterPolicy
from bt_ray.training.elastic import num_workers
from bt_ray.tuning.space import SearchSpace
from bt_ray.tuning.sweep import sweep

Nodes = dict[str, dict[str, float]]
EACH = {"CPU": 1.0, "GPU": 1.0}
EIGHT = {"CPU": 16.0, "GPU": 8.0}


class Group:
    """A policy's group on a cluster of these nodes: 16 to 32 workers, one CPU and one GPU each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, nodes: Nodes, **resources: float) -> None:
        self.nodes, self.reserved = nodes, nodes
        self.policy = ClusterPolicy(
            ScalingConfig(
                num_workers=(16, 32),  # type: ignore[arg-type]
                use_gpu=not resources,
                resources_per_worker=resources or EACH,
            ),
            spare_cpus=1.0,
            grow_after_s=600,
            last_step=1000,
        )
        actor = SimpleNamespace(get_reserved_resources=SimpleNamespace(remote=self._ours))
        self.policy._coordinator_client = SimpleNamespace(  # type: ignore[assignment]
            maybe_send_resource_request=lambda *_: None, _autoscaling_coordinator=actor
        )
        monkeypatch.setattr(ray_internals, "_nodes", lambda: self.nodes)
        monkeypatch.setattr(ray_internals.ray, "get", lambda answer, timeout: answer)

    def _ours(self, requester: object, *, recompute: bool) -> Nodes:
        assert recompute, "what is known may be 20 s old"
        return self.reserved

    def start(self) -> int:
        """The workers that a start is tried with."""
        decision = self.policy.make_decision_for_non_running_worker_group()
        assert isinstance(decision, ResizeDecision)
        return decision.num_workers

    def runs(self) -> None:
        """The start comes about."""
        self.policy.after_controller_state_update(None, RunningState())

    def look(
        self,
        workers: int,
        *,
        kept: bool = True,
        age_s: float = 601,
        step: int = 999,
        running: bool = True,
    ) -> int | None:
        """The workers that a running group is replaced by; none: it goes on."""
        checkpoint = Checkpoint("/somewhere") if kept else None
        report = _TrainingReport(checkpoint=checkpoint, metrics={"step": step}, validation=False)
        first = WorkerStatus(running=True, training_report=report)
        status = WorkerGroupPollStatus({0: first, 1: WorkerStatus(running=running)})
        group = SimpleNamespace(
            num_workers=workers, start_time=ray_internals.time.monotonic() - age_s
        )
        decision = self.policy.make_decision_for_running_worker_group(group, status)
        assert isinstance(decision, NoopDecision | ResizeDecision)
        return decision.num_workers if isinstance(decision, ResizeDecision) else None


Make = Callable[..., Group]


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Make:
    return lambda nodes, **resources: Group(monkeypatch, nodes, **resources)


def _of(count: int) -> Nodes:
    return {f"node {i}": dict(EIGHT) for i in range(count)}


@pytest.mark.parametrize(("nodes", "workers"), [(1, 16), (2, 16), (3, 24), (4, 32), (5, 32)])
def test_a_start_takes_what_fits_and_waits_for_the_fewest(
    group: Make, nodes: int, workers: int
) -> None:
    assert group(_of(nodes)).start() == workers


def test_what_other_runs_have_reserved_and_nodes_that_have_gone_are_not_counted(
    group: Make,
) -> None:
    cluster = group(_of(4))
    cluster.reserved = _of(3) | {"gone": dict(EIGHT)}
    assert cluster.start() == 24


def test_a_cpu_is_left_for_reading_data_and_fractions_are_whole(group: Make) -> None:
    assert group({"a": {"CPU": 20.0}}, CPU=1.0).start() == 19
    assert group({"a": {"CPU": 6.7}}, CPU=0.3).start() == 19  # 5.7 / 0.3 is 18.999… to a computer
    assert group({"a": {"CPU": 6.7}, "b": {"CPU": 0.2}}, CPU=0.3).start() == 19


def test_a_group_grows_at_a_checkpoint_and_not_sooner_than_it_may(group: Make) -> None:
    cluster = group(_of(3))
    cluster.start()
    cluster.runs()
    assert cluster.look(24) is None
    cluster.nodes = cluster.reserved = _of(4)
    assert cluster.look(24, kept=False) is None
    assert cluster.look(24, age_s=599) is None
    assert cluster.look(24, step=1000) is None, "it is finished"
    assert cluster.look(24, running=False) is None, "it is told to stop"
    assert cluster.look(24) == 32
    cluster.nodes = cluster.reserved = _of(2)
    assert cluster.look(24) is None, "a group that goes on is never made smaller"


def test_a_start_that_others_leave_no_room_for_is_tried_with_fewer(group: Make) -> None:
    """Resources that neither Ray Train nor Ray Data reserved are seen by failing alone."""
    cluster = group(_of(4))
    assert [cluster.start() for _ in range(6)] == [32, 24, 20, 18, 17, 16]
    assert cluster.start() == 16
    cluster.runs()
    assert cluster.look(16) is None, "nothing has changed: it would fail again"
    cluster.nodes = cluster.reserved = _of(5)
    assert cluster.look(16) == 32
    cluster.runs()
    cluster.nodes = cluster.reserved = _of(3)
    assert cluster.start() == 24, "a group that ran and lost a node is no start that failed"


def test_a_lost_node_is_seen_before_ray_declares_it_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def node(name: str, port: int, alive: bool = True) -> dict[str, Any]:
        return {"NodeID": name, "Alive": alive, "Resources": EIGHT,
                "NodeManagerAddress": "127.0.0.1", "NodeManagerPort": port}  # fmt: skip

    with socket.create_server(("127.0.0.1", 0)) as there, socket.socket() as gone:
        gone.bind(("127.0.0.1", 0))
        open_port, closed_port = (place.getsockname()[1] for place in (there, gone))
        told = [node("there", open_port), node("lost", closed_port),
                node("dead", open_port, alive=False), node("leaving", open_port)]  # fmt: skip
        monkeypatch.setattr(ray_internals.ray, "nodes", lambda: told)
        leaving = SimpleNamespace(get_draining_nodes=lambda: {"leaving": 0})
        monkeypatch.setattr(ray_internals, "state", SimpleNamespace(state=leaving))
        assert ray_internals._nodes() == {"there": EIGHT}


def test_shares_of_a_batch_differ_by_a_row_at_most() -> None:
    for workers in range(1, 13):
        rows = worker_rows(12, workers)
        assert sum(rows) == 12
        assert len(rows) == workers
        assert all(0 <= a - b <= 1 for a, b in pairwise(rows))
        assert rows[0] - rows[-1] <= 1
    assert worker_rows(2048, 24) == (86,) * 8 + (85,) * 16


def _with(workers: object, **more: object) -> Settings:
    return override(preset("digits"), {"scaling.workers": workers, **more})


def test_a_range_is_what_ray_train_gets_and_a_number_stays_one() -> None:
    assert num_workers(_with("2..4").scaling) == (2, 4)
    assert num_workers(_with(4).scaling) == 4
    assert num_workers(_with(0).scaling) == 0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"scaling.workers": "many"}, "must be a number such as 4, or a range such as 2..4"),
        ({"scaling.workers": "4..2"}, "scaling.workers=4..2 must begin with 1 or more"),
        ({"scaling.workers": "0..2"}, "must begin with 1 or more"),
        ({"scaling.workers": "2..257"}, "must not end above data.global_batch=256"),
        ({"scaling.workers": 1.5}, "must be of type int"),
        ({"scaling.workers": None}, "must be of type int"),
        ({"scaling.grow_minutes": -1.0}, "scaling.grow_minutes=-1.0 must be 0 or above"),
        (
            {"scaling.workers": "2..4", "training.micro_batch": 127},
            "scaling.workers=2..4 must be one number, or training.micro_batch 128 or more",
        ),
    ],
)
def test_what_no_range_can_be_is_refused_in_one_sentence(
    changes: dict[str, object], sentence: str
) -> None:
    with pytest.raises(SettingsError) as told:
        override(preset("digits"), changes)
    assert sentence in str(told.value)


def test_parts_that_are_the_whole_share_on_any_number_of_workers_are_none() -> None:
    assert _with("2..4", **{"training.micro_batch": 128}).scaling.max_workers == 4


def test_a_sweeps_trials_want_one_number(small_settings: Settings) -> None:
    with pytest.raises(SettingsError, match=r"scaling\.workers=2\.\.4 .* one number"):
        sweep(_nothing(), override(small_settings, {"scaling.workers": "2..4"}))


def _nothing() -> SearchSpace:
    return SearchSpace(name="nothing", propose=lambda trial: {})
