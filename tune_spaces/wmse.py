"""W-MSE: dimensions, rows that are whitened together, and slices.

Rows are a multiple of the dimensions: of fewer rows than dimensions no covariance is whitened. They
are the paper's 128 or a part of them, and must divide the batch: with one that 128 does not divide,
copy this space and take other rows.

Source: Ermolov et al. 2021, section 4, whose rows are twice the dimensions.
"""

from optuna import Trial

from bt_ray.tuning.space import Changes, SearchSpace


def propose(trial: Trial) -> Changes:
    """Rows; D, a half or a quarter of them; times that the batch is cut anew."""
    rows = trial.suggest_categorical("rows", (16, 32, 64, 128))
    dimensions = rows // trial.suggest_categorical("rows_a_dimension", (2, 4))
    hidden = trial.suggest_categorical("hidden_width", (256, 1024))
    return {
        "model.projector_widths": [hidden, dimensions],
        "objective.wmse.rows": rows,
        "objective.wmse.slices": trial.suggest_int("slices", 1, 8),
    }


SPACE = SearchSpace(
    name="wmse",
    propose=propose,
    points=({"rows": 128, "rows_a_dimension": 2, "hidden_width": 1024, "slices": 4},),
)
