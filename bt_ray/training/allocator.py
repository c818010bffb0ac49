"""Memory of a training process on a CPU: kept once it was had, instead of given back each time.

A step frees and asks for the same activations again. glibc maps every one of some megabytes
anew, and the kernel clears each of its pages: a seventh of a step of ResNet-18 on two cores.
"""

KEEP_FREED_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(2**28),
    "MALLOC_ARENA_MAX": "1",
}
"""Environment of a process to be started, for glibc (mallopt(3)); other allocators ignore it."""
