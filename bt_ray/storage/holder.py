"""Who holds a folder, as its claim says it."""

import json
import os
import socket
import uuid
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from bt_ray.storage.cell import Entry


@dataclass(frozen=True)
class Holder:
    """A process that holds a folder, or wants to."""

    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    since: str = field(default_factory=lambda: f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC")
    """For people to read; by the holder's clock, however wrong."""

    def claim(self, count: int) -> bytes:
        """What the claim holds after so many heartbeats."""
        return json.dumps({**asdict(self), "count": count}).encode()

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since} by that machine's clock"


def holder_of(entry: Entry) -> Holder:
    """Who made a claim; one of nobody if it was cut short."""
    try:
        told = json.loads(entry.content)
        return Holder(told["id"], told["host"], told["pid"], told["since"])
    except (ValueError, KeyError, TypeError):
        return Holder("", "an unknown machine", 0, "an unknown time")
