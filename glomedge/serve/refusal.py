"""A request that is refused: what HTTP and gRPC both say of it."""

from __future__ import annotations


class RefusedError(Exception):
    """A request that gets no answer; not a fault of this program.

    Args:
        status: HTTP status code.
        message: what is wrong and what to do; repeats nothing of what the client sent but numbers and known words.
        retry_after_s: seconds after which the same request may succeed; None where it never will.
    """

    def __init__(self, status: int, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after_s = retry_after_s


def malformed(message: str) -> RefusedError:
    """400: the request cannot be understood."""
    return RefusedError(400, message)


def too_many(crops: int, allowed: int) -> RefusedError:
    """400: more crops than one request may have."""
    return malformed(f"{crops} crops were sent at once, and {allowed} are allowed. Send fewer.")


def not_found(message: str) -> RefusedError:
    """404: there is no such model, version or run."""
    return RefusedError(404, message)


def too_large(limit_bytes: int) -> RefusedError:
    """413: the body is over the limit."""
    return RefusedError(
        413,
        f"The body is larger than {limit_bytes} bytes. Send fewer crops, or start with a larger --max-body.",
    )


def no_room_for_slides(limit_bytes: int) -> RefusedError:
    """413: the slides are over what may lie on the server's disk."""
    return RefusedError(
        413,
        f"The slides are larger than the {limit_bytes} bytes that this server keeps for all pages. Use glomedge infer, "
        "or start with a larger --max-slides.",
    )


def busy(message: str, retry_after_s: int = 1) -> RefusedError:
    """503: not now."""
    return RefusedError(503, message, retry_after_s)
