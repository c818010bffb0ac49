"""Fine-tuning for detection: `python -m pipelines.evaluate detection DATA ENCODER …`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from bt_ray.errors import SettingsError
from pipelines.evaluations.detection_order import (
    CocoDetectionOrder,
    CocoLayoutOrder,
    DetectorOrder,
    VocDetectionOrder,
    VocLayoutOrder,
)
from pipelines.evaluations.order import UNTRAINED, Subject, keep_record, print_scores
from pipelines.progress import ProgressLine
from pipelines.terminal import console

if TYPE_CHECKING:
    from bt_ray.config import Settings
    from bt_ray.detection.task import Annotated as AnnotatedImages
    from bt_ray.detection.task import Detected
    from bt_ray.evaluation.published import Published
    from bt_ray.figures.methods import Curve
    from bt_ray.model.pretrained import Pretrained

SUPERVISED = "_supervised"
"""How names of scores of an encoder with weights of supervised training end."""
_BOXES, _MASKS = ("ap", "ap50", "ap75"), ("mask_ap", "mask_ap50", "mask_ap75")
_VOC07 = tuple(f"voc07_{name}" for name in _BOXES)
Curves = Mapping[str, Mapping[str, Sequence["Curve"]]]
"""Whose weights a detector began with, such as `untrained` → measure → one curve a seed."""
_ROWS_PER_ROW_GROUP = 64
"""Of shards: images are whole, and so larger than those of pretraining's usual shards."""


@dataclass(frozen=True, kw_only=True)
class DetectionOrder:
    """Fine-tuning as Faster or Mask R-CNN (the paper's Table 4)."""

    data: Annotated[
        Annotated[VocDetectionOrder, tyro.conf.subcommand("voc07+12")]
        | Annotated[CocoDetectionOrder, tyro.conf.subcommand("coco")]
        | Annotated[VocLayoutOrder, tyro.conf.subcommand("voc-layout")]
        | Annotated[CocoLayoutOrder, tyro.conf.subcommand("coco-layout")],
        tyro.conf.arg(name=""),
    ]


def evaluate_detection(ordered: DetectionOrder) -> dict[str, Any]:
    """Makes the evaluation; its record, which is printed, kept in a file and logged to the run."""
    from bt_ray.detection.published import TITLES

    order = ordered.data
    protocol = order.protocol
    subject, encoders = _open_encoders(order)
    train, test = _prepare(order, subject)
    done = {
        suffix: [
            _train(order, subject, encoder, train, test, suffix, seed)
            for seed in range(order.seed, order.seed + order.seeds)
        ]
        for suffix, encoder in encoders.items()
    }
    name = f"detection-{order.name}"
    prefix = name.replace("-", "_")
    found = {
        f"{prefix}_{measure}{suffix}": [one.scores[measure] for one in detectors]
        for suffix, detectors in done.items()
        for measure in detectors[0].scores
    }
    scores = {score: mean(values) for score, values in found.items()}
    deviations = {score: stdev(values) for score, values in found.items() if len(values) > 1}
    columns = {f"{prefix}_{measure}": TITLES[measure] for measure in _measures(order)}
    print_scores(
        order, order.title, columns, scores, _published(order),
        others={SUPERVISED: f"supervised: {order.supervised}"}, deviations=deviations,
    )  # fmt: skip
    curves = _curves(done)
    return keep_record(
        order,
        name,
        subject,
        scores,
        data={part: _described(images) for part, images in (("train", train), ("test", test))},
        images_per_s=mean(one.images_per_s for one in done[""]),
        more={
            "steps": done[""][0].steps,
            "protocol": asdict(protocol),
            "deviations": {score: round(value, 5) for score, value in deviations.items()},
            "by_seed": {score: [round(v, 5) for v in values] for score, values in found.items()},
            "curves": curves,
            "checkpoints": {
                f"{_kind(order, suffix)}, seed {order.seed + number}": str(one.checkpoint)
                for suffix, detectors in done.items()
                for number, one in enumerate(detectors)
            },
        },
        files=[one.metrics for detectors in done.values() for one in detectors]
        + [_draw(order, name, subject, curves)],
    )


def _open_encoders(order: DetectorOrder) -> "tuple[Subject, dict[str, Pretrained]]":
    """The encoder that is evaluated, and all to be trained, by how names of their scores end.

    Raises: CheckpointError, TrackingError; SettingsError if one can be no detector's backbone.
    """
    from bt_ray.checkpoints.start import untrained
    from bt_ray.detection.model.stages import find_stages
    from bt_ray.evaluation.encoder import open_encoder

    given = order.settings()
    pretrained, run = open_encoder(order.encoder, given)
    encoders = {"": pretrained}
    if order.baseline:
        encoders[UNTRAINED] = untrained(pretrained)
    if order.supervised is not None:
        supervised, _ = open_encoder(
            order.supervised, _settings_of_supervised(order, order.supervised, pretrained)
        )
        if supervised.settings.data.pixels != pretrained.settings.data.pixels:
            raise SettingsError(
                f"--supervised {order.supervised} takes images as "
                f"{supervised.settings.data.pixels.words}, and {order.encoder} as "
                f"{pretrained.settings.data.pixels.words}; give weights for the same images."
            )
        encoders[SUPERVISED] = supervised
    for encoder in encoders.values():
        find_stages(encoder.encoder)
    return Subject(given=given, pretrained=pretrained, run=run), encoders


