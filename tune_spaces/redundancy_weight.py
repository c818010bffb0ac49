"""λ, the weight of the redundancy-reduction term, over two decades around the paper's (Fig. 5)."""

from optuna import Trial

from bt_ray.tuning.space import Changes, SearchSpace


def propose(trial: Trial) -> Changes:
    """λ, evenly on a logarithmic scale."""
    weight = trial.suggest_float("redundancy_weight", 5e-4, 5e-2, log=True)
    return {"objective.redundancy_weight": weight}


SPACE = SearchSpace(
    name="redundancy_weight",
    propose=propose,
    points=({"redundancy_weight": 5e-3},),
    grid=tuple(
        {"redundancy_weight": weight} for weight in (5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2)
    ),
)
