"""The one writer of a run: all that is small goes through it into the run's folder.

Workers may be on machines that do not see the folder. Where Ray carries them, they hand over to an
actor beside the driver (`training.remote_recorder`); in the calling process they call this.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from bt_ray.data.location import refusal
from bt_ray.errors import BtRayError, StorageError
from bt_ray.json_files import append_line, read_lines
from bt_ray.storage.working_copy import name_of, send
from bt_ray.tracking.snapshots import Arrays, write_snapshot
from bt_ray.tracking.tracker import METRICS, JsonLinesTracker, Measures
from bt_ray.training.stop import StopRequest

QUARANTINE = "quarantine.jsonl"
"""Name of the list of images that cannot be decoded, in a run's folder."""

Image = Mapping[str, Any]
"""An image of that list: `row`, `sample_id` and `reason`."""


class Recorder(Protocol):
    """Takes what a worker has to say, and knows what it is to hear."""

    def log(self, step: int, measures: Measures, time_ms: int | None = None) -> None:
        """Records measures made after `step` steps."""

    def list_images(self, images: Sequence[Image]) -> None:
        """Adds images that cannot be decoded to the run's list, unless they are there."""

    def keep(self, step: int, arrays: Arrays) -> None:
        """Keeps what a picture is drawn from."""

    def fail(self, error: BtRayError) -> None:
        """Notes why the work ends, whoever would begin it again: `failure` has it."""

    def failure(self) -> BtRayError | None:
        """What was noted so; nothing yet if none."""

    def wants_stop(self) -> bool:
        """Whether the run shall stop, as far as is known; it does not wait for an answer."""

    def send_measures(self) -> None:
        """Has all measures where the run is kept, before a checkpoint is that comes after them."""

    def flush(self) -> None:
        """Returns when all is written that was handed over. Raises: RunFailedError."""


class FolderRecorder:
    """Writes into a run's folder, which this process sees.

    Args:
      stop: what the run's process was asked.
    """

    def __init__(self, run_folder: Path, stop: StopRequest) -> None:
        self._folder, self._stop = run_folder, stop
        self._tracker = JsonLinesTracker(run_folder / METRICS)
        self._listed: set[object] | None = None
        self._failure: BtRayError | None = None

    def log(self, step: int, measures: Measures, time_ms: int | None = None) -> None:
        """Appends a line to the run's measures."""
        with self._writing():
            self._tracker.log(step, measures, time_ms)

    def list_images(self, images: Sequence[Image]) -> None:
        """Appends a line an image to the run's list."""
        file = self._folder / QUARANTINE
        if self._listed is None:
            self._listed = {image["row"] for image in read_quarantine(file)}
        for image in images:
            if image["row"] not in self._listed:
                with self._writing():
                    append_line(file, image)
                self._listed.add(image["row"])

    def keep(self, step: int, arrays: Arrays) -> None:
        """Writes the arrays to a file of their step."""
        with self._writing():
            write_snapshot(self._folder, step, arrays)

    def fail(self, error: BtRayError) -> None:
        """Keeps the first one."""
        self._failure = self._failure or error

    def failure(self) -> BtRayError | None:
        """What was kept."""
        return self._failure

    def wants_stop(self) -> bool:
        """Whether this process was asked to stop."""
        return self._stop.is_made()

    def send_measures(self) -> None:
        """Copies them, if the folder is a copy; who copies the rest does so again."""
        file = self._folder / METRICS
        if file.is_file():
            with suppress(StorageError):
                send(file)

    def flush(self) -> None:
        """All is written already."""

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            refused = refusal(error, name_of(self._folder))
            if refused is not None:
                self.fail(refused)
                raise refused from error
            raise


def read_quarantine(file: Path) -> list[dict[str, object]]:
    """What is listed in `file`, but for a line that was cut; nothing if there is none."""
    return [image for image in read_lines(file) if "row" in image]
