"""Pictures that are in a set twice, or in two sets: byte for byte, or resized or encoded again."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bt_ray.advice.fingerprint import differing_bits
from bt_ray.advice.glance import Glance

FEWEST_PX = 32
"""Shorter side below which pictures are too much alike for hashes; files are compared alone."""
NEAR_BITS = 24
"""Bits of 256 in which hashes of one picture may differ. Copies as JPEG of quality 50, or half as
large, of 600 ImageNet photos and 364 blood smears differed in 6 bits at most, those of 3,000 images
of CIFAR-10 in 30; two different pictures differed in 72 or more."""

Groups = tuple[tuple[str, ...], ...]
"""Names of images that show one picture, group by group, the largest first."""


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """What is in a set more than once."""

    exact: Groups
    """Files that are equal byte for byte."""
    near: Groups
    """Files that show one picture and are not equal; of equal files one stands here."""
    num_spare: int
    """Images that could go without a picture being lost."""


@dataclass(frozen=True, kw_only=True)
class Leak:
    """Held-out images that are among the training images."""

    exact: tuple[tuple[str, str], ...]
    """Name of the held-out image, and of a training image that is the same file."""
    near: tuple[tuple[str, str], ...]
    """The same of images that show the same picture, without those that are the same file."""

    @property
    def count(self) -> int:
        """Held-out images that are trained on."""
        return len(self.exact) + len(self.near)


def find_duplicates(seen: Sequence[Glance]) -> Duplicates:
    """The images that are there more than once."""
    equal = defaultdict[bytes, list[Glance]](list)
    for one in seen:
        equal[one.digest].append(one)
    exact = [group for group in equal.values() if len(group) > 1]
    firsts = [group[0] for group in equal.values() if _is_hashed(group[0])]
    near = [[firsts[i] for i in group] for group in _near_groups(_hashes(firsts))]
    spare = sum(len(group) - 1 for group in (*exact, *near))
    return Duplicates(exact=_named(exact), near=_named(near), num_spare=spare)


def _near_groups(hashes: NDArray[np.uint64]) -> list[list[int]]:
    """Rows of two or more that are near the first of them; no row is in two groups."""
    groups, is_taken = [], np.zeros(len(hashes), np.bool_)
    for row, one in enumerate(hashes):
        if is_taken[row]:
            continue
        near = (differing_bits(one, hashes[row:]) <= NEAR_BITS) & ~is_taken[row:]
        is_taken[row:] |= near
        if near.sum() > 1:
            groups.append((row + np.flatnonzero(near)).tolist())
    return groups


def find_leak(test: Sequence[Glance], train: Sequence[Glance]) -> Leak:
    """The images of `test` that are in `train`."""
    name_of = {one.digest: one.name for one in train}
    hashed = [one for one in train if _is_hashed(one)]
    hashes = _hashes(hashed)
    exact, near = [], []
    for one in test:
        if one.digest in name_of:
            exact.append((one.name, name_of[one.digest]))
        elif hashed and _is_hashed(one):
            bits = differing_bits(one.fingerprint, hashes)
            nearest = int(bits.argmin())
            if bits[nearest] <= NEAR_BITS:
                near.append((one.name, hashed[nearest].name))
    return Leak(exact=tuple(exact), near=tuple(near))


def _is_hashed(one: Glance) -> bool:
    """Whether an image is large enough."""
    return one.shorter_side >= FEWEST_PX


def _named(groups: Iterable[Sequence[Glance]]) -> Groups:
    names = (tuple(sorted(one.name for one in group)) for group in groups)
    return tuple(sorted(names, key=lambda group: (-len(group), group)))


def _hashes(seen: Sequence[Glance]) -> NDArray[np.uint64]:
    """(n, 4)."""
    return np.array([one.fingerprint for one in seen], np.uint64).reshape(len(seen), 4)
