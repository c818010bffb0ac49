"""Forecasts of methods other than Barlow Twins."""

import pytest
import torch

from bt_ray.config import Method, Settings, override
from bt_ray.forecast.memory import measure_size
from bt_ray.forecast.speed import measure_speed
from bt_ray.method_presets import RECIPES
from bt_ray.methods.build import build_learner
from tests.methods.harness import settings_of

CPU = torch.device("cpu")


@pytest.mark.parametrize("method", RECIPES)
def test_weights_are_those_that_a_checkpoint_has(small_settings: Settings, method: Method) -> None:
    """With queues, banks, followers; gradients of what is trained alone; and a step is timed."""
    settings = settings_of(method, small_settings)
    learner = build_learner(settings, CPU, steps_per_epoch=2, num_images=360)
    tensors = [*learner.module.parameters(), *learner.module.buffers()]
    memory = measure_size(settings, 360).memory
    assert memory.weights == sum(tensor.nbytes for tensor in tensors)
    trained = [p for group in learner.optimizer.param_groups for p in group["params"]]
    assert memory.gradients == sum(parameter.nbytes for parameter in trained)
    assert min(memory.activations, memory.objective) > 0
    speed = measure_speed(settings, CPU, threads=1, budget_s=0.01)
    assert speed.step_s > 0


def test_a_bank_grows_with_the_images_and_scores_with_the_queue(small_settings: Settings) -> None:
    settings = settings_of("pirl", small_settings)
    few, many = (measure_size(settings, number).memory for number in (1000, 3000))
    width = settings.model.projector_widths[-1]
    assert many.weights - few.weights == 4 * 2000 * width
    moco = settings_of("moco_v2", small_settings)
    longer = override(moco, {"objective.moco_v2.queue_rows": 960})
    more = measure_size(longer).memory.objective - measure_size(moco).memory.objective
    assert more == 3 * 4 * 48 * (960 - 96)
