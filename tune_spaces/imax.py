"""IMAX: the dimensions of its embedding and the width before; its loss has no settings.

Covariances of fewer rows than dimensions are singular: keep D below the batch.
"""

from optuna import Trial

from bt_ray.tuning.space import Changes, SearchSpace


def propose(trial: Trial) -> Changes:
    """D, and the width of the hidden layer."""
    dimensions = trial.suggest_categorical("dimensions", (8, 16, 32, 64))
    hidden = trial.suggest_categorical("hidden_width", (256, 1024, 2048))
    return {"model.projector_widths": [hidden, dimensions]}


SPACE = SearchSpace(
    name="imax",
    propose=propose,
    points=({"dimensions": 64, "hidden_width": 2048},),
)
