"""W-MSE: dimensions, rows that are whitened together, and slices.

Rows are a multiple of the dimensions: of fewer rows than dimensions no covariance is whitened. They
must divide the batch, too: with a batch below 256 copy this space and narrow it.

Source: Ermolov et al. 2021, section 4, whose rows are twice the dimensions.
"""

from optuna import Trial

from bt_ray.tuning.space import Changes, SearchSpace


def propose(trial: Trial) -> Changes:
    """D; rows, two or four times as many; times that the batch is cut anew."""
    dimensions = trial.suggest_categorical("dimensions", (8, 16, 32, 64))
    times = trial.suggest_categorical("rows_a_dimension", (2, 4))
    hidden = trial.suggest_categorical("hidden_width", (256, 1024))
    return {
        "model.projector_widths": [hidden, dimensions],
        "objective.wmse.rows": times * dimensions,
        "objective.wmse.slices": trial.suggest_int("slices", 1, 8),
    }


SPACE = SearchSpace(
    name="wmse",
    propose=propose,
    points=({"dimensions": 64, "rows_a_dimension": 2, "hidden_width": 1024, "slices": 4},),
)
