"""SimSiam: the width of its projector, and of the bottleneck of its predictor.

Source: Chen and He 2021, section 3 and appendix B, whose bottleneck is a quarter.
"""

from optuna import Trial

from bt_ray.tuning.space import Changes, SearchSpace

WIDTHS = (64, 256, 512, 1024, 2048)


def propose(trial: Trial) -> Changes:
    """One width for the projector's three layers; the predictor's hidden one is a part of it."""
    width = trial.suggest_categorical("width", WIDTHS)
    part = trial.suggest_categorical("bottleneck", (1, 2, 4, 8))
    return {
        "model.projector_widths": [width] * 3,
        "model.predictor_widths": [width // part, width],
    }


SPACE = SearchSpace(
    name="simsiam",
    propose=propose,
    points=({"width": 2048, "bottleneck": 4},),
)
