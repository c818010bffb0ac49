"""Builds the objective that the settings name."""

from typing import assert_never

from torch import nn

from bt_ray.config import ObjectiveSettings
from bt_ray.objective.ablations import (
    AutoCorrelation,
    CrossEntropy,
    FeatureNormalization,
    InvarianceOnly,
    RedundancyOnly,
)
from bt_ray.objective.barlow import BarlowTwins


def build_objective(settings: ObjectiveSettings) -> nn.Module:
    """A module that turns two batches of embeddings, (n, D) each, into an `objective.Objective`."""
    lambda_, form = settings.redundancy_weight, settings.form
    match settings.variant:
        case "barlow_twins":
            return BarlowTwins(lambda_, form=form)
        case "invariance_only":
            return InvarianceOnly()
        case "redundancy_only":
            return RedundancyOnly(lambda_, form=form)
        case "feature_normalization":
            return FeatureNormalization(lambda_, form=form)
        case "cross_covariance":
            return BarlowTwins(lambda_, form=form, statistic="covariance")
        case "cross_entropy":
            return CrossEntropy(lambda_, settings.temperature)
        case "auto_correlation":
            return AutoCorrelation(lambda_, form=form)
        case unknown:
            assert_never(unknown)
