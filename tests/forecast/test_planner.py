"""What the planner says follows from what it counts."""

import pytest
import torch

from bt_ray.config import Settings, override
from bt_ray.forecast.place import parse_place
from bt_ray.forecast.planner import Counts, at_place, count, predict
from bt_ray.forecast.rates import OURS, PHOTOMETRY_LAUNCHES, PLAIN
from bt_ray.forecast.trace import trace_model, trace_small
from bt_ray.model.twins import build_twins
from bt_ray.objective import forms
from bt_ray.presets import preset

SMALL = override(
    preset("imagenet_300"),
    {"model.encoder": "resnet18", "views.image_px": 64, "model.projector_widths": [512, 512],
     "data.global_batch": 64},
)  # fmt: skip
WIRES = ("10GbE", "25GbE", "100GbE", "100 RoCE", "4x100 IB")


def test_every_gradient_is_complete_once_and_flops_are_three_forwards() -> None:
    operations = trace_model(SMALL, 4)
    twins = build_twins(SMALL)
    assert sum(op.gradient_bytes for op in operations) == 4 * sum(
        parameter.numel() for parameter in twins.parameters()
    )
    assert not any(op.gradient_bytes for op in operations if not op.is_backward)
    forward, backward = (
        sum(op.flops for op in operations if op.is_backward == is_backward)
        for is_backward in (False, True)
    )
    first = 2 * 8 * 32**2 * 64 * 3 * 7**2  # the stem's, whose input needs no gradient
    assert backward == 2 * forward - first


def test_flops_are_those_of_a_real_forward() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    twins = build_twins(SMALL)
    with FlopCounterMode(display=False) as counter:
        twins.projector(twins.encoder(torch.zeros(4, 3, 64, 64)))
    traced = trace_model(SMALL, 2)
    assert sum(op.flops for op in traced if not op.is_backward) == counter.get_total_flops()


def test_smaller_views_cost_a_pass_their_bytes_and_their_photometry() -> None:
    """On one GPU: as much as encoder and projector compute of them; no gradient twice."""
    from torch.utils.flop_counter import FlopCounterMode

    place = parse_place("1 V100")
    changes = {"views.photometry": "device", "model.encoder": "conv4"}
    plain = override(at_place(SMALL, place), changes)
    settings = override(plain, {"views.small_count": 3, "views.small_px": 32})
    before, after = count(plain), count(settings)
    twins = build_twins(settings)
    with FlopCounterMode(display=False) as counter:
        twins.projector(twins.encoder(torch.zeros(6, 3, 32, 32)))
    traced = trace_small(settings, 2)
    assert sum(op.flops for op in traced if not op.is_backward) == counter.get_total_flops()
    assert before.small == []
    assert before.operations == after.operations
    assert before.num_parameters == after.num_parameters
    less, more = (
        predict(one, place, OURS, counted, image_bytes=1e4)
        for one, counted in ((plain, before), (settings, after))
    )
    assert more.launches - less.launches == len(after.small) + PHOTOMETRY_LAUNCHES
    assert more.parts.forward > less.parts.forward
    assert more.parts.backward > less.parts.backward
    assert more.parts.loss == less.parts.loss
    share = (2 * 64**2 + 3 * 32**2) / (2 * 64**2)
    assert more.feed_s == pytest.approx(share * less.feed_s)
    assert more.decoding_cores / more.images_per_s == pytest.approx(
        share * less.decoding_cores / less.images_per_s
    )


def test_a_better_network_never_slows_a_run(paper: Settings, counts: Counts) -> None:
    for recipe in (OURS, PLAIN):
        steps = [
            predict(paper, parse_place(f"32 V100, {wire}"), recipe, counts, image_bytes=1e5).step_s
            for wire in WIRES
        ]
        assert steps == sorted(steps, reverse=True)


def test_what_takes_longest_is_named(paper: Settings, counts: Counts) -> None:
    def limit(on: str, settings: Settings = paper, image_bytes: float = 1e5) -> str:
        return predict(settings, parse_place(on), OURS, counts, image_bytes=image_bytes).limit

    assert limit("32 V100, 10GbE") == "network"
    assert limit("32 V100, 4x100 IB") == "compute"
    quick = "32 X (fp16 9000 TFLOP/s, 90 TB/s, 80 GB, NVLink 450 GB/s), 8x400 IB"
    assert limit(quick) == "launches"
    assert limit("32 V100, 100 RoCE", image_bytes=1e8) == "input"


