"""Looks up what is near among embedded images: `python -m pipelines.neighbors FOLDER IMAGE …`."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.table import Table

from bt_ray.errors import SettingsError
from pipelines.terminal import command, console, finish, guarded

if TYPE_CHECKING:
    from bt_ray.embedding.neighbors import Neighbor


@dataclass(frozen=True, kw_only=True)
class LookUp:
    """Shows the nearest neighbours of images, by cosine similarity, exact."""

    embeddings: Annotated[str, tyro.conf.Positional]
    """A folder that `python -m pipelines.embed` wrote; a path or a URI."""
    queries: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Image files, or ids of images that were embedded."""
    neighbors: int = 10
    """How many of each."""

    def __post_init__(self) -> None:
        if self.neighbors < 1:
            raise SettingsError(f"neighbors={self.neighbors} must be at least 1.")
        if not self.queries:
            raise SettingsError("Name at least one image file, or id of an embedded image.")


@command
def main() -> None:
    """Parses the command line, shows the neighbours of each query."""
    order = guarded(lambda: tyro.cli(LookUp, prog="python -m pipelines.neighbors"))
    finish(guarded(lambda: look_up(order)))


def look_up(order: LookUp) -> dict[str, object]:
    """The neighbours by query; one that was embedded itself is none of its own neighbours."""
    import torch

    from bt_ray.cpu.count import available_cpus
    from bt_ray.embedding.encoder import Computation
    from bt_ray.embedding.neighbors import EmbeddingSet

    embedded = EmbeddingSet.open(order.embeddings)
    files = [query for query in order.queries if Path(query).is_file()]
    ids = [query for query in order.queries if query not in files]
    computation = Computation(
        threads=available_cpus(), precision=embedded.manifest.encoder.precision
    )
    vectors = (
        [embedded.vectors_of_files([Path(file) for file in files], computation)] if files else []
    )
    vectors += [embedded.vectors_of(ids)] if ids else []
    found = embedded.look_up(torch.cat(vectors), order.neighbors + bool(ids))
    by_query = dict(zip([*files, *ids], found, strict=True))
    shown = {
        query: [near for near in by_query[query] if near.sample_id != query][: order.neighbors]
        for query in order.queries
    }
    for query, neighbors in shown.items():
        print_neighbors(query, neighbors)
    return {
        "run_id": embedded.manifest.encoder.run_id,
        "steps": None,
        "images_per_s": None,
        "scores": {},
        "model_version": None,
        "paths": {"embeddings": order.embeddings},
        "neighbors": {query: [asdict(near) for near in found] for query, found in shown.items()},
    }


def print_neighbors(query: str, neighbors: "list[Neighbor]") -> None:
    """A table for people."""
    table = Table("", "cosine", "image", "class", title=query)
    for rank, near in enumerate(neighbors, start=1):
        table.add_row(str(rank), f"{near.similarity:.4f}", near.source, near.class_name or "")
    console.print(table)


if __name__ == "__main__":
    main()
