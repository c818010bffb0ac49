"""A sweep's options: how it searches, for how long, and what its winner must show."""

import math
from dataclasses import dataclass
from typing import Literal

from bt_ray.errors import SettingsError

Search = Literal["tpe", "random", "grid"]
"""How values are proposed, once the points have been tried: by Optuna's tree-structured Parzen
estimator, at random, or the space's grid alone."""

_TRIALS = 8


@dataclass(frozen=True, kw_only=True)
class SweepOrder:
    """How to search, for how long, and what the winner must show."""

    trials: int | None = None
    """Trials in all, those of earlier starts included; none: 8, or all of a grid."""
    search: Search = "tpe"
    """How values are proposed after the space's points: tpe (Optuna), random, or grid: the
    space's grid and nothing else."""
    pruning: Literal["asha", "none"] = "asha"
    """Whether trials that lag behind are ended early, by ASHA on the scores of their probes."""
    grace_epochs: int | None = None
    """Epochs that every trial is given; none: a ninth of all, one at least."""
    reduction: int = 3
    """ASHA: of so many trials that reach a rung, one goes on."""
    held_out: float = 0.1
    """Share of the training images that trials are compared on, and do not learn from."""
    at_once: int | None = None
    """Trials that run side by side; none: as many as there is room for, on nodes that join, too."""
    restarts: int = 2
    """Times that a trial whose process died, or ran out of memory, is started again."""
    seeds: int = 3
    """Runs of the winner's settings, each with another seed. A new champion must win by more than
    the standard deviation of their scores; of 1 run none is known, and no champion is beaten."""
    most_shared: int = 0
    """Test images that may be among the training images, byte for byte."""
    study: str | None = None
    """URL of the database of Optuna's study, such as postgresql://…, or @FILE for a file that holds
    one; none: what BT_RAY_STUDY says in the environment, else an SQLite file in the sweep's folder.
    Its password is never shown."""
    max_hours: float | None = None
    """Hours that the whole sweep may take by its forecast; beyond it is refused. None: no limit."""
    retry_failed: bool = False
    """Only run the failed trials again."""

    def __post_init__(self) -> None:
        for name in ("trials", "seeds", "grace_epochs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingsError(f"{name}={value} must be at least 1.")
        for name in ("at_once", "max_hours"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise SettingsError(f"{name}={value} must be a finite number above 0.")
        if self.restarts < 0 or self.most_shared < 0:
            raise SettingsError("restarts and most_shared must be 0 or above.")
        if self.reduction < 2:
            raise SettingsError(f"reduction={self.reduction} must be at least 2.")
        if not 0 < self.held_out < 1:
            raise SettingsError(f"held_out={self.held_out:g} must lie between 0 and 1.")

    def total(self, num_points: int) -> int:
        """Trials in all, of a space with this many points (or, for a grid search, grid points)."""
        if self.search == "grid":
            return min(self.trials or num_points, num_points)
        return self.trials or _TRIALS
