"""What runs a preparation's tasks: this process, or all CPUs that Ray has."""

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bt_ray.data.location import public_name
from bt_ray.data.preparation.tasks import RunAll, one_after_the_other
from bt_ray.data.sources import Source
from bt_ray.errors import DataError
from bt_ray.storage.names import is_far

_LARGE_BYTES = 2**28  # takes one process longer than Ray takes to start
_MOST_ALONE_BYTES = 2**31  # takes one process some three minutes


@contextmanager
def open_runner(source: Source, *, cpus: int | None = None) -> Iterator[RunAll]:
    """What runs the tasks that prepare `source`, while the context lasts.

    A source of 256 MB or more takes all CPUs of the Ray cluster that is joined, or else of one that
    is started on this machine and ended with the context.

    Args:
      cpus: how many it takes at once; 0: this process alone, whatever the size.
    """
    if cpus == 0 or (cpus is None and source.num_bytes < _LARGE_BYTES):
        yield one_after_the_other
        return
    from bt_ray.data.preparation.parallel import (  # here: Ray takes seconds to import
        joined,
        run_on_cluster,
    )

    with joined(cpus):
        yield partial(run_on_cluster, cpus=cpus)


@contextmanager
def open_runner_within(
    source: Source, root: str, *, rows_per_row_group: int, flags: str = ""
) -> Iterator[RunAll]:
    """The same for a run, whose user may not have thought of which node reaches what.

    If there are nodes that do not reach the source or the destination `root`, this process prepares
    up to 2 GB alone.

    Args:
      flags: what the command has beside for these images.
    Raises: DataError with the command that prepares it elsewhere, if it is more than that.
    """
    with open_runner(source) as run_all:
        if run_all is one_after_the_other:
            yield run_all
            return
        from bt_ray.data.preparation.parallel import nodes_without

        folder = None if is_far(root) else Path(root).parent
        far = nodes_without(source, folder)
        if not far:
            yield run_all
        elif source.num_bytes < _MOST_ALONE_BYTES:
            yield one_after_the_other
        else:
            raise DataError(
                f"{source.name} ({source.num_bytes / 2**30:.1f} GB) is not prepared yet, and the "
                f"cluster cannot do it: {', '.join(far)} cannot read it, or cannot reach "
                f"{public_name(root)}. On a machine that reaches both, give `"
                f"{command(source, root, rows_per_row_group)}{flags}`, and then this command again."
            )


def command(source: Source, root: str, rows_per_row_group: int) -> str:
    """The command that prepares the source on one machine, outside the cluster."""
    words = ["python", "-m", "pipelines.prepare", source.name, public_name(root)]
    words += ["--rows-per-row-group", str(rows_per_row_group)]
    if "RAY_ADDRESS" in os.environ or "RAY_JOB_ID" in os.environ:
        words = ["env", "-u", "RAY_ADDRESS", "-u", "RAY_JOB_ID", *words]
    return shlex.join(words)
