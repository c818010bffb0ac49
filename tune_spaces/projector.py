"""Depth of the projector, one to five layers, and its widths (Fig. 4)."""

from optuna import Trial

from bt_ray.tuning.space import Changes, SearchSpace

WIDTHS = (64, 256, 1024, 2048)
"""For small encoders; the paper widens its three layers together, from 16 to 16384."""


def propose(trial: Trial) -> Changes:
    """A depth and the width D of the last layer; that of the others, if there are any."""
    depth = trial.suggest_int("depth", 1, 5)
    output = trial.suggest_categorical("output_width", WIDTHS)
    hidden = trial.suggest_categorical("hidden_width", WIDTHS) if depth > 1 else output
    return {"model.projector_widths": [hidden] * (depth - 1) + [output]}


SPACE = SearchSpace(
    name="projector",
    propose=propose,
    points=({"depth": 3, "output_width": 1024, "hidden_width": 1024},),
    grid=tuple(
        {"depth": depth, "output_width": width, **({"hidden_width": width} if depth > 1 else {})}
        for depth in (1, 2, 3, 4, 5)
        for width in WIDTHS
    ),
)
