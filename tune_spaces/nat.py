"""NAT: how often its targets are assigned anew, and the dimensions that they are drawn in.

The ranges are ours, around the numbers of Bojanowski and Joulin 2017, section 3.3.
"""

from optuna import Trial

from bt_ray.tuning.space import Changes, SearchSpace


def propose(trial: Trial) -> Changes:
    """Epochs between two assignments; D, and the width before."""
    dimensions = trial.suggest_categorical("dimensions", (32, 128, 512))
    hidden = trial.suggest_categorical("hidden_width", (256, 1024, 2048))
    return {
        "objective.nat.epochs_between": trial.suggest_int("epochs_between", 1, 6),
        "model.projector_widths": [hidden, dimensions],
    }


SPACE = SearchSpace(
    name="nat",
    propose=propose,
    points=({"dimensions": 128, "hidden_width": 2048, "epochs_between": 3},),
)
