"""PIRL: temperature, negatives, the memory bank's momentum and the weight of its two terms.

The ranges are ours, around the numbers of Misra and van der Maaten 2020, section 3.2. More
negatives than there are images are fewer when a run starts.
"""

from optuna import Trial

from bt_ray.tuning.space import Changes, SearchSpace

NEGATIVES = (100, 1000, 8000, 32_000)


def propose(trial: Trial) -> Changes:
    """τ; negatives of a step; what an entry keeps of itself; 1 − λ of their Eq. 5."""
    return {
        "objective.pirl.temperature": trial.suggest_float("temperature", 0.03, 0.5, log=True),
        "objective.pirl.negatives": trial.suggest_categorical("negatives", NEGATIVES),
        "objective.pirl.memory_momentum": trial.suggest_float("memory_momentum", 0.0, 0.9),
        "objective.pirl.image_weight": trial.suggest_float("image_weight", 0.0, 1.0),
    }


SPACE = SearchSpace(
    name="pirl",
    propose=propose,
    points=(
        {
            "temperature": 0.07,
            "negatives": 32_000,
            "memory_momentum": 0.5,
            "image_weight": 0.5,
        },
    ),
)
