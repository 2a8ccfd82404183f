"""Memory that ran out, however it shows: an error of Python's, of the system's, or of a library that does not load."""

from __future__ import annotations

import errno

NEEDED_ADDRESS_SPACE_BYTES = 1 << 30
"""Below it OpenCV and onnxruntime fail in ways that no Python code can report: they abort, or crash, while loading.

Measured with onnxruntime 1.32 and OpenCV 5.0 on two CPUs: limits from 300 to 900 MB ended six times of seven.
"""

_MEMORY_WORDS = ("failed to map segment", "cannot allocate memory", "can't start new thread", "bad_alloc")


def is_memory_error(error: BaseException) -> bool:
    """Whether an error, or what caused it, says that memory ran out."""
    seen: set[int] = set()
    now: BaseException | None = error
    while now is not None and id(now) not in seen:
        seen.add(id(now))
        if isinstance(now, MemoryError) or (isinstance(now, OSError) and now.errno == errno.ENOMEM):
            return True
        if any(words in str(now).lower() for words in _MEMORY_WORDS):
            return True
        now = now.__cause__ or now.__context__
    return False


def address_space_limit_bytes() -> int | None:
    """What ``ulimit -v`` allows this process; None where it is unlimited or the system has no such limit."""
    try:
        import resource
    except ImportError:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


def out_of_memory() -> str:
    """What to tell a user, with the limit where there is one."""
    limit = address_space_limit_bytes()
    if limit is None:
        return "There is not enough memory. Free some, or give fewer --workers or a smaller --batch-size."
    return (
        f"There is not enough memory: this process may use {limit // 1_000_000} MB of address space (ulimit -v). "
        "Raise the limit (ulimit -v unlimited), or give fewer --workers or a smaller --batch-size."
    )
