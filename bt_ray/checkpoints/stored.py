"""Checkpoints of a run whose folder is a copy: what of them lies here, and what is brought."""

import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from bt_ray.checkpoints.manifest import MANIFEST, Manifest, is_small_file
from bt_ray.data.lock import held
from bt_ray.errors import StorageError
from bt_ray.storage.names import origin_of
from bt_ray.storage.store import Store
from bt_ray.storage.working_copy import CHECKPOINT, size_of

REJECTED = "manifest-rejected.json"
"""Name of the manifest of a checkpoint that was found to be damaged."""
_TRIES = 5


def bring_manifests(run_folder: Path) -> None:
    """Has the small files of each checkpoint that the run's storage holds here, and no others.

    Nothing happens if the folder is no copy. Raises: StorageError.
    """
    origin = origin_of(run_folder)
    if origin is None:
        return
    with _alone(run_folder):
        for _ in range(_TRIES):
            with suppress(FileNotFoundError):  # one was removed meanwhile, for a newer one
                _bring_manifests(run_folder, origin)
                return
    raise StorageError(f"The checkpoints in {origin.shown} change all the time.")


def _bring_manifests(run_folder: Path, origin: Store) -> None:
    there = {name for name in origin.sizes() if _is_of_checkpoint(name)}
    for file in run_folder.glob(f"*/{CHECKPOINT}*/*"):
        if file.relative_to(run_folder).as_posix() not in there:
            file.unlink()
    for folder in run_folder.glob(f"*/{CHECKPOINT}*/"):
        if not any(folder.iterdir()):
            folder.rmdir()
    manifests = {name for name in there if name.endswith(f"/{MANIFEST}")}
    before = {name: _read(run_folder / name) for name in manifests}
    origin.download([name for name in there if is_small_file(name)], run_folder)
    for name, content in before.items():
        if content is not None and _read(run_folder / name) != content:  # another one
            for tensors in (run_folder / name).parent.glob("*.safetensors"):
                tensors.unlink()


def sizes_there(folder: Path) -> Mapping[str, int] | None:
    """Names and sizes of a checkpoint's files in its storage; none if they lie here alone."""
    origin = origin_of(folder)
    return None if origin is None else origin.sizes()


def bring_tensors(folder: Path) -> None:
    """Has all files of a checkpoint here. Nothing happens if its folder is no copy.

    Raises: CheckpointError, StorageError.
    """
    origin = origin_of(folder)
    if origin is None:
        return
    with _alone(folder.parent.parent):
        manifest = Manifest.read(folder)
        there = origin.sizes()
        missing = [
            name
            for name, listed in manifest.files.items()
            if name in there and size_of(folder / name) != listed.num_bytes
        ]
        origin.download(missing, folder)


def set_aside(folder: Path) -> None:
    """Takes a damaged checkpoint its manifest. Raises: OSError, StorageError."""
    origin = origin_of(folder)
    if origin is not None:
        origin.write(REJECTED, (folder / MANIFEST).read_bytes())
        origin.remove(MANIFEST)
    (folder / MANIFEST).rename(folder / REJECTED)


def keep_stored(
    store: Store, write: Callable[[Path], None], first: Callable[[Path], None] | None = None
) -> None:
    """Has a checkpoint written here, and copied to a storage, its manifest last.

    Args:
      write: fills a folder with it.
      first: called with that folder before it is copied.
    Raises: RunFailedError.
    """
    with tempfile.TemporaryDirectory(prefix="checkpoint-") as name:
        folder = Path(name)
        write(folder)
        if first is not None:
            first(folder)
        store.upload(folder, last=MANIFEST)


def prune(run_storage: Store, kind: str, newest: str, keep: int) -> None:
    """Removes all but the last checkpoints up to this one; later ones are damaged.

    Args:
      kind: the folder in the run's that holds them.
    Raises: StorageError.
    """
    store = run_storage.below(kind)
    sizes = store.sizes()
    until_now = sorted({name.split("/")[0] for name in sizes if name.split("/")[0] <= newest})
    for old in until_now[:-keep]:
        files = [name for name in sizes if name.startswith(f"{old}/")]
        for name in sorted(files, key=lambda name: not name.endswith(MANIFEST)):
            store.remove(name)


def _alone(run_folder: Path) -> AbstractContextManager[None]:
    """Workers of one machine share a copy: one of them brings, the others wait for it."""
    run_folder.mkdir(parents=True, exist_ok=True)
    return held(run_folder / "copying.lock")


def _is_of_checkpoint(name: str) -> bool:
    return len(parts := name.split("/")) == 3 and parts[1].startswith(CHECKPOINT)


def _read(file: Path) -> bytes | None:
    return file.read_bytes() if file.is_file() else None
