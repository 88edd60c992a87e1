"""Keep freed memory in the process. Called where models run on a CPU: by the training worker and by `load_bundle`."""

from __future__ import annotations

import ctypes
import os
from functools import cache

# Parameters of glibc's mallopt (malloc.h).
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
KEEP_BYTES = 2**31 - 1  # mallopt takes an int
LARGEST_KEPT_BYTES = (2**30, 2**25)  # before 2.35, glibc refuses more than the latter


@cache
def keep_freed_memory() -> bool:
    """Have malloc keep what is freed, in one arena for all threads, for the rest of this process; whether it does.

    A forward allocates and frees its activations layer by layer, hundreds of MB. glibc returns such pieces to the
    system and asks for them again, and the system fills every page with zeros: measured, a tenth of a forward on one
    thread, more on two. Nothing is changed where the environment sets malloc's thresholds itself, or where the C
    library or a preloaded allocator has no such settings.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    # First, for the others alone make things worse: they end malloc's own adjustment of this one.
    if not any(mallopt(_MMAP_THRESHOLD, num_bytes) for num_bytes in LARGEST_KEPT_BYTES):
        return False
    return bool(mallopt(_TRIM_THRESHOLD, KEEP_BYTES)) and bool(mallopt(_ARENA_MAX, 1))
