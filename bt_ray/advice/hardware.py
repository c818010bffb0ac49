"""Workers and precision, for the hardware that is here."""

import torch

from bt_ray.advice.choice import Choice
from bt_ray.config import Settings
from bt_ray.forecast.forecast import find_device
from bt_ray.precision import precision_on

_SHORT_HOURS = 0.1
"""A run on CPUs up to so long is done before Ray's processes would have paid off."""


def choose_place(basis: Settings) -> tuple[Choice, Choice]:
    """Workers and precision of a run that starts here."""
    device = find_device(basis)
    if device is None:
        precision, workers, why = "what all nodes have", 1, "the cluster's hardware is not known"
    else:
        precision = precision_on(basis.training, device)
        gpus = torch.cuda.device_count() if device.type == "cuda" else 0
        workers = 1 << (max(1, gpus).bit_length() - 1)
        why = f"one for each GPU of {gpus} here" if gpus else "the CPUs here work for one"
    return (
        Choice(what="workers", changes={"scaling.workers": workers}, value=str(workers),
               why=f"{why}."),
        Choice(what="precision", changes={"training.precision": "auto"}, value="auto",
               why=f"that is the fastest that the hardware has: here {precision}."),
    )  # fmt: skip


def choose_process(settings: Settings, hours_an_epoch: float | None) -> Choice | None:
    """No worker, but the calling process, for a short run on a CPU; None for any other."""
    device = find_device(settings)
    if hours_an_epoch is None or device is None or device.type != "cpu":
        return None
    if settings.schedule.epochs * hours_an_epoch > _SHORT_HOURS:
        return None
    return Choice(
        what="workers", changes={"scaling.workers": 0}, value="0 (this process, without Ray)",
        why="so short a run is over before Ray's processes would pay off.",
    )  # fmt: skip
