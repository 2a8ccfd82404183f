"""Whether a node sees the crops at all.

One that does not would answer part after part, faster than any other, with rows that say that every crop is gone.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence

from glomedge.cases.text import counted
from glomedge.errors import OutputError
from glomedge.files.addresses import is_address
from glomedge.files.names import escape_name
from glomedge.pipeline.prepare import Answer
from glomedge.pipeline.witnesses import Witnesses

MOST_UNREAD = 32
"""So many crops in a row that could not be read, or all of a smaller part, are a reason to doubt."""


def require_folder(root: bytes) -> None:
    """Raises OutputError where the folder that the crops are in is not there."""
    if not is_address(root) and not os.path.isdir(root):  # noqa: PTH112 (bytes)
        raise OutputError(
            f"{platform.node()} does not see the folder {escape_name(root)}. Mount it on every node, then run again "
            "with --resume."
        )


def require_seen(answers: Sequence[Answer], witnesses: Witnesses, root: bytes) -> None:
    """Hold a part's answers to be true only if the crops that could not be read are to blame.

    Args:
        answers: of a whole part, in order.
        witnesses: asked where many in a row could not be read: while one of them can be, such rows are true.
        root: folder or address of the crops.

    Raises:
        OutputError: none of them can be read here, so no row of the part is written.
    """
    require_folder(root)
    unread = longest = 0
    said = ""
    for answer in answers:
        if answer.sha256 is not None:
            witnesses.saw(answer.found.relative)
        if answer.sha256 is not None or answer.status == "error:too_large":
            unread = 0
            continue
        unread += 1
        longest, said = max(longest, unread), answer.message
    if longest < min(MOST_UNREAD, len(answers)) or witnesses.any_readable():
        return
    raise OutputError(
        f"{platform.node()} could read none of {counted(longest, 'crop')} in a row in {escape_name(root)}, nor any of "
        f"those that it then asked for; the last one because: {said} Every node must see that folder or address, with "
        "the right to read it. What is answered is kept: mend it, then run again with --resume."
    )
