"""A linear classifier on frozen representations, fitted to features computed once."""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from bt_ray.evaluation.accuracy import count_hits, guesses_counted
from bt_ray.evaluation.features import Features

_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_HELD_OUT_SHARE = 0.1
_MOST_ITERATIONS = 300


@dataclass(frozen=True)
class Linear:
    """Multinomial logistic regression on standardised features, as an evaluation.

    The penalty is chosen on a tenth of the training images, held out class by class (by
    `seed`); then all of them are fitted: scikit-learn's L-BFGS, to convergence or 300
    iterations.
    """

    seed: int

    def __call__(self, train: Features, test: Features) -> dict[str, float]:
        """`linear_fast_top1`, `linear_fast_top5` (from six classes on)."""
        strength = self._choose_strength(train)
        model = _fit(train.x.numpy(), train.labels.numpy(), strength)
        logits = _logits(model, test.x.numpy())
        # Of the classes that are learnt from; a test image of another one cannot be told.
        places = torch.full((len(train.classes),), -1)
        places[torch.from_numpy(model.classes_)] = torch.arange(len(model.classes_))
        return {
            f"linear_fast_top{k}": count_hits(logits, places[test.labels], k) / len(test)
            for k in guesses_counted(len(model.classes_))
        }

    def _choose_strength(self, train: Features) -> float:
        """C, the inverse weight of the L2 penalty, of the best score on the held-out tenth."""
        x_fit, x_held, y_fit, y_held = train_test_split(
            train.x.numpy(),
            train.labels.numpy(),
            test_size=_HELD_OUT_SHARE,
            random_state=self.seed,
            stratify=train.labels.numpy(),
        )
        return max(_STRENGTHS, key=lambda c: float(_fit(x_fit, y_fit, c).score(x_held, y_held)))


def _fit(x: NDArray[np.float32], y: NDArray[np.int64], strength: float) -> Pipeline:
    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=strength, max_iter=_MOST_ITERATIONS)
    )
    with warnings.catch_warnings():
        # Weak penalties need more iterations; what these ones reach is what is scored.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(x, y)


def _logits(model: Pipeline, x: NDArray[np.float32]) -> Tensor:
    """(n, classes) also for two classes, of which scikit-learn gives the second's only."""
    found = np.asarray(model.decision_function(x))
    return torch.from_numpy(np.stack([-found, found], 1) if found.ndim == 1 else found)
