"""Which transformations the views have (Fig. 3); those that stay are drawn as before.

It needs labels: without them, trials are compared by how alike two views are represented, which is
easy if they hardly differ.
"""

from optuna import Trial

from bt_ray.config import WITHOUT
from bt_ray.tuning.space import Changes, SearchSpace


def propose(trial: Trial) -> Changes:
    """Each transformation as the preset has it, or left out."""
    changes = {}
    for transformation, removal in WITHOUT.items():
        if not trial.suggest_categorical(transformation, (True, False)):
            changes.update({f"views.{name}": value for name, value in removal.items()})
    return changes


def only(*kept: str) -> dict[str, bool]:
    """Views with these transformations."""
    return {transformation: transformation in kept for transformation in WITHOUT}


SPACE = SearchSpace(
    name="augmentations",
    propose=propose,
    points=(only(*WITHOUT),),
    grid=(
        only(*WITHOUT),
        only("crop", "flip", "jitter", "blur", "solarize"),
        only("crop", "flip", "blur", "solarize"),
        only("crop", "flip", "blur"),
        only("crop", "flip"),
        only("crop"),
    ),
)
