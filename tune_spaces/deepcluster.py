"""DeepCluster-v2: temperature, clusters, clusterings.

The ranges are ours, around the numbers of Caron et al. 2020, appendix. More clusters than the
images suffice for are fewer when a run starts.
"""

from optuna import Trial

from bt_ray.tuning.space import Changes, SearchSpace

PROTOTYPES = (30, 100, 300, 1000, 3000)


def propose(trial: Trial) -> Changes:
    """τ, K, and how many clusterings begin differently."""
    return {
        "objective.deepcluster.temperature": trial.suggest_float(
            "temperature", 0.05, 0.5, log=True
        ),
        "objective.deepcluster.prototypes": trial.suggest_categorical("prototypes", PROTOTYPES),
        "objective.deepcluster.heads": trial.suggest_int("heads", 1, 4),
    }


SPACE = SearchSpace(
    name="deepcluster",
    propose=propose,
    points=({"temperature": 0.1, "prototypes": 3000, "heads": 3},),
)
