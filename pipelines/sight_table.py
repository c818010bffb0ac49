"""What was seen of images, and what was chosen for them, as tables: `suggest`."""

from typing import TYPE_CHECKING

from rich.table import Table

from pipelines.terminal import console

if TYPE_CHECKING:
    from bt_ray.advice.advise import Advice
    from bt_ray.advice.duplicates import Groups, Leak
    from bt_ray.advice.survey import Survey

_MOST_CLASSES, _MOST_NAMED = 8, 3


def print_sights(advice: "Advice") -> None:
    """A table for the training images, and one for the held-out ones if there are some."""
    _print_survey("What was seen", advice.train, None)
    if advice.test is not None:
        _print_survey("What was seen of held-out images", advice.test, advice.leak)


def print_choices(advice: "Advice") -> None:
    """A table of settings in plain words, and why they are so."""
    table = Table(title="What is suggested")
    for heading in ("", "setting", "why"):
        table.add_column(heading, overflow="fold")
    for choice in advice.choices:
        table.add_row(choice.what, choice.value, choice.why)
    console.print(table)


def _print_survey(title: str, survey: "Survey", leak: "Leak | None") -> None:
    table = Table(title=title, show_header=False)
    table.add_row("images", f"{survey.count:,}")
    if survey.num_looked_at < survey.count:
        table.add_row("looked at", f"{survey.num_looked_at:,} from all over the set")
    smallest, median, largest = survey.sizes
    table.add_row("smallest, median, largest", f"{smallest}, {median}, {largest} pixels")
    table.add_row("shorter side, likewise", "{:,}, {:,}, {:,} pixels".format(*survey.sides))
    kinds = "; ".join(f"{count:,} {kind}" for kind, count in survey.kinds.items())
    table.add_row("kinds", kinds)
    table.add_row("grey pictures", f"{survey.num_grey:,}")
    table.add_row("cannot be decoded", f"{len(survey.unreadable):,}")
    table.add_row("labels", _class_words(survey.class_sizes))
    table.add_row("equal files", _group_words(survey.duplicates.exact))
    table.add_row("same picture, other file", _group_words(survey.duplicates.near))
    if survey.num_too_small:
        table.add_row("too small to be told apart as pictures", f"{survey.num_too_small:,}")
    if leak is not None:
        table.add_row("also among training images", _leak_words(leak))
    console.print(table)


def _class_words(sizes: dict[str, int]) -> str:
    if not sizes:
        return "none"
    if len(sizes) > _MOST_CLASSES:
        least, most = min(sizes.values()), max(sizes.values())
        return f"{len(sizes):,} classes of {least:,}{'' if least == most else f' to {most:,}'}"
    return ", ".join(f"{name} {size:,}" for name, size in sizes.items())


def _group_words(groups: "Groups") -> str:
    if not groups:
        return "none"
    names = " = ".join(groups[0][:_MOST_NAMED]) + (" = …" * (len(groups[0]) > _MOST_NAMED))
    plural = "s" * (len(groups) > 1)
    return f"{sum(map(len, groups)):,} images in {len(groups):,} group{plural}, such as {names}"


def _leak_words(leak: "Leak") -> str:
    if not leak.count:
        return "none was found"
    return f"{len(leak.exact):,} equal files, {len(leak.near):,} of the same picture"
