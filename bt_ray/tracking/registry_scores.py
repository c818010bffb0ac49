"""What was measured of a registered encoder, and by which protocol.

Two values may be compared if name and protocol are equal: the same method, with the same options,
learnt from the same images and measured on the same images. They come from evaluations, from the
contest of a sweep, or from the probe of the training run. What was measured of other weights of
the same run does not count.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mlflow.entities.model_registry import ModelVersion

from bt_ray.tracking.registry_facts import RunFacts

WEIGHTS, STEP = "weights", "step"
"""Tags of a version: the digest of its weights, and after how many steps they were saved."""
AVERAGED = "average_decay"
"""Tag of a version whose weights are a moving average: its decay."""
UNTRAINED = "_untrained"
PROBE, PROBE_OF_AVERAGE = "knn/top1", "knn_average/top1"
_PREFERRED = ("knn_top1", "linear_top1", "linear_fast_top1")
_NO_PART = (
    "encoder", "storage", "architecture", "stem", "image_px", "baseline", "train", "test", "root",
    "workers", "threads_per_worker", "most_shared", "name", "accelerator", "supervised",
    "train_annotations", "train_images", "test_annotations", "test_images",
)  # fmt: skip
"""Options of an evaluation that say where things are, and how fast it goes."""


@dataclass(frozen=True)
class Measured:
    """A value that was measured; more is better."""

    name: str
    value: float
    protocol: str
    """Method, options and images; equal for two values that may be compared."""
    spread: float | None = None
    """Standard deviation over seeds, where a sweep measured it."""


def measures_of(version: ModelVersion, facts: RunFacts | None) -> list[Measured]:
    """All that is known of this version, the most telling first.

    Args:
      facts: of the run that trained it, if MLflow knows it.
    """
    found = list(_of_contest(version.tags))
    if facts is not None:
        for record in facts.evaluations:
            if _is_of(record, version, facts):
                found += _of_evaluation(record)
        found += _of_probe(version, facts)
    unique = {(one.name, one.protocol): one for one in reversed(found)}
    return sorted(unique.values(), key=_rank)


def _rank(one: Measured) -> tuple[int, str, str]:
    last = len(_PREFERRED) + (one.name == PROBE)
    place = _PREFERRED.index(one.name) if one.name in _PREFERRED else last
    return place, one.name, one.protocol


def _of_contest(tags: Mapping[str, str]) -> Iterator[Measured]:
    """The score by which a sweep chose its champion (`tuning.champion`)."""
    protocol = tags.get("evaluation")
    try:
        value, spread = float(tags["score"]), tags.get("spread", "unknown")
        known = None if spread == "unknown" else float(spread)
    except (KeyError, ValueError):
        return
    if protocol:
        name = "knn_top1" if protocol.startswith("kNN,") else "rankme_cosine"
        yield Measured(name, value, protocol, known)


def _is_of(record: Mapping[str, Any], version: ModelVersion, facts: RunFacts) -> bool:
    """Whether an evaluation was made of this version's weights."""
    weights = version.tags.get(WEIGHTS)
    if weights is not None and record.get("weights") is not None:
        return bool(record["weights"] == weights)
    return is_final(version, facts)  # older records, which do not tell


def is_final(version: ModelVersion, facts: RunFacts) -> bool:
    """Whether the version has the weights that its run ended with, as those of older bt_rays do."""
    step, tagged = version.tags.get(STEP), facts.tag("steps")
    return step is None or tagged is None or step == tagged


def _of_evaluation(record: Mapping[str, Any]) -> Iterator[Measured]:
    protocol = protocol_of(record)
    for name, value in record["scores"].items():
        other = UNTRAINED in name or any(
            name.startswith(f"{base}_") for base in record["scores"] if base != name
        )
        if isinstance(value, int | float) and not other and protocol is not None:
            yield Measured(name, float(value), protocol)


def protocol_of(record: Mapping[str, Any]) -> str | None:
    """An evaluation's protocol in words; none if it does not tell its images."""
    data = record.get("data")
    images = ", ".join(
        f"{part} {data[part]['digest']}"
        for part in ("train", "test")
        if isinstance(data, Mapping) and isinstance(data.get(part), Mapping)
        and data[part].get("digest")
    )  # fmt: skip
    if not images:
        return None
    order = record.get("order") or {}
    if record.get("evaluation") == "knn":  # as a sweep's contest says it, which does the same
        neighbors, temperature = order.get("neighbors"), float(order.get("temperature", 0))
        return f"kNN, k={neighbors}, temperature={temperature:g}, {images}"
    options = {key: value for key, value in sorted(order.items()) if key not in _NO_PART}
    told = ", ".join(f"{key}={json.dumps(value)}" for key, value in options.items())
    return ", ".join(part for part in (str(record.get("evaluation")), told, images) if part)


def _of_probe(version: ModelVersion, facts: RunFacts) -> Iterator[Measured]:
    """The last kNN of the run's own probe, if it was made of these weights."""
    images = [facts.inputs.get(part, {}).get("digest") for part in ("train", "test")]
    name = PROBE_OF_AVERAGE if AVERAGED in version.tags else PROBE
    history = facts.history(name) if all(images) else {}
    if not history:
        return
    step = version.tags.get(STEP)
    last = max(history) if step is None else int(step)
    if last in history:
        yield Measured(PROBE, history[last], probe_protocol(facts))


def probe_protocol(facts: RunFacts) -> str:
    """How the probe measures kNN, in words."""
    chosen, temperature = facts.metrics.get("knn/neighbors"), facts.param("probe.temperature")
    k = facts.param("probe.neighbors") if chosen is None else f"{chosen:.0f}"
    bank, queries = facts.param("probe.bank_images"), facts.param("probe.query_images")
    train, test = (facts.inputs.get(part, {}).get("digest") for part in ("train", "test"))
    return (
        f"probe's kNN, k={k}, temperature={temperature}, of at most {bank} and {queries} images, "
        f"train {train}, test {test}"
    )
