"""SimCLR: the temperature of its loss (Chen et al. 2020a, Table 5: 0.05 to 1)."""

from optuna import Trial

from bt_ray.tuning.space import Changes, SearchSpace


def propose(trial: Trial) -> Changes:
    """τ, evenly on a logarithmic scale."""
    temperature = trial.suggest_float("temperature", 0.02, 1.0, log=True)
    return {"objective.simclr.temperature": temperature}


SPACE = SearchSpace(
    name="simclr",
    propose=propose,
    points=({"temperature": 0.1},),
)
