"""The presets, as their docstrings describe them."""

import inspect

from rich.console import Group
from rich.table import Table
from rich.text import Text

from bt_ray.presets import PRESETS

LABELS = ("Command", "Hardware", "Time", "Score", "Measured")
"""What each preset's docstring says, a label at the start of a line for each."""


def preset_table() -> Group:
    """A table for each preset."""
    tables = []
    for name in PRESETS:
        what, facts = describe(name)
        title = Text.assemble((name, "bold"), f": {what}")
        table = Table(title=title, title_justify="left", show_header=False)
        for label, words in facts.items():
            table.add_row(label.lower(), words)
        tables.append(table)
    return Group(*tables)


def describe(name: str) -> tuple[str, dict[str, str]]:
    """The first line of a preset's docstring, and its labelled lines by label."""
    lines = (inspect.getdoc(PRESETS[name]) or "").splitlines()
    facts: dict[str, str] = {}
    for line in lines[1:]:
        label, colon, words = line.partition(": ")
        if colon and label in LABELS:
            facts[label] = words
        elif facts and line.startswith("  "):
            facts[list(facts)[-1]] += f" {line.strip()}"
    return lines[0], facts
