"""A model card: what an encoder was trained on, how, what was measured of it, and what was not.

Markdown, in the layout that model hubs read: facts for programs between two lines of dashes, then
sections. Each sentence comes from the run's settings or from what MLflow recorded of it.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from bt_ray import __version__
from bt_ray.config import Settings, flatten
from bt_ray.config.methods import TITLES
from bt_ray.tracking.registry_facts import RunFacts
from bt_ray.tracking.registry_scores import UNTRAINED, probe_protocol, protocol_of

CARD = "README.md"
"""Name of the card's file beside a model's."""
NOT_MEASURED = "not measured"
_EVALUATIONS = {
    "knn": "kNN on all test images",
    "linear": "a linear classifier (Table 1)",
    "semi": "fine-tuning on a part of the labels (Table 2)",
    "transfer": "transfer to other data sets (Table 3)",
    "detection": "fine-tuning as a detector (Table 4)",
}
_MAIN = (
    "model.encoder", "model.projector_widths", "objective.method", "objective.variant",
    "objective.redundancy_weight", "data.global_batch", "schedule.epochs",
    "schedule.warmup_epochs", "optimizer.weight_rate", "training.precision", "training.seed",
    "scaling.workers",
)  # fmt: skip
_OF_BARLOW_TWINS = ("objective.variant", "objective.redundancy_weight")
_PROBED = ("probe/rankme", "probe/alignment", "probe/uniformity")
_MOST_CLASSES = 20
_OF_A_MODEL = "models:/"
"""How the source of a version begins that names a logged model; its databases keep no id."""
_MOST_CHARACTERS = 4900
"""Of a version's description: MLflow's databases keep 5,000."""


def write_card(
    settings: Settings,
    facts: RunFacts | None,
    *,
    step: int | None = None,
    licence: str | None = None,
    weights: str | None = None,
    averaged: bool = False,
) -> str:
    """The card of an encoder.

    Args:
      facts: of the run that trained it, if it is known; raises what MLflow raises.
      step: after how many steps its weights were saved.
      licence: of the weights, as whoever publishes them says.
      weights: the digest of its weights, by which older evaluations of the run are told apart.
      averaged: whether they are the moving average of those that were trained.
    """
    sections = (
        _head(settings, facts, step, licence),
        _images(settings, facts),
        _training(settings, averaged),
        _scores(facts, step, weights, averaged),
        _limits(settings, facts),
        _use(settings),
    )
    return "\n".join(line for section in sections for line in (*section, ""))


def _head(
    settings: Settings, facts: RunFacts | None, step: int | None, licence: str | None
) -> Iterator[str]:
    yield from ("---", f"license: {json.dumps(licence or 'unknown')}", "library_name: bt_ray")
    tag = settings.objective.method.replace("_", "-")
    yield from (f"tags: [{tag}, self-supervised, image-feature-extraction]", "---", "")
    yield f"# {settings.registered_model}"
    yield ""
    size = f"{settings.views.image_px} × {settings.views.image_px}"
    yield (
        f"An image encoder ({settings.model.encoder}), pretrained without labels by "
        f"{TITLES[settings.objective.method]} on views of {size} pixels. It turns images into "
        "representations; it is no classifier."
    )
    yield ""
    if facts is None:
        yield "- Run: unknown"
    else:
        began, ended = facts.days
        yield f"- Run: `{facts.run_id}` ({settings.name}), begun {began}" + (
            f", ended {ended} (UTC)" if ended else " (UTC)"
        )
    yield f"- Steps: {'unknown' if step is None else f'{step:,}'}"
    commit = None if facts is None else facts.tag("mlflow.source.git.commit")
    yield f"- Commit of the code: {commit or 'unknown'}" + (
        " (it differed from that commit; `git_diff.patch` of the run says how)"
        if (commit or "").endswith("-dirty")
        else ""
    )
    told = licence or "not stated by whoever registered it"
    yield f"- Licence of the weights: {told}. That of the images is not recorded."
    yield f"- Written by bt_ray {__version__} (Apache-2.0) from the run's record."


def _images(settings: Settings, facts: RunFacts | None) -> Iterator[str]:
    yield "## Images"
    yield ""
    given = {"train": settings.data.train, "test": settings.data.test}
    for part, words in (("train", "Trained on"), ("test", "Held out, for scores")):
        known = {} if facts is None else facts.inputs.get(part, {})
        if given[part] is None:
            yield f"- {words}: none"
        elif not known:
            digest = facts.tag("data_digest") if facts is not None and part == "train" else None
            told = "counts are not recorded" + (f"; digest `{digest}`" if digest else "")
            yield f"- {words}: {told}"
        else:
            yield f"- {words}: {known['name']}, {_counts(known['profile'])}"
            yield f"  digest `{known['digest']}`"
    if facts is not None and (digest := facts.tag("stream_digest")):
        yield f"- Digest of the views' stream: `{digest}`"


def _counts(profile: Mapping[str, Any]) -> str:
    """Images, classes and what was left out, as far as it is recorded."""
    if "num_rows" not in profile:
        return "counts are not recorded;"
    rows: Mapping[str, int] = profile.get("rows_per_class") or {}
    told = f"{profile['num_rows']:,} images, "
    if not profile.get("num_classes"):
        told += "without classes"
    else:
        named = list(rows)[:_MOST_CLASSES]
        more = "" if len(rows) <= _MOST_CLASSES else f" and {len(rows) - _MOST_CLASSES:,} more"
        names = f" ({', '.join(f'{name}: {rows[name]:,}' for name in named)}{more})"
        told += f"{profile['num_classes']:,} classes{names if named else ''}"
    if profile.get("num_rejected"):
        told += f", {profile['num_rejected']:,} left out that could not be decoded"
    return f"{told};"


def _training(settings: Settings, averaged: bool) -> Iterator[str]:
    flat = flatten(settings)
    yield from ("## Training", "", "| Setting | Value |", "| --- | --- |")
    other = settings.objective.method != "barlow_twins"
    main = [key for key in _MAIN if not (other and key in _OF_BARLOW_TWINS)]
    yield from (f"| {key} | {_cell(flat[key])} |" for key in main)
    yield ""
    views = settings.views
    told = ", ".join(
        f"{field.name} {_cell(getattr(views, field.name))}"
        for field in fields(views)
        if field.name not in ("count", "photometry", "backend")
    )
    yield f"Two views of each image: {told}."
    if averaged:
        yield ""
        yield (
            "The weights are the exponential moving average of those that were trained, of decay "
            f"{settings.training.average_decay}."
        )
    yield ""
    yield "All settings are in `settings.json` beside the weights."


def _cell(value: Any) -> str:
    """A value in few characters, without what would break a table."""
    words = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return words.replace("|", "\\|").replace("\n", " ")


def _scores(
    facts: RunFacts | None, step: int | None, weights: str | None, averaged: bool
) -> Iterator[str]:
    yield from ("## Scores", "")
    rows = [] if facts is None else [*_probed(facts, step, averaged), *_evaluated(facts, weights)]
    if rows:
        yield from (
            "| Measure | This encoder | Before pretraining | Protocol |",
            "| --- | --- | --- | --- |",
        )
        yield from rows
        yield ""
    done = {str(one.get("evaluation")) for one in ([] if facts is None else facts.evaluations)}
    transfers = {"places205", "inat18", "voc07"}
    names = {"linear" if name == "linear-fast" else name for name in done}
    names = {"transfer" if name in transfers else name for name in names}
    names = {"detection" if name.startswith("detection-") else name for name in names}
    missing = [words for name, words in _EVALUATIONS.items() if name not in names]
    if missing:
        yield f"{NOT_MEASURED.capitalize()}: {'; '.join(missing)}."


def _probed(facts: RunFacts, step: int | None, averaged: bool) -> Iterator[str]:
    """What the run's probe measured of these weights, and before the first step."""
    for name in ("knn/top1", *_PROBED):
        history = facts.history(name.replace("/", "_average/") if averaged else name)
        at = max(history, default=None) if step is None else step
        if name == "knn/top1":
            protocol = f"while training: {probe_protocol(facts)}"
        else:
            protocol = "while training, of training images"
        value = None if at is None else history.get(at)
        first = history.get(0) if at != 0 else None
        if value is not None or first is not None:
            yield f"| {name} | {_shown(name, value)} | {_shown(name, first)} | {protocol} |"
        else:
            yield f"| {name} | {NOT_MEASURED} | {NOT_MEASURED} | |"


