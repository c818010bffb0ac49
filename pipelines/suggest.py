"""Looks at images, and writes settings for them: `python -m pipelines.suggest DATA`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from bt_ray.config import Settings, flatten, to_json
from pipelines.count_line import CountLine
from pipelines.dry_run import print_forecast
from pipelines.dry_run import record as record_forecast
from pipelines.sight_table import print_choices, print_sights
from pipelines.terminal import command, console, exit_code, finish, guarded, warn

if TYPE_CHECKING:
    from bt_ray.advice.advise import Advice
    from bt_ray.forecast.forecast import Forecast


@dataclass(frozen=True, kw_only=True)
class Suggest:
    """Looks at images, says what it saw, and writes settings that pretraining starts with.

    It counts, measures, looks for pictures that are there twice, and tries networks on this
    machine for some seconds each. Nothing is written but the settings.
    """

    data: Annotated[str, tyro.conf.Positional]
    """Images, as `pretrain --data.train`: a folder, archives, shards, or a known data set."""
    test: str | None = None
    """Held-out images, likewise; none: a folder such as `test` beside one called `train`, if there
    is one."""
    hours: float = 8.0
    """Hours that the run may take on this machine."""
    out: Path = Path("suggested.json")
    """Settings file to write; one that is there is replaced."""
    storage: str = "runs"
    """Where the run is to be kept, as `pretrain --storage`."""
    most_images: int = 10_000
    """Images of each set that are looked at, from all over it. Of more, counts are estimates, and
    pictures that are there twice are found only where both were looked at."""


@command
def main() -> None:
    """Parses the command line, looks, prints what was seen and chosen, writes the settings."""
    order = guarded(lambda: tyro.cli(Suggest, prog="python -m pipelines.suggest"))
    advice = guarded(lambda: _advise(order))
    print_sights(advice)
    print_choices(advice)
    for caution in advice.cautions:
        warn(caution)
    ahead = guarded(lambda: _look_ahead(advice))
    print_forecast(ahead, advice.settings)
    order.out.write_text(to_json(advice.settings) + "\n")
    console.print(
        f"Written: {order.out}. Start it with\n"
        f"    python -m pipelines.pretrain {quote(str(order.out))}",
        soft_wrap=True, highlight=False,
    )  # fmt: skip
    finish(record(advice, ahead, order.out))
    sys.exit(max((exit_code(error) for error in ahead.problems), default=0))


def _advise(order: Suggest) -> "Advice":
    from bt_ray.advice.advise import Request, advise
    from bt_ray.forecast.forecast import forecast

    def tried(settings: Settings) -> "Forecast":
        encoder, px = settings.model.encoder, settings.views.image_px
        console.print(f"Trying {encoder} on views of {px} pixels …")
        return forecast(settings)

    request = Request(
        train=order.data, test=order.test, storage=order.storage, hours=order.hours,
        most_images=order.most_images,
    )  # fmt: skip
    with CountLine() as line:
        return advise(request, look_ahead=tried, on_progress=line.show)


def _look_ahead(advice: "Advice") -> "Forecast":
    from bt_ray.forecast.forecast import forecast

    with console.status("Trying these settings"):
        return forecast(advice.settings)


def record(advice: "Advice", ahead: "Forecast", file: Path) -> dict[str, Any]:
    """What programs are told: what was seen, what was chosen and why, and the forecast."""
    told = record_forecast(ahead)
    train, leak = advice.train, advice.leak
    return told | {
        "paths": told["paths"] | {"settings": str(file)},
        "seen": {
            "images": train.count,
            "looked_at": train.num_looked_at,
            "unreadable": len(train.unreadable),
            "sides_px": list(train.sides),
            "kinds": {str(kind): count for kind, count in train.kinds.items()},
            "grey": train.num_grey,
            "classes": train.class_sizes,
            "exact_duplicates": [list(group) for group in train.duplicates.exact],
            "near_duplicates": [list(group) for group in train.duplicates.near],
            "leak": None if leak is None else [list(pair) for pair in (*leak.exact, *leak.near)],
        },
        "choices": {choice.what: [choice.value, choice.why] for choice in advice.choices},
        "settings": flatten(advice.settings),
        "cautions": list(advice.cautions),
    }


if __name__ == "__main__":
    main()
