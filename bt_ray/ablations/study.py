"""What an ablation varies: cases, each a preset with some settings changed, and its axes."""

from dataclasses import dataclass, field
from typing import Any

from bt_ray.config import Method, Settings, check_pretraining, override
from bt_ray.errors import SettingsError

Changes = dict[str, Any]
"""Dotted key of a setting → its value."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A row of a table or a point of a figure."""

    label: str
    changes: Changes = field(default_factory=dict)
    published: dict[str, float] = field(default_factory=dict)
    """Scores as published, shares 0 to 1, by what they are: top1, top5."""
    x: float | None = None
    """Where a figure has it on its axis."""
    line: str = ""
    """Which of a figure's lines it belongs to."""
    candidates: tuple[Changes, ...] = ()
    """Settings that are searched for this case, on held-out training images; none: no search."""
    trains: bool = True
    """Whether an encoder is trained; else it is scored with its first weights."""

    @property
    def name(self) -> str:
        """The label without the line's, which a figure tells by colour."""
        return self.label.removeprefix(f"{self.line}: ")


@dataclass(frozen=True, kw_only=True)
class Axes:
    """The points of a figure; where empty, they are chosen to fit the settings."""

    values: tuple[float, ...] = ()
    """Batch sizes (figure2), widths of all the projector's layers (figure4), λ (figure5)."""
    depths: tuple[int, ...] = ()
    """Layers of the projector (figure4)."""
    rates: tuple[float, ...] = ()
    """Base learning rates of the weights that are searched for each batch size (figure2)."""
    methods: tuple[Method, ...] = ()
    """Methods that have a line each (figure2, figure3); none: Barlow Twins alone."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """A table or a figure of the paper."""

    name: str
    title: str
    cases: tuple[Case, ...]
    axis: str | None = None
    """What a figure's axis counts; none: a table or bars."""
    notes: tuple[str, ...] = ()
    """What the paper leaves open, and the choice made; where its figures come from."""

    def check(self, settings: Settings) -> None:
        """Raises SettingsError unless every case is one of `settings`, and none comes twice."""
        labels = [case.label for case in self.cases]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if not labels or twice:
            fault = f"has {twice[0]!r} twice" if twice else "is empty"
            raise SettingsError(f"{self.name} {fault}; give each value once, and one at least.")
        for case in self.cases:
            for candidate in case.candidates or ({},):
                check_pretraining(override(settings, {**case.changes, **candidate}))
