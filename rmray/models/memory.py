"""Keep freed memory in the process. Called where models run on a CPU: by the training worker and by `load_bundle`."""

from __future__ import annotations

import ctypes
import os
from functools import cache

# Parameters of glibc's mallopt (malloc.h).
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
KEEP_BYTES = 2**31 - 1  # mallopt takes an int
LARGEST_KEPT_BYTES = 2**30


@cache
def keep_freed_memory() -> bool:
    """Have malloc keep what is freed, in one arena for all threads; whether this C library can.

    A forward allocates and frees its activations layer by layer, hundreds of MB. glibc returns such pieces to the
    system and asks for them again, and the system fills every page with zeros: measured, a tenth of a forward on one
    thread, more on two. Variables of the environment that set one of these (MALLOC_TRIM_THRESHOLD_, ...) keep their
    word, as does a preloaded allocator of another kind, whose mallopt does nothing.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    settings = {
        "MALLOC_TRIM_THRESHOLD_": (_TRIM_THRESHOLD, KEEP_BYTES),
        "MALLOC_MMAP_THRESHOLD_": (_MMAP_THRESHOLD, LARGEST_KEPT_BYTES),
        "MALLOC_ARENA_MAX": (_ARENA_MAX, 1),
    }
    answers = [mallopt(*setting) for name, setting in settings.items() if name not in os.environ]
    return all(answers)