def _evaluated(facts: RunFacts, weights: str | None) -> Iterator[str]:
    """The scores of evaluations of these weights."""
    for record in facts.evaluations:
        if weights is not None and record.get("weights") not in (None, weights):
            continue
        scores = record["scores"]
        for name, value in scores.items():
            if not name.endswith(UNTRAINED):
                other = _shown(name, scores.get(f"{name}{UNTRAINED}"))
                protocol = protocol_of(record) or "its images are not recorded"
                yield f"| {name} | {_shown(name, value)} | {other} | {protocol} |"


def _shown(name: str, value: float | None) -> str:
    """A share as per cent, another measure as it is."""
    if value is None:
        return NOT_MEASURED
    return f"{value:.2%}" if "top" in name or "map" in name else f"{value:.4g}"


def _limits(settings: Settings, facts: RunFacts | None) -> Iterator[str]:
    yield from ("## Limits", "")
    yield (
        f"- It was trained on views of {settings.views.image_px} pixels; images of other sizes are "
        "cut and resized to that."
    )
    yield (
        "- What it makes of images unlike those above (other sources, cameras, subjects) was "
        f"{NOT_MEASURED}, nor were differences between groups of people, or robustness to attacks."
    )
    train, test = (
        {} if facts is None else facts.inputs.get(part, {}).get("profile", {})
        for part in ("train", "test")
    )
    if settings.data.test is None or not train.get("num_classes") or not test.get("num_classes"):
        yield "- Without labelled held-out images, no accuracy was measured while it was trained."
    shared = None if facts is None else facts.metrics.get("knn/held_out_in_training")
    if shared:
        yield f"- {shared:,.0f} held-out images are among the training images: kNN flatters."


def _use(settings: Settings) -> Iterator[str]:
    yield from ("## Use", "", "```python")
    yield f'encoder = mlflow.pyfunc.load_model("models:/{settings.registered_model}/VERSION")'
    yield 'representations = encoder.predict(pandas.DataFrame({"image": [encoded_bytes]}))'
    yield "```"


def attach_card(client: MlflowClient, version: ModelVersion, card: str) -> None:
    """Puts a card beside the model's files, and into the version's description.

    What a sweep wrote there before the card stays. Raises: what MLflow raises.
    """
    model_id = str(version.source or "").removeprefix(_OF_A_MODEL)
    if version.source and version.source.startswith(_OF_A_MODEL) and "/" not in model_id:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / CARD
            file.write_text(card)
            client.log_model_artifact(model_id, str(file))
    before = str(version.description or "").partition(f"# {version.name}\n")[0]
    description = before + card.partition("\n---\n\n")[2]
    client.update_model_version(version.name, version.version, shorten(description))


def shorten(description: str) -> str:
    """A description as long as MLflow keeps it."""
    if len(description) <= _MOST_CHARACTERS:
        return description
    return f"{description[:_MOST_CHARACTERS]} …\n\n(The whole card is {CARD} among its files.)"
