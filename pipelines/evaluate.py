"""Scores a pretrained encoder: `python -m pipelines.evaluate knn|linear|semi|… ENCODER`."""

from collections.abc import Callable
from typing import Annotated, Any

import tyro

from pipelines.evaluations.detection import DetectionOrder, evaluate_detection
from pipelines.evaluations.knn import KnnOrder, evaluate_knn
from pipelines.evaluations.linear import LinearOrder, evaluate_linear
from pipelines.evaluations.segmentation import SegmentationOrder, evaluate_segmentation
from pipelines.evaluations.semi import SemiOrder, evaluate_semi
from pipelines.evaluations.transfer import TransferOrder, evaluate_transfer
from pipelines.terminal import command, finish, guarded

Order = (
    Annotated[KnnOrder, tyro.conf.subcommand("knn")]
    | Annotated[LinearOrder, tyro.conf.subcommand("linear")]
    | Annotated[SemiOrder, tyro.conf.subcommand("semi")]
    | Annotated[TransferOrder, tyro.conf.subcommand("transfer")]
    | Annotated[DetectionOrder, tyro.conf.subcommand("detection")]
    | Annotated[SegmentationOrder, tyro.conf.subcommand("segmentation")]
)
_EVALUATIONS: dict[type, Callable[[Any], dict[str, Any]]] = {
    KnnOrder: evaluate_knn,
    LinearOrder: evaluate_linear,
    SemiOrder: evaluate_semi,
    TransferOrder: evaluate_transfer,
    DetectionOrder: evaluate_detection,
    SegmentationOrder: evaluate_segmentation,
}


@command
def main() -> None:
    """Parses the command line, scores the encoder, shows and keeps the result."""
    order: Any = guarded(lambda: tyro.cli(Order, prog="python -m pipelines.evaluate"))
    finish(guarded(lambda: _EVALUATIONS[type(order)](order)))


if __name__ == "__main__":
    main()
