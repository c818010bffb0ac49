"""SeLa-v2: temperature, labels, heads, and how sharp its assignment is.

The ranges are ours, around the numbers of Asano et al. 2020 and Caron et al. 2020, appendix. More
labels than the images suffice for are fewer when a run starts.
"""

from optuna import Trial

from bt_ray.tuning.space import Changes, SearchSpace

PROTOTYPES = (30, 100, 300, 1000, 3000)


def propose(trial: Trial) -> Changes:
    """τ, K, heads; λ of Sinkhorn-Knopp, on a logarithmic scale."""
    return {
        "objective.sela.temperature": trial.suggest_float("temperature", 0.05, 0.5, log=True),
        "objective.sela.prototypes": trial.suggest_categorical("prototypes", PROTOTYPES),
        "objective.sela.heads": trial.suggest_int("heads", 1, 4),
        "objective.sela.sharpness": trial.suggest_float("sharpness", 5.0, 100.0, log=True),
    }


SPACE = SearchSpace(
    name="sela",
    propose=propose,
    points=({"temperature": 0.1, "prototypes": 3000, "heads": 3, "sharpness": 25.0},),
)
