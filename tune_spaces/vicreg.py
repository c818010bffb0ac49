"""VICReg: the weights of its three terms, that of the covariance being 1.

Only their ratios matter to LARS. The ranges are ours, around the numbers of Bardes, Ponce and LeCun
2022, section 4.2.
"""

from optuna import Trial

from bt_ray.tuning.space import Changes, SearchSpace


def propose(trial: Trial) -> Changes:
    """λ and μ of their Eq. 6, for ν = 1."""
    return {
        "objective.vicreg.invariance_weight": trial.suggest_float(
            "invariance", 1.0, 100.0, log=True
        ),
        "objective.vicreg.variance_weight": trial.suggest_float("variance", 1.0, 100.0, log=True),
        "objective.vicreg.covariance_weight": 1.0,
    }


SPACE = SearchSpace(
    name="vicreg",
    propose=propose,
    points=({"invariance": 25.0, "variance": 25.0},),
)
