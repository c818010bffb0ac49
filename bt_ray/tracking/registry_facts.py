"""What MLflow recorded of the run that trained an encoder; asked for when it is wanted."""

import json
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion

from bt_ray.tracking.mlflow_inputs import recorded_inputs

EVALUATIONS = "evaluations"
"""Folder of a run's artifacts with the records of its evaluations."""


class RunFacts:
    """One run's facts; each is asked for once, and raises what MLflow raises."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client, self.run_id = client, run_id

    @cached_property
    def run(self) -> Run:
        """As MLflow has it."""
        return self._client.get_run(self.run_id)

    @property
    def metrics(self) -> dict[str, float]:
        """The last value of every metric."""
        return dict(self.run.data.metrics)

    def tag(self, name: str) -> str | None:
        """A tag's text; none if there is none, or nothing in it."""
        return self.run.data.tags.get(name) or None

    def param(self, name: str) -> str | None:
        """A setting as text, by its dotted key."""
        return self.run.data.params.get(name)

    @property
    def days(self) -> tuple[str | None, str | None]:
        """The days on which it began and ended, in UTC."""
        began, ended = (
            None if ms is None else datetime.fromtimestamp(ms / 1000, UTC).date().isoformat()
            for ms in (self.run.info.start_time, self.run.info.end_time)
        )
        return began, ended

    @cached_property
    def inputs(self) -> dict[str, dict[str, Any]]:
        """Its images by what they were for (`mlflow_inputs.recorded_inputs`)."""
        return recorded_inputs(self.run)

    def history(self, metric: str) -> dict[int, float]:
        """A metric's values by step, ordered; empty if it was never measured."""
        if metric not in self.metrics:
            return {}
        points = self._client.get_metric_history(self.run_id, metric)
        return {m.step: m.value for m in sorted(points, key=lambda m: (m.step, m.timestamp))}

    @cached_property
    def evaluations(self) -> list[dict[str, Any]]:
        """The records of its evaluations, in the order of their files' names."""
        if not any(name.startswith("eval/") for name in self.metrics):
            return []
        records = []
        with tempfile.TemporaryDirectory() as folder:
            for listed in self._client.list_artifacts(self.run_id, EVALUATIONS):
                if listed.is_dir or not listed.path.endswith(".json"):
                    continue
                file = self._client.download_artifacts(self.run_id, listed.path, folder)
                records.append(json.loads(Path(file).read_text()))
        return [
            one for one in records if isinstance(one, dict) and isinstance(one.get("scores"), dict)
        ]


def versions_of(client: MlflowClient, name: str) -> list[ModelVersion]:
    """All versions of a model, the oldest first; none if there is no such model."""
    mark = '"' if "'" in name else "'"
    found = all_pages(client.search_model_versions, filter_string=f"name = {mark}{name}{mark}")
    return sorted(found, key=lambda version: int(version.version))


def all_pages(search: Callable[..., Any], **arguments: Any) -> Iterator[Any]:
    """All that a paged search of MLflow's finds."""
    token = None
    while True:
        page = search(page_token=token, **arguments)
        yield from page
        token = page.token
        if not token:
            return
