"""Images as inputs of MLflow runs."""

import json
import logging
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from bt_ray.config import Settings, override
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.errors import TrackingError
from bt_ray.tracking.mlflow import start_run
from bt_ray.tracking.mlflow_inputs import describe, record_inputs, recorded_inputs


def test_a_runs_images_are_its_inputs_once(small_settings: Settings) -> None:
    run, _ = start_run(small_settings)
    for _ in range(2):  # as a run that goes on does
        record_inputs(run, small_settings)
    recorded = MlflowClient(run.uri).get_run(run.run_id)
    inputs = {
        next(tag.value for tag in one.tags if tag.key == "mlflow.data.context"): one.dataset
        for one in recorded.inputs.dataset_inputs
    }
    assert len(recorded.inputs.dataset_inputs) == len(inputs) == 2
    for part, root, rows in (
        ("train", small_settings.data.train, 360), ("test", str(small_settings.data.test), 1437),
    ):  # fmt: skip
        manifest, dataset = ShardSet.open(root).manifest, inputs[part]
        assert dataset.name == ("digits:test" if part == "train" else "digits")
        assert manifest.digest.startswith(dataset.digest)
        profile = json.loads(dataset.profile)
        assert (profile["num_rows"], profile["num_classes"]) == (rows, 10)
        assert sum(profile["rows_per_class"].values()) == rows
        assert profile["digest"] == manifest.digest
        columns = {c["name"]: c["type"] for c in json.loads(dataset.schema)["mlflow_colspec"]}
        assert (columns["image"], columns["label"]) == ("binary", "integer")
        assert mlflow.data.get_source(dataset).uri == root
        assert recorded_inputs(recorded)[part]["profile"] == profile


def test_without_held_out_images_there_is_one_input(small_settings: Settings) -> None:
    settings = override(small_settings, {"data.test": None})
    run, _ = start_run(settings)
    record_inputs(run, settings)
    recorded = MlflowClient(run.uri).get_run(run.run_id)
    assert list(recorded_inputs(recorded)) == ["train"]


def test_a_data_set_that_another_run_makes_at_the_same_time_is_found(
    small_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow looks and then inserts; PostgreSQL refuses whoever comes second."""
    run, _ = start_run(small_settings)
    log, refusals = MlflowClient.log_inputs, iter(["UniqueViolation: duplicate key", "UNIQUE"])

    def log_after_another(self: MlflowClient, *arguments: Any) -> None:
        if words := next(refusals, None):
            raise MlflowException(f"BAD_REQUEST: {words}")
        log(self, *arguments)

    monkeypatch.setattr(MlflowClient, "log_inputs", log_after_another)
    record_inputs(run, small_settings)
    assert len(recorded_inputs(MlflowClient(run.uri).get_run(run.run_id))) == 2

    def refuse(self: MlflowClient, *_: Any) -> None:
        raise MlflowException("It is full.")

    monkeypatch.setattr(MlflowClient, "log_inputs", refuse)
    with pytest.raises(TrackingError, match="It is full"):
        record_inputs(run, small_settings)


@pytest.mark.parametrize(
    ("root", "kind", "shown"),
    [
        (
            "s3://key:s3cret@bucket/a/b?endpoint_override=x&secret_key=s3cret",
            "s3",
            "s3://bucket/a/b",
        ),
        ("gs://bucket/b", "gs", "gs://bucket/b"),
    ],
)
def test_no_key_is_in_an_input(
    digits_shards: ShardSet, root: str, kind: str, shown: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    dataset = describe(ShardSet(root, digits_shards.manifest))
    assert dataset.source_type == kind
    assert json.loads(dataset.source) == {"uri": shown}
    assert "s3cret" not in str(dataset.to_dictionary())
    assert mlflow.data.get_source(dataset).uri == shown
