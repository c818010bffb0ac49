"""A linear classifier on frozen representations that knows the labels of a few images only."""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import mean

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from bt_ray.data.shards.subset import draw_balanced
from bt_ray.errors import SettingsError
from bt_ray.evaluation.accuracy import count_hits, guesses_counted
from bt_ray.evaluation.features import Features

DRAWS = 5
_STRENGTH = 0.1
_MOST_ITERATIONS = 300


@dataclass(frozen=True)
class FewLabels:
    """Multinomial logistic regression on the features of a share of the images, as an evaluation.

    As many images of each class are drawn, one at least, five times; the score is the mean of the
    five classifiers'. One image of a class leaves none to choose a penalty on, so that it is fixed:
    C = 0.1, on features standardised by all training images, whose labels that does not need.

    The encoder stays frozen. The paper's semi-supervised scores (its Table 2) are of fine-tuning,
    which `pipelines.evaluate semi` does.

    Args:
      percent: of the training images, above 0 and at most 100.
    Raises: SettingsError if it is neither.
    """

    percent: float

    def __post_init__(self) -> None:
        if not 0 < self.percent <= 100:
            raise SettingsError(f"{self.percent:g} % of the labels must lie above 0, up to 100.")

    @property
    def name(self) -> str:
        """What the scores' names begin with, such as `linear_1pct`."""
        return f"linear_{self.percent:g}pct"

    def __call__(self, train: Features, test: Features) -> dict[str, float]:
        """`linear_1pct_top1`, and `linear_1pct_top5` from six classes on."""
        scaler = StandardScaler().fit(train.x.numpy())
        x_train, x_test = scaler.transform(train.x.numpy()), scaler.transform(test.x.numpy())
        found = [
            self._score(x_train[rows], train.labels[rows].numpy(), x_test, test)
            for rows in self._draws(train)
        ]
        return {
            f"{self.name}_top{k}": mean(score[k] for score in found)
            for k in guesses_counted(len(test.classes))
        }

    def _draws(self, train: Features) -> Iterator[NDArray[np.int64]]:
        for seed in range(DRAWS):
            yield draw_balanced(
                train.labels.numpy(), len(train.classes), share=self.percent / 100, seed=seed
            )

    def _score(
        self,
        x: NDArray[np.float32],
        y: NDArray[np.int64],
        x_test: NDArray[np.float32],
        test: Features,
    ) -> dict[int, float]:
        """Accuracy among the first k guesses, by k."""
        model = LogisticRegression(C=_STRENGTH, max_iter=_MOST_ITERATIONS).fit(x, y)
        found = np.asarray(model.decision_function(x_test))
        logits = torch.from_numpy(np.stack([-found, found], 1) if found.ndim == 1 else found)
        # Of the classes that have an image; a test image of another one cannot be told.
        places = torch.full((len(test.classes),), -1)
        places[torch.from_numpy(model.classes_)] = torch.arange(len(model.classes_))
        return {
            k: count_hits(logits, places[test.labels], min(k, logits.shape[1])) / len(test)
            for k in guesses_counted(len(test.classes))
        }
