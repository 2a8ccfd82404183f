"""The bytes of an image in object storage, under the rules of ``images.read``."""

from __future__ import annotations

from glomedge.errors import ImageError, StorageError
from glomedge.files.storage import Storage, Stored
from glomedge.imaging.formats import declared_size
from glomedge.imaging.images import LOOK_FIRST_BYTES, MAX_FILE_BYTES, refuse_large, too_large_file


def read_stored(storage: Storage, name: bytes) -> tuple[bytes, Stored]:
    """All bytes of one object, and what they are of.

    Args:
        storage: that it is in.
        name: relative to the storage's address.

    Raises:
        ImageError: ``vanished``, ``permission``, ``io`` (after all retries), ``too_large`` (over 640 MB, or over 16 MB
            with a header that declares more than 64 MP).
    """
    try:
        try:
            return storage.read(name, LOOK_FIRST_BYTES)
        except StorageError as error:
            if error.code != "too_large":
                raise
        # Hundreds of MB are not read only to find the image too large.
        size = declared_size(lambda at, count: storage.part(name, at, count))
        if size is not None:
            refuse_large(*size)
        return storage.read(name, MAX_FILE_BYTES)
    except StorageError as error:
        if error.code == "too_large":
            raise too_large_file() from None
        raise ImageError("vanished" if error.code == "bucket" else error.code, str(error)) from None
