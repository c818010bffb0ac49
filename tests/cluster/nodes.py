"""Emulated nodes, for tests: where they cannot be made, a test is skipped."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks import emulated_nodes
from benchmarks.emulated_nodes import HEAD, JOBS_PORT, PORT, RAY, Nodes, address, name, why_not

__all__ = ["HEAD", "JOBS_PORT", "PORT", "RAY", "Nodes", "address", "make_nodes", "name", "why_not"]


@contextmanager
def make_nodes(
    folder: Path, *, shared: Sequence[Path] = (), private: Sequence[Path] = (), most: int = 8
) -> Iterator[Nodes]:
    """`benchmarks.emulated_nodes.make_nodes`, or a skipped test."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    with emulated_nodes.make_nodes(folder, shared=shared, private=private, most=most) as nodes:
        yield nodes
