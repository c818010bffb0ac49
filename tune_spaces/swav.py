"""SwAV: temperature, prototypes, smoothness of its codes and length of its queue.

The ranges are ours, around the numbers of Caron et al. 2020, appendix A. More prototypes than the
images suffice for are fewer when a run starts.
"""

from optuna import Trial

from bt_ray.tuning.space import Changes, SearchSpace

PROTOTYPES = (30, 100, 300, 1000, 3000)


def propose(trial: Trial) -> Changes:
    """τ, K, ε; the queue, 0 for none."""
    return {
        "objective.swav.temperature": trial.suggest_float("temperature", 0.05, 0.5, log=True),
        "objective.swav.prototypes": trial.suggest_categorical("prototypes", PROTOTYPES),
        "objective.swav.epsilon": trial.suggest_float("epsilon", 0.02, 0.2, log=True),
        "objective.swav.queue_rows": trial.suggest_categorical("queue_rows", (0, 1024, 3840)),
    }


SPACE = SearchSpace(
    name="swav",
    propose=propose,
    points=({"temperature": 0.1, "prototypes": 3000, "epsilon": 0.05, "queue_rows": 0},),
)
