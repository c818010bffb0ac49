"""λ, both learning rates and the projector together."""

from optuna import Trial

from bt_ray.tuning.space import Changes, SearchSpace
from tune_spaces import projector, redundancy_weight


def propose(trial: Trial) -> Changes:
    """What the single spaces draw, and the rates of the preset's own batch size."""
    return {
        **redundancy_weight.propose(trial),
        **projector.propose(trial),
        "optimizer.weight_rate": trial.suggest_float("weight_rate", 0.02, 2.0, log=True),
        "optimizer.bias_rate": trial.suggest_float("bias_rate", 5e-4, 5e-2, log=True),
    }


SPACE = SearchSpace(
    name="joint",
    propose=propose,
    points=(
        {
            **redundancy_weight.SPACE.points[0],
            **projector.SPACE.points[0],
            "weight_rate": 0.2,
            "bias_rate": 0.0048,
        },
    ),
)