def _settings_of_supervised(
    order: DetectorOrder, reference: str, pretrained: "Pretrained"
) -> "Settings":
    """What weights of supervised training hold: what their name says, or else the same encoder."""
    from bt_ray.model.published import is_published

    told = order.settings_for(reference)
    if is_published(reference) and order.architecture is None:
        return told
    return replace(told, model=pretrained.settings.model)


def _prepare(order: DetectorOrder, subject: Subject) -> "tuple[AnnotatedImages, AnnotatedImages]":
    """The shards and objects of both sets, written if need be.

    Raises: DataError; also if test images are among the training images.
    """
    from bt_ray.data.shards.shard_set import ShardSet
    from bt_ray.detection.prepare import prepare_layout
    from bt_ray.detection.task import Annotated as AnnotatedImages
    from bt_ray.evaluation.labelled import check_disjoint, read_labelled

    with console.status("reading the annotations"):
        train, test = order.layouts()
    data = subject.pretrained.settings.data
    found = []
    for layout in (train.with_objects(), test):
        with console.status(f"preparing {len(layout):,} images"):
            root, annotations = prepare_layout(
                layout,
                subject.given.storage,
                rows_per_row_group=_ROWS_PER_ROW_GROUP,
                pixels=data.pixels,
                on_bad_image=order.on_bad_image,
            )
        found.append(AnnotatedImages(root, annotations))
    with console.status("looking for test images among the training images"):
        digests = [read_labelled(ShardSet.open(images.root)).digests for images in found]
    check_disjoint(*digests, most_shared=order.most_shared)
    return found[0], found[1]


def _train(
    order: DetectorOrder,
    subject: Subject,
    pretrained: "Pretrained",
    train: "AnnotatedImages",
    test: "AnnotatedImages",
    suffix: str,
    seed: int,
) -> "Detected":
    """A detector on `pretrained`, trained and scored; how far it is, is shown."""
    from bt_ray.detection.task import build_task, detect

    kind = _kind(order, suffix)
    task = build_task(
        pretrained,
        order.protocol,
        train,
        test,
        kind=kind,
        storage=subject.given.storage,
        scaling=order.scaling,
        precision=order.precision,
        seed=seed,
    )
    console.print(f"{kind}, seed {seed}: {task.run_folder}", soft_wrap=True, highlight=False)
    with ProgressLine(task.settings) as line:
        return detect(task, pretrained, train.annotations, test.annotations, trackers=[line])


def _curves(done: "Mapping[str, Sequence[Detected]]") -> Curves:
    """The detectors' curves, as the record keeps them."""
    return {
        suffix.removeprefix("_"): {
            measure: [one.curves[measure] for one in detectors] for measure in detectors[0].curves
        }
        for suffix, detectors in done.items()
    }


def _kind(order: DetectorOrder, suffix: str) -> str:
    """What a task is called: the data set, and whose encoder it begins with."""
    return f"detection-{order.name}{suffix}"


def _measures(order: DetectorOrder) -> tuple[str, ...]:
    """What the table shows, all else being in the record: COCO's rule, or VOC's with COCO's AP."""
    if order.is_voc:
        return (*_VOC07, "ap")
    return (*_BOXES, *_MASKS) if order.with_masks else _BOXES


def _published(order: DetectorOrder) -> "tuple[Published, ...]":
    """Table 4's rows of the data set whose layout this is."""
    from bt_ray.detection.published import COCO, VOC, titled

    return titled(VOC, "VOC07+12") if order.is_voc else titled(COCO, "COCO")


def _draw(order: DetectorOrder, name: str, subject: Subject, curves: Curves) -> Path:
    """The file of a figure of all detectors' curves, beside the record."""
    from bt_ray.detection.curves import draw_detection, marks_of
    from bt_ray.evaluation.record import file_of_record
    from bt_ray.storage.names import folder_of
    from bt_ray.storage.working_copy import send

    record = file_of_record(order.encoder, name, folder_of(subject.given.storage))
    file = record.parent / "figures" / f"{record.stem}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    measures = ("voc07_ap50", "voc07_ap") if order.is_voc else ("ap50", "ap")
    figure = draw_detection(marks_of(curves, "this encoder"), measures=measures)
    figure.suptitle(f"{order.title} of {order.encoder}")
    figure.savefig(file, dpi=120)
    send(file)
    return file


def _described(images: "AnnotatedImages") -> dict[str, Any]:
    """Images and objects, for the record."""
    return {
        "path": images.root,
        "digest": images.digest,
        "images": len(images.annotations),
        "classes": list(images.annotations.classes),
    }