def test_a_step_is_the_longest_of_gpu_host_and_feed(paper: Settings, counts: Counts) -> None:
    place = parse_place("32 V100, 100GbE")
    ours = predict(paper, place, OURS, counts, image_bytes=110_000)
    assert ours.step_s == ours.parts.total > max(ours.host_s, ours.feed_s)
    assert ours.images_per_s == pytest.approx(2048 / ours.step_s)
    assert ours.hours(3600) == pytest.approx(ours.step_s)
    assert ours.read_bytes_per_s == pytest.approx(ours.images_per_s * 110_000)
    assert ours.store_bytes_per_s == pytest.approx(ours.images_per_s / 4 * 2 * 3 * 224**2)
    starved = predict(paper, place, OURS, counts, image_bytes=1e8)
    assert starved.step_s == starved.feed_s > starved.parts.total


def test_batch_norms_own_communicator_is_what_separates_the_recipes(
    paper: Settings, counts: Counts
) -> None:
    """On one network, ours waits less for batch norm, the loss and LARS; the model is the same."""
    place = parse_place("32 V100, 100GbE")
    ours, plain = (
        predict(paper, place, recipe, counts, image_bytes=1e5) for recipe in (OURS, PLAIN)
    )
    assert ours.parts.forward == pytest.approx(plain.parts.forward, rel=0.1)
    assert ours.parts.exchanges < plain.parts.exchanges / 10
    assert ours.parts.optimizer == pytest.approx(plain.parts.optimizer * 36 / 68)
    assert ours.parts.loss_network < plain.parts.loss_network
    assert ours.launches < plain.launches
    # 55 layers exchange once a pass: 55 latencies forward, 55 to 110 backward.
    assert 110 * 150e-6 <= ours.parts.exchanges <= 165 * 150e-6


def test_half_gradients_help_this_run_alone(paper: Settings, counts: Counts) -> None:
    place = parse_place("32 V100, 25GbE")
    half = override(paper, {"training.gradient_dtype": "fp16"})
    for recipe, share in ((OURS, 0.5), (PLAIN, 1.0)):
        whole, less = (
            predict(settings, place, recipe, counts, image_bytes=1e5).parts
            for settings in (paper, half)
        )
        sent_s = place.network.all_reduce_s(counts.memory.gradients)
        assert whole.network - less.network == pytest.approx((1 - share) * sent_s, rel=0.05)


def test_one_gpu_waits_for_nobody() -> None:
    settings = at_place(SMALL, parse_place("1 V100"))
    alone = predict(settings, parse_place("1 V100"), OURS, count(settings), image_bytes=1e4)
    assert alone.parts.network == 0
    assert alone.memory["communicators"] == 0


@pytest.mark.parametrize("form", ["correlation", "gram"])
@pytest.mark.parametrize(("n", "workers"), [(256, 8), (2048, 32), (64, 2)])
def test_the_losses_bytes_are_those_that_chose_its_form(form: str, n: int, workers: int) -> None:
    """On a wire where a byte takes a second and nothing else any time."""
    from bt_ray.forecast.network import Network
    from bt_ray.forecast.planner import _loss
    from bt_ray.forecast.rates import GPUS

    d = 512
    settings = override(
        SMALL,
        {"objective.form": form, "data.global_batch": n, "model.projector_widths": [d],
         "scaling.workers": workers},
    )  # fmt: skip
    network = Network(nodes=1, gpus=workers, bytes_per_s=1.0, latency_s=0.0)
    sizes = {"num_samples": n, "num_dimensions": d, "num_workers": workers}
    way = forms.choose_way(settings.objective.form, **sizes)
    _, waits_s = _loss(settings, GPUS["V100"], network, OURS)
    assert waits_s == pytest.approx(forms.cost(way, **sizes).bytes_sent)


def test_a_v100_of_16_gb_holds_the_papers_batch(paper: Settings, counts: Counts) -> None:
    place = parse_place("32 V100-16GB, 100GbE")
    ours, plain = (
        predict(paper, place, recipe, counts, image_bytes=1e5) for recipe in (OURS, PLAIN)
    )
    assert sum(ours.memory.values()) == ours.memory_bytes < place.gpu.memory_bytes
    assert ours.memory["activations"] == counts.memory.activations
    # The D×D matrix and its gradient in the loss, and a copy of the gradients in LARS.
    assert plain.memory["objective"] - ours.memory["objective"] > 4 * 8192**2
    assert plain.memory["optimizer"] == counts.memory.gradients
