"""MoCo v2: temperature, momentum and length of its queue.

Source of the ranges: Chen et al. 2020b, section 3 (τ); He et al. 2020, section 4.1 (momentum) and
Fig. 3 (queue). A queue that is longer than the images suffice for is shortened when a run starts.
"""

from optuna import Trial

from bt_ray.tuning.space import Changes, SearchSpace

QUEUES = (1024, 4096, 16_384, 65_536)


def propose(trial: Trial) -> Changes:
    """τ; 1 − momentum, on a logarithmic scale; rows of the queue."""
    return {
        "objective.moco_v2.temperature": trial.suggest_float("temperature", 0.05, 0.5, log=True),
        "objective.moco_v2.momentum": 1 - trial.suggest_float("forgetting", 1e-4, 0.1, log=True),
        "objective.moco_v2.queue_rows": trial.suggest_categorical("queue_rows", QUEUES),
    }


SPACE = SearchSpace(
    name="moco_v2",
    propose=propose,
    points=({"temperature": 0.2, "forgetting": 1e-3, "queue_rows": 65_536},),
)
