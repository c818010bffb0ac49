"""Perceptual hashes: copies of a picture that were resized or encoded again have nearly the same.

The hash of pHash (Zauner 2010, "Implementation and benchmarking of perceptual image hash
functions", section 3.2.1): signs of the picture's lowest frequencies, here 16×16 of them.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

PX = 64
"""Side to which a picture is brought before it is hashed."""
_FREQUENCIES = 16


def fingerprint(grey: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The hash of a grey picture: 256 bits, as uint64 (4,).

    Args:
      grey: (64, 64).
    """
    lowest = cv2.dct(grey.astype(np.float32))[:_FREQUENCIES, :_FREQUENCIES]
    return np.packbits(lowest > np.median(lowest)).view(np.uint64)


def differing_bits(one: NDArray[np.uint64], hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """In how many of 256 bits a hash (4,) differs from each of others (n, 4): shape (n,)."""
    bits: NDArray[np.int64] = np.bitwise_count(hashes ^ one).sum(axis=1, dtype=np.int64)
    return bits
