"""What the doctor says of one thing that it looked at."""

from dataclasses import dataclass
from typing import Literal

State = Literal["good", "note", "wrong"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    check: str
    """What was looked at, such as "clock"."""
    place: str
    """The node, or what else it is about, such as an address."""
    found: str
    """What was seen there, in a few words, with units."""
    state: State = "good"
    """note: runs go on with it, worse than they could; wrong: they fail, or give other results."""
    advice: str = ""
    """What is wrong and how to mend it, in one sentence; empty if the state is good."""
