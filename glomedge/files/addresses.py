"""Addresses of object storage: ``s3://bucket/folder``, and the bytes of names below them.

A folder is a ``Path`` or an ``Address``. As bytes the two cannot be confused: no path has ``//`` in it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from glomedge.errors import UsageError
from glomedge.files.names import escape_name

SCHEMES = ("s3", "gs", "az", "abfss")
"""S3 and what speaks its protocol; Google Cloud Storage; Azure Blob Storage (``abfss``: with the account in it)."""

_SCHEME = re.compile(rb"([A-Za-z][A-Za-z0-9+.-]*)://")


def is_address(place: bytes) -> bool:
    """Whether it begins like ``s3://``, with whatever scheme."""
    return _SCHEME.match(place) is not None


def has_key(place: bytes) -> bool:
    """Whether an address, with whatever scheme, has an account or a key before its host."""
    scheme, mark, rest = place.partition(b"://")
    authority = rest.partition(b"/")[0]
    return bool(mark) and (b":" in authority or (b"@" in authority and scheme != b"abfss"))


def shown(place: bytes) -> str:
    """An address or a path for a message, without what is secret in it: messages end up in logs."""
    if has_key(place):
        return f"{escape_name(place.partition(b'://')[0])}://..."
    begin, mark, _ = place.partition(b"?")
    return escape_name(begin) + "?..." if mark and b"://" in begin else escape_name(place)


@dataclass(frozen=True)
class Address:
    """A folder in object storage, as a person writes it: nothing in it is percent-encoded.

    Attributes:
        scheme: one of ``SCHEMES``.
        authority: the bucket or container, of ``abfss`` with the account.
        prefix: the folder, without a slash at its end; empty for the whole bucket.
    """

    scheme: str
    authority: str
    prefix: str = ""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``s3://bucket/folder``.

        Raises:
            UsageError: another scheme, no bucket, a password or options in it.
        """
        place = text.encode("utf-8", "surrogateescape")
        scheme, _, rest = text.partition("://")
        authority, _, prefix = rest.partition("/")
        if scheme not in SCHEMES:
            raise UsageError(
                f"{shown(place)} is no address that can be read. Give one that begins with "
                f"{', '.join(f'{name}://' for name in SCHEMES)}; or a folder."
            )
        if has_key(place):
            # Without the address itself: it has a secret in it.
            raise UsageError(
                "An address must not have an account or a key in it. Give these by the environment, such as "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (docs/cluster.md)."
            )
        if not authority or "?" in text:
            raise UsageError(
                f"{shown(place)} is no folder in a bucket. Write it like {scheme}://bucket/folder; the environment "
                "gives the endpoint and the region, such as AWS_ENDPOINT_URL and AWS_REGION."
            )
        prefix = prefix.removesuffix("/")
        if prefix and not {"", ".", ".."}.isdisjoint(prefix.split("/")):
            raise UsageError(f"{shown(place)} is not written as short as it can be. Omit '//', '.' and '..'.")
        return cls(scheme, authority, prefix)

    @property
    def bucket(self) -> str:
        """The address without the folder."""
        return f"{self.scheme}://{self.authority}"

    def __str__(self) -> str:
        return f"{self.bucket}/{self.prefix}" if self.prefix else self.bucket

    def __bytes__(self) -> bytes:
        return str(self).encode("utf-8", "surrogateescape")

    def below(self, name: bytes) -> bytes | None:
        """The part of the address ``name`` that is relative to this one; None where it lies elsewhere."""
        begin = bytes(self) + b"/"
        return name[len(begin) :] if name.startswith(begin) and len(name) > len(begin) else None

    def key(self, relative: bytes) -> str:
        """The key in the bucket of what is below. Raises UnicodeDecodeError: no key has such a name."""
        text = relative.decode("utf-8")
        return f"{self.prefix}/{text}" if self.prefix else text


Place = Path | Address
"""Where inputs are."""


def place_of(text: str) -> Place:
    """The folder or the address that a person has written. Raises UsageError."""
    return Address.parse(text) if is_address(text.encode("utf-8", "surrogateescape")) else Path(text)


def address_of(root: bytes) -> Address | None:
    """The address that these bytes are of; None for a folder."""
    return Address.parse(root.decode("utf-8", "surrogateescape")) if is_address(root) else None
