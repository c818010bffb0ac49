"""What a pretrained encoder of an ablation scores: kNN and a linear classifier, on test images."""

from functools import partial
from typing import Literal

from bt_ray.config import Settings
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.evaluation import protocols
from bt_ray.evaluation.features import Features, compute_features
from bt_ray.evaluation.features_on_ray import compute_on_ray
from bt_ray.evaluation.few_labels import FewLabels
from bt_ray.evaluation.frozen import Compute, score_frozen
from bt_ray.evaluation.knn import Knn, choose_neighbors
from bt_ray.evaluation.labelled import read_labels
from bt_ray.evaluation.linear import Linear
from bt_ray.model.pretrained import Pretrained
from bt_ray.precision import precision_on
from bt_ray.training.classify import build_task, classify
from bt_ray.training.local import choose_device

LinearProtocol = Literal["fast", "small", "paper"]
_TRAINED = {"small": protocols.LINEAR_SMALL, "paper": protocols.LINEAR}


def is_labelled(settings: Settings) -> bool:
    """Whether both sets of shards have labels."""
    roots = (settings.data.train, settings.data.test)
    return all(root is not None and ShardSet.open(root).manifest.classes for root in roots)


def score_encoder(
    pretrained: Pretrained,
    settings: Settings,
    linear: LinearProtocol | None,
    label_percent: float | None = None,
) -> dict[str, float]:
    """`knn_top1` and, unless `linear` is none, `linear_top1` and `linear_top5`.

    Args:
      settings: of the run; its `data` names labelled shards.
      linear: how the classifier is fitted, as `pipelines.evaluate linear` has it.
      label_percent: adds `linear_1pct_top1` and the like, of so many per cent of the labels
        (`few_labels`); none: it does not.
    """
    data = settings.data
    train, test = ShardSet.open(data.train), ShardSet.open(str(data.test))
    k = settings.probe.neighbors or choose_neighbors(read_labels(train))
    knn = Knn(k, settings.probe.temperature)
    logistic = Linear(settings.training.seed)
    few = None if label_percent is None else FewLabels(label_percent)

    def method(of_train: Features, of_test: Features) -> dict[str, float]:
        found = knn(of_train, of_test)
        if linear == "fast":
            found |= {f"linear_{name.rpartition('_')[2]}": value
                      for name, value in logistic(of_train, of_test).items()}  # fmt: skip
        return found if few is None else found | few(of_train, of_test)

    workers = settings.scaling.min_workers
    compute: Compute = partial(compute_on_ray, workers=workers) if workers else compute_features
    device = choose_device(settings)
    scores = score_frozen(pretrained, train, test, method, device=device, compute=compute)
    if linear in _TRAINED:
        task = build_task(
            pretrained,
            _TRAINED[linear],
            data,
            kind="linear",
            storage=settings.storage,
            scaling=settings.scaling,
            precision=precision_on(pretrained.settings.training, device),
            seed=settings.training.seed,
        )
        scores |= {f"linear_{k}": value for k, value in classify(task, pretrained).scores.items()}
    return scores
