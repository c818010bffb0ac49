"""What is to be said of images before a run trusts them: a sentence each, and the way out."""

from collections.abc import Iterator, Sequence

from bt_ray.advice.duplicates import Leak
from bt_ray.advice.survey import Survey
from bt_ray.config import Settings

_FEW_IMAGES = 1_000
_MOST_NAMED = 3
_WORTH_A_WORD = 0.01
"""Share of the images above which what may happen to any set is said."""


def cautions(
    train: Survey, test: Survey | None, leak: Leak | None, settings: Settings
) -> list[str]:
    """Sentences about the images, and what to do, for a run of these settings."""
    return [
        *_of_number(train),
        *_of_repetitions(train, leak),
        *_of_labels(train, test),
        *_of_sizes(train, settings),
        *_of_kinds(train),
    ]


def _of_number(train: Survey) -> Iterator[str]:
    if train.unreadable:
        yield (
            f"Not to be decoded: {len(train.unreadable):,} of {train.num_looked_at:,} images, such "
            f"as {train.unreadable[0].name!r}; what is broken is left out (data.on_bad_image skip)."
        )
    if train.count < _FEW_IMAGES:
        yield (
            f"{train.count:,} images are few: representations will know little but these. Add "
            "images, labels are not needed, or start from the weights of a run on similar ones "
            "(model.start_from)."
        )


def _of_repetitions(train: Survey, leak: Leak | None) -> Iterator[str]:
    twice = train.duplicates
    if twice.num_spare:
        group = (*twice.exact, *twice.near)[0]
        yield (
            f"Images that show a picture again: {twice.num_spare:,} of {train.num_looked_at:,}, as "
            f"in {_some(group)}. Remove them: they weigh as much again, and a part that is held "
            f"out would share them with the rest.{_more(train)}"
        )
    if leak is not None and leak.count:
        held_out, trained = (*leak.exact, *leak.near)[0]
        yield (
            f"Held-out images that are training images, too: {leak.count:,}, such as {held_out!r}, "
            f"there {trained!r}. Scores on them say too much: take them out of one of both."
            f"{_more(train)}"
        )


def _of_labels(train: Survey, test: Survey | None) -> Iterator[str]:
    num_classes = sum(size > 0 for size in train.class_sizes.values())
    if num_classes == 1:
        yield (
            "All images have one label, so kNN cannot be wrong; they are taken without labels "
            "(data.labels none)."
        )
    elif num_classes == 0:
        yield (
            "There are no labels: a run reports RankMe, alignment and uniformity, and no accuracy. "
            "Give each class a subfolder to have one."
        )
    elif test is None:
        yield (
            "There are no held-out images, so the run has no kNN score; give labelled ones that "
            "are not trained on (--test)."
        )
    elif not test.class_sizes:
        yield "The held-out images have no labels, so the run has no kNN score."


def _of_sizes(train: Survey, settings: Settings) -> Iterator[str]:
    px = settings.views.image_px
    small = [one for one in train.seen if one.shorter_side < px]
    if len(small) > _WORTH_A_WORD * len(train.seen):
        yield (
            f"Views of {px} pixels enlarge {len(small):,} of {len(train.seen):,} images, such as "
            f"{small[0].name!r} ({small[0].width}×{small[0].height}), which adds nothing."
        )


def _of_kinds(train: Survey) -> Iterator[str]:
    if len(train.kinds) > 1:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in train.kinds.items())
        yield (
            f"Images are of several kinds ({kinds}); all are brought to RGB of 8 bits, and an "
            "encoder may learn to tell the kinds apart."
        )
    deep = sum(count for kind, count in train.kinds.items() if kind.bits > 8)
    if deep:
        yield (
            f"More than 8 bits a channel: {deep:,} of {len(train.seen):,} images. They are brought "
            "to 8 (docs/data.md says how)."
        )
    grey, total = train.num_grey_in_colour, len(train.seen)
    if train.is_grey and grey:
        yield (
            f"All images are grey, and {grey:,} of {total:,} are stored in colour: distortions of "
            "colours are left out."
        )
    elif grey > _WORTH_A_WORD * total:
        yield (
            f"Grey, but stored in colour: {grey:,} of {total:,} images. Distortions of colours "
            "change nothing in them."
        )


def _more(train: Survey) -> str:
    """A sentence if more may be found among images that were not looked at."""
    if train.num_looked_at == train.count:
        return ""
    return (
        f" Only {train.num_looked_at:,} of {train.count:,} training images were looked at: there "
        "will be more (--most-images)."
    )


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_MOST_NAMED])
    return f"{shown}{', …' if len(names) > _MOST_NAMED else ''}"
