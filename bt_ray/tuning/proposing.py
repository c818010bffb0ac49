"""Optuna's parts that a sweep searches with: what proposes values, and what gives trials up."""

import math

import optuna

from bt_ray.tuning.order import Search, SweepOrder


def build_sampler(
    search: Search, *, seed: int, begun: int, trials: int
) -> optuna.samplers.BaseSampler:
    """Optuna's sampler, which proposes values.

    Args:
      begun: trials that the study has already, so that a sweep that is continued does not draw
        again what it drew first.
      trials: of the whole sweep; half of few are drawn at random before the estimator starts.
    """
    if search == "tpe":
        return optuna.samplers.TPESampler(
            seed=seed + begun, n_startup_trials=min(10, math.ceil(trials / 2)), constant_liar=True
        )
    return optuna.samplers.RandomSampler(seed=seed + begun)


def build_pruner(order: SweepOrder, epochs: int) -> optuna.pruners.BasePruner:
    """Optuna's pruner, which says whether a trial lags behind.

    Args:
      epochs: of a whole trial.
    """
    if order.pruning == "none":
        return optuna.pruners.NopPruner()
    return optuna.pruners.SuccessiveHalvingPruner(
        min_resource=order.grace_epochs or max(1, round(epochs / 9)),
        reduction_factor=order.reduction,
    )
