"""How this process gets its memory, on the CPU."""

import ctypes

__all__ = ["keep_freed_memory"]

# Parameters of mallopt(3), and their largest values: bytes at the heap's end that are given back,
# and bytes from which a block is mapped for itself.
_TRIM_THRESHOLD, _NEVER = -1, 2**31 - 1
_MMAP_THRESHOLD, _LARGEST = -3, 32 * 2**20


def keep_freed_memory() -> bool:
    """Let the C library keep what tensors free, for the next tensors.

    By itself glibc hands large blocks back to the system, which must clear each page anew for the
    next training step: a tenth of its time. The process's peak stays; between steps it holds it.

    Returns:
        whether the C library can (glibc)
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_TRIM_THRESHOLD, _NEVER) and mallopt(_MMAP_THRESHOLD, _LARGEST))
