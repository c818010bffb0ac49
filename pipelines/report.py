"""One page about one run or several: `python -m pipelines.report RUN …`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from bt_ray.errors import SettingsError
from pipelines.terminal import command, console, finish, guarded


@dataclass(frozen=True, kw_only=True)
class Report:
    """Writes a page of HTML, at most 2 MB, that opens anywhere: curves, scores, pictures.

    Several runs stand side by side. Finished or not, with labels or without: what is missing is
    said.
    """

    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Runs' folders or URIs, or names or ids of MLflow runs."""
    storage: str = "runs"
    """Folder, or URI, of all runs."""
    output: Path = Path("report.html")
    """The page's file."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise SettingsError("Name at least one run: its folder, or its name or id in MLflow.")


@command
def main() -> None:
    """Parses the command line, writes the page, says what is missing in it."""
    order = guarded(lambda: tyro.cli(Report, prog="python -m pipelines.report"))
    finish(guarded(lambda: report(order)))


def report(order: Report) -> dict[str, object]:
    """Writes the page; what to say of it at the end."""
    from bt_ray.report.page import build_page
    from bt_ray.report.record import find_run
    from bt_ray.storage.working_copy import absolute

    storage = absolute(order.storage)
    with console.status("looking at the runs …"):
        records = [find_run(name, storage) for name in order.runs]
        page = build_page(records)
    order.output.parent.mkdir(parents=True, exist_ok=True)
    order.output.write_text(page.html, encoding="utf-8")
    num_bytes = order.output.stat().st_size
    console.print(f"{order.output}: {len(records)} runs, {num_bytes / 1e6:.2f} MB")
    for name, sentences in page.missing.items():
        for sentence in sentences:
            console.print(f"{name}: {sentence}", soft_wrap=True)
    return {
        "run_id": records[0].run_id if len(records) == 1 else None,
        "steps": None,
        "images_per_s": None,
        "scores": {},
        "model_version": None,
        "paths": {"report": str(order.output)},
        "runs": [record.name for record in records],
        "bytes": num_bytes,
        "missing": page.missing,
    }


if __name__ == "__main__":
    main()
