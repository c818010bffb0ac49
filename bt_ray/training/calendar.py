"""What is due after which step of a run."""

from dataclasses import dataclass

import torch

from bt_ray.config import Settings


@dataclass(frozen=True, kw_only=True)
class Calendar:
    """Steps of the whole run, and between two events of each kind; all are due at the end."""

    total_steps: int
    votes: int
    logs: int
    probes: int
    checkpoints: int

    def is_last(self, step: int) -> bool:
        """Whether the run is over after `step` steps."""
        return step == self.total_steps

    def is_due(self, step: int, interval: int) -> bool:
        """Whether something that happens every `interval` steps does after `step` steps."""
        return step % interval == 0 or self.is_last(step)


def build_calendar(settings: Settings, steps_per_epoch: int, device: torch.device) -> Calendar:
    """The calendar of a run; intervals in epochs are rounded to steps, at least one.

    Whether to stop is voted on after every step on a CPU. On a GPU the workers would have to wait
    for the device each time, and its queue would run dry: there it is when measures are logged.
    """
    training = settings.training
    return Calendar(
        total_steps=settings.schedule.total_steps(steps_per_epoch),
        votes=1 if device.type == "cpu" else training.log_every_steps,
        logs=training.log_every_steps,
        probes=max(1, round(training.probe_every_epochs * steps_per_epoch)),
        checkpoints=max(1, round(training.checkpoint_every_epochs * steps_per_epoch)),
    )
