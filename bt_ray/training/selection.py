"""The best checkpoint of a run: which probe it is of, and for how long none was better."""

from torch import nn

from bt_ray.checkpoints.state import TrainingState
from bt_ray.config import Settings
from bt_ray.distributed.collectives import vote
from bt_ray.evaluation.score import VALIDATION_SCORE
from bt_ray.training.context import Context, Measures

BEST_SCORE, BEST_STEP = "best/score", "best/step"
"""Measures: the best score so far, and after how many steps it was taken."""


class Selection:
    """Compares a run's probes by their score, if the settings want that."""

    def __init__(
        self, state: TrainingState[nn.Module], settings: Settings, context: Context
    ) -> None:
        self._state, self._context = state, context
        self._selects = settings.training.selects

    def consider(self, measures: Measures) -> bool:
        """Whether the probe of now has the best score so far, which is noted in the state.

        The first worker compares for all of them, so that they agree. A probe without a score is
        none. Called by every worker.
        """
        score = measures.get(VALIDATION_SCORE)
        if score is None or not self._selects:
            return False
        state, context = self._state, self._context
        [is_better] = vote([context.rank == 0 and state.is_better(score)], context.device)
        state.take_score(score, is_better=is_better)
        if state.best is not None:
            best = {BEST_SCORE: state.best.score, BEST_STEP: float(state.best.step)}
            context.report(state.step, best)
        return is_better


def is_out_of_patience(state: TrainingState[nn.Module], settings: Settings) -> bool:
    """Whether so many probes in a row were no better that the run is over."""
    patience = settings.training.patience
    return patience is not None and state.probes_since_best >= patience
