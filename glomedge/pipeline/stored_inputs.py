"""The inputs below an address in object storage, in the order of a folder's.

The rules are those of ``inputs.scan``, as far as storage has such things: it has no links, no devices and no
permissions of folders.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from glomedge.errors import UsageError
from glomedge.files.addresses import Address
from glomedge.files.names import escape_name
from glomedge.files.storage import storage_at
from glomedge.pipeline.inputs import Found, Scan
from glomedge.system.stopping import unless_stopped


def scan_storage(
    address: Address,
    suffixes: Collection[str],
    *,
    slides: Collection[str] = (),
    stop: Callable[[], bool] = lambda: False,
) -> Scan:
    """Find every image below an address.

    Args:
        address: of a bucket, or of a folder in one.
        suffixes: lower-case endings of images, with their dot.
        slides: endings of slides, which are counted: they are read from disks only.
        stop: polled at every page of the list.

    Raises:
        UsageError: there is nothing below the address.
        StorageError: it cannot be listed.
        StoppedError: ``stop`` returned true.
    """
    storage = storage_at(bytes(address))
    assert storage is not None
    images = tuple(suffix.encode() for suffix in suffixes)
    whole = tuple(suffix.encode() for suffix in slides)
    found, count = Scan(bytes(address)), 0
    for page in unless_stopped(storage.pages(), stop):
        count += len(page)
        for stored in page:
            if stored.name.lower().endswith(whole) and whole:
                found.slides_in_storage += 1
            elif found.takes(stored.name, images):
                found.inputs.append(Found(stored.name))
    if not count:
        raise UsageError(f"There is nothing below {escape_name(bytes(address))}. Check the bucket and the folder.")
    # Every storage lists in the order of the bytes; the results must not depend on that.
    found.inputs.sort(key=lambda each: each.relative)
    return found
