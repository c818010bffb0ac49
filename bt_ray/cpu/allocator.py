"""Memory of a process on a CPU: kept once it was had, instead of given back each time.

A training step frees and asks for the same activations again, a decoder for the same images.
glibc maps every one of some size anew, and the kernel clears each of its pages: a seventh of a
step of ResNet-18 on two cores, a fifth of a decoder's time.
"""

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # as glibc's malloc.h numbers them

KEEP_FREED_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(2**28),
    "MALLOC_ARENA_MAX": "1",
}
"""Environment of a process to be started, for glibc (mallopt(3)); other allocators ignore it."""


def keep_freed_memory() -> None:
    """The same for the main thread of this process, from now on."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_MMAP_MAX, 0)
        libc.mallopt(_TRIM_THRESHOLD, -1)
        libc.mallopt(_TOP_PAD, 2**26)
