"""A run's images as inputs of its MLflow run: their name, digest, columns, counts and place."""

import json
import random
import re
import time
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Run
from mlflow.exceptions import MlflowException
from mlflow.types import ColSpec, Schema

from bt_ray.config import Settings
from bt_ray.data.location import public_name
from bt_ray.data.shards.manifest import COLUMNS, Manifest
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.tracking.mlflow import MlflowRun, answering

_CONTEXT = "mlflow.data.context"
"""MLflow's tag of an input: what it is used for."""
_TYPES = {"string": "string", "binary": "binary", "int32": "integer"}
_TAKEN = re.compile("(?i)unique|duplicate")
"""In what databases say if another run made the same data set between MLflow's look and its insert;
the next try finds it."""
_PAUSES_S = (0.05, 0.1, 0.2, 0.5, 1.0)
_DIGEST_CHARACTERS = 36
"""As many as MLflow keeps; the profile has the whole digest."""


def record_inputs(run: MlflowRun, settings: Settings) -> None:
    """Has MLflow name the run's shards: context `train`, and `test` if there are held-out images.

    What is recorded already is not recorded again.

    Raises: DataError if there are no shards; TrackingError.
    """
    roots = {"train": settings.data.train, "test": settings.data.test}
    inputs = [
        DatasetInput(describe(ShardSet.open(root)), [InputTag(_CONTEXT, context)])
        for context, root in roots.items()
        if root is not None
    ]
    with answering(run.uri) as client:
        for pause_s in (*_PAUSES_S, None):
            try:
                client.log_inputs(run.run_id, inputs)
                return
            except MlflowException as error:
                if pause_s is None or not _TAKEN.search(str(error)):
                    raise
                time.sleep(pause_s * (1 + random.random()))


def describe(shards: ShardSet) -> Dataset:
    """A folder of shards as a data set of MLflow's; no path or URI in it has keys."""
    manifest, place = shards.manifest, public_name(shards.root)
    columns = Schema([ColSpec(_TYPES[str(field.type)], field.name) for field in COLUMNS])
    scheme, is_uri, _ = place.partition("://")
    return Dataset(
        name=_name(manifest, place),
        digest=manifest.digest[:_DIGEST_CHARACTERS],
        source_type=scheme if is_uri and scheme != "file" else "local",
        source=json.dumps({"uri": place}),
        schema=json.dumps({"mlflow_colspec": columns.to_dict()}),
        profile=json.dumps(_profile(manifest)),
    )


def _name(manifest: Manifest, place: str) -> str:
    """The last two parts of the source's name, or of the shards' where no source is known."""
    told = manifest.preparation
    source = place if told is None else public_name(told.source)
    return "/".join(source.rpartition("://")[2].rstrip("/").split("/")[-2:])


def _profile(manifest: Manifest) -> dict[str, Any]:
    """Counts, classes, digests, and how the images were prepared."""
    told = manifest.preparation
    return {
        "num_rows": manifest.num_rows,
        "num_classes": len(manifest.classes),
        "rows_per_class": dict(zip(manifest.classes, manifest.rows_per_class, strict=False)),
        "num_rejected": manifest.num_rejected,
        "num_shards": len(manifest.shards),
        "digest": manifest.digest,
        "content": manifest.content,
        "source": None if told is None else public_name(told.source),
        "max_side_px": None if told is None else told.max_side_px,
    }


def recorded_inputs(run: Run) -> dict[str, dict[str, Any]]:
    """What `record_inputs` recorded of a run: context → name, digest, source and profile."""
    found: dict[str, dict[str, Any]] = {}
    for one in [] if run.inputs is None else run.inputs.dataset_inputs:
        context = next((tag.value for tag in one.tags if tag.key == _CONTEXT), None)
        if context is not None:
            told = json.loads(one.dataset.profile or "{}")
            profile = told if isinstance(told, dict) else {}  # as others may have recorded it
            found[context] = {
                "name": one.dataset.name,
                "digest": profile.get("digest", one.dataset.digest),
                "profile": profile,
            }
    return found
