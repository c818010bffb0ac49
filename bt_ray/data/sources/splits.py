"""Tells names of splits, such as `Training` or `seg_test`, from names of classes."""

import re
from collections.abc import Collection, Iterable
from pathlib import PurePosixPath

from bt_ray.data.location import public_name
from bt_ray.data.sources.found import printable
from bt_ray.errors import DataError

_TRAIN = {"train", "training", "trainset", "traindata", "trainval", "trainingset"}
_TEST = {"test", "testing", "testset", "testdata", "val", "valid", "validation", "validate"} | {
    "valset", "validationset", "minival", "dev", "devset", "eval", "evaluation", "holdout",
    "heldout",
}  # fmt: skip
_EXTRA = {
    "extra", "unlabeled", "unlabelled", "labeled", "labelled", "unsup", "unsupervised", "pred",
    "predict", "prediction", "predictions", "inference", "submission",
}  # fmt: skip
_NEUTRAL = {"set", "sets", "data", "dataset", "images", "image", "imgs", "img", "split", "folder"}
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
_KINDS = (("train", _TRAIN), ("test", _TEST), ("extra", _EXTRA))


def split_of(name: str) -> tuple[str, str] | None:
    """The kind of split (train, test or extra) that a name means, and what else it says.

    `seg_train` is ("train", "seg"); `Validation2` is ("test", ""). None if it means no split.
    """
    words = [word.lower() for word in _WORD.findall(name)]
    for kind, known in _KINDS:
        if known & set(words):
            rest = (w for w in words if w not in known | _NEUTRAL and len(w) > 1)
            return kind, " ".join(rest)
    return None


def splits_among(names: Iterable[str]) -> dict[str, str]:
    """The folders that are splits, each with its kind; none if these may well be classes.

    They are splits if one is of training and another of test images of the same set, whatever
    lies beside them; or if nothing but splits is there.
    """
    told = {name: split for name in sorted(names) if (split := split_of(name)) is not None}
    kinds = {name: kind for name, (kind, _) in told.items()}
    sets = {kind: {rest for k, rest in told.values() if k == kind} for kind in ("train", "test")}
    has_pair = bool(sets["train"] & sets["test"])
    is_all = len(told) == len(set(names)) and not any(rest for _, rest in told.values())
    return kinds if has_pair or is_all else {}


def refuse_splits(name: str, folders: Collection[str], below: str = "") -> None:
    """Raises DataError if the subfolders of `name` (or of its folder `below`) are splits."""
    kinds = splits_among(folders)
    if not kinds:
        return
    folder = public_name(name).rstrip("/") + (f"/{below}" if below else "")
    train = next((f for f, kind in kinds.items() if kind == "train"), next(iter(kinds)))
    test = next((f for f, kind in kinds.items() if kind == "test" and f != train), None)
    way_out = f"--data.train {folder}/{train}" + (f" --data.test {folder}/{test}" if test else "")
    raise DataError(
        f"The folders in {printable(folder)!r} ({', '.join(map(printable, sorted(folders)))}) are "
        f"splits of a data set, not classes; give {printable(way_out)}, or all of them without "
        "labels by --data.labels none (--labels none to prepare)."
    )


def refuse_mixed_files(name: str, files: list[str]) -> None:
    """Raises DataError if some of the files are named as training data and others are not."""

    def kinds(file: str) -> frozenset[str]:
        told = (split_of(part) for part in PurePosixPath(file).parts)
        return frozenset(split[0] for split in told if split is not None)

    by_kinds = {kinds(file): file for file in files}
    if len(by_kinds) > 1:
        first, *_, last = by_kinds.values()
        names = [PurePosixPath(file).name for file in (first, last)]
        first, last = names if names[0] != names[1] else (first, last)
        raise DataError(
            f"The files in {public_name(name)!r} are of several splits, such as {first} and "
            f"{last}; give those of one by {{000..012}}, or one file."
        )
