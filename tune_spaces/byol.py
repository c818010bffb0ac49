"""BYOL: the momentum of its target network (Grill et al. 2020, Table 5a: 0.9 to 0.999)."""

from optuna import Trial

from bt_ray.tuning.space import Changes, SearchSpace


def propose(trial: Trial) -> Changes:
    """1 − momentum at the first step, on a logarithmic scale."""
    return {"objective.byol.momentum": 1 - trial.suggest_float("forgetting", 1e-4, 0.1, log=True)}


SPACE = SearchSpace(
    name="byol",
    propose=propose,
    points=({"forgetting": 0.004},),
)
