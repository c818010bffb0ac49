"""VOC07: `python -m pipelines.evaluate transfer voc07 ENCODER --root DIR`."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.evaluations.order import (
    UNTRAINED,
    Evaluation,
    Subject,
    keep_record,
    print_scores,
)
from pipelines.terminal import console

if TYPE_CHECKING:
    from bt_ray.data.sources.voc import VocImages
    from bt_ray.evaluation.svm import ClassScore
    from bt_ray.model.pretrained import Pretrained

_COLUMNS = {"voc07_map_11point": "mAP, 11-point", "voc07_map_allpoint": "mAP, all-point"}


@dataclass(frozen=True, kw_only=True)
class VocOrder(Evaluation):
    """VOC07: one linear SVM a class on fixed features, C by cross-validation (Table 3).

    Learns from the split trainval and scores on test. Objects marked difficult neither train nor
    count.
    """

    root: Path
    """Folder that VOCdevkit/VOC2007 lies in."""
    seed: int = 0
    """Seed of the cross-validation's folds."""


def evaluate_voc(order: VocOrder) -> dict[str, Any]:
    """Makes the evaluation; its record, which is printed, kept in a file and logged to the run."""
    from bt_ray.checkpoints.start import untrained
    from bt_ray.data.sources.voc import read_voc
    from bt_ray.evaluation.encoder import open_encoder
    from bt_ray.evaluation.image_files import digest_files
    from bt_ray.evaluation.labelled import check_classes, check_disjoint
    from bt_ray.evaluation.published import VOC07

    given = order.settings()
    pretrained, run = open_encoder(order.encoder, given)
    train, test = (read_voc(order.root, split) for split in ("trainval", "test"))
    check_classes(train.classes, test.classes)
    digests = [digest_files(images.files) for images in (train, test)]
    check_disjoint(*digests, most_shared=order.most_shared)
    encoders = {"": pretrained} | ({UNTRAINED: untrained(pretrained)} if order.baseline else {})
    began = time.perf_counter()
    found = {suffix: _score(order, e, train, test, suffix) for suffix, e in encoders.items()}
    seconds = time.perf_counter() - began
    scores = {
        f"{column}{suffix}": sum(getattr(score, part) for score in classes) / len(classes)
        for suffix, classes in found.items()
        for column, part in zip(_COLUMNS, ("eleven_point", "all_point"), strict=True)
    }
    print_scores(order, "VOC07, linear SVMs", _COLUMNS, scores, VOC07)
    return keep_record(
        order,
        "voc07",
        Subject(given=given, pretrained=pretrained, run=run),
        scores,
        data={
            part: {"path": str(order.root), "images": len(images), "classes": images.classes}
            for part, images in (("trainval", train), ("test", test))
        },
        images_per_s=(len(train) + len(test)) * len(encoders) / seconds,
        more={"classes": {f"classes{s}": [asdict(score) for score in c] for s, c in found.items()}},
    )


def _score(
    order: VocOrder, pretrained: "Pretrained", train: "VocImages", test: "VocImages", suffix: str
) -> "list[ClassScore]":
    from bt_ray.evaluation.image_files import encode_files
    from bt_ray.evaluation.svm import score_svms
    from bt_ray.training.local import choose_device

    device, words = choose_device(order.settings()), f"voc07{suffix.replace('_', ', ')}"
    with console.status(words) as status:
        features = [
            encode_files(
                pretrained,
                images.files,
                device,
                lambda done: status.update(f"{words}: {done:,} images encoded"),
            )
            for images in (train, test)
        ]
        return score_svms(
            features[0],
            train.targets,
            features[1],
            test.targets,
            train.classes,
            seed=order.seed,
            on_progress=lambda done: status.update(f"{words}: {done} SVMs fitted"),
        )
