"""λ, the weight of the redundancy-reduction term, over two decades around the paper's 5e-3."""

from ray import tune

from bt_ray.tuning.space import SearchSpace

KEY = "objective.redundancy_weight"

SPACE = SearchSpace(
    name="redundancy_weight",
    parameters={KEY: tune.loguniform(5e-4, 5e-2)},
    points=({KEY: 5e-3},),
)
