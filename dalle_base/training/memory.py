"""What training asks of the system's memory allocator."""

import ctypes
import platform

# The parameters' numbers in glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Let the process keep the memory that it frees, and use it again; return whether it does.

    An update frees and asks for the same hundreds of megabytes. By default glibc hands large
    blocks back, and the system clears each page anew on the next touch: a fifth of a training
    step on a CPU (docs/performance.md). With other allocators nothing is changed.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    set_option = ctypes.CDLL(None).mallopt
    return bool(set_option(M_MMAP_MAX, 0)) and bool(set_option(M_TRIM_THRESHOLD, -1))
