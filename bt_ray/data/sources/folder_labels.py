"""Labels from the folders that images lie in."""

from bt_ray.data.sources.found import Found, printable
from bt_ray.data.sources.kinds import STRAYS
from bt_ray.data.sources.splits import refuse_splits

_MOST_STRAYS = 0.1
"""Share of the images in class folders, up to which images outside of them are left out."""
NO_LABELS = "none"
"""What is given as labels where images are to be taken without any."""


def classes_of(name: str, paths: list[str], found: Found) -> tuple[list[str], tuple[str, ...]]:
    """The paths that are taken, and the first level of their folders, which are the classes.

    A few images that lie outside of two or more folders are left out, so that the others keep their
    labels. Where more lie outside, all are taken, and there are no classes.

    Raises: DataError if the folders are the splits of a data set.
    """
    outside = [path for path in paths if "/" not in path]
    folders = {path.split("/")[0] for path in paths if "/" in path}
    refuse_splits(name, folders)
    if len(folders) == 1 and not outside:
        (only,) = folders
        refuse_splits(name, {p.split("/")[1] for p in paths if p.count("/") > 1}, only)
    num_inside = len(paths) - len(outside)
    if not outside:
        return paths, tuple(sorted(folders))
    if len(folders) < 2 or len(outside) > max(1, int(_MOST_STRAYS * num_inside)):
        if folders:
            found.remarks.append(
                f"There are no labels, as {len(outside):,} of {len(paths):,} images, such as "
                f"{printable(outside[0])!r}, lie outside of the folders that would be classes."
            )
        return paths, ()
    for path in outside:
        found.pass_over(STRAYS, path)
    found.remarks.append("--data.labels none (--labels none to prepare) takes all, without labels.")
    return [path for path in paths if "/" in path], tuple(sorted(folders))
