"""For workers that train on CPUs: memory that was freed is kept instead of given back each time.

A training step frees and asks for the same activations again. glibc maps each that is large anew,
and the kernel clears all of its pages: a seventh of the CPU time of the `cifar10` preset's step.
No result depends on it, and other allocators ignore it.
"""

KEEP_FREED_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(2**28),
    "MALLOC_ARENA_MAX": "1",
}
"""Environment of a process to be started, for glibc (mallopt(3))."""
