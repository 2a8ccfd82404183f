"""Object storage: the one place that reads from S3, Google Cloud Storage or Azure.

By ``obstore`` (the Rust crate ``object_store``): one request for a file, which also says its ETag; lists page by page;
retries with exponential back-off and jitter; a body that ends early is asked for again from where it ended.
Credentials come only from where that library finds them, or boto3 where it is installed. Bodies are kept in memory,
never in a file.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from glomedge.errors import MissingExtraError, StorageError
from glomedge.files.addresses import Address, address_of

_MAX_RETRIES = 5
_RETRY_WITHIN_S = 15.0
_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 0.1, 4.0
# With the retries under the 30 s that ``--decode-timeout`` leaves a file by default.
_CONNECT_TIMEOUT_S, _READ_TIMEOUT_S = 5.0, 8.0
# Of a whole body, however slowly it comes: the caller's own limit is the shorter one.
_BODY_TIMEOUT_S = 3600.0
_PAGE = 1000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_REASON_CHARACTERS = 300
_DENIED = "status code: 401", "status code: 403"
_USER = re.compile(r"//[^/\s]*@")
"""The account and the key in an endpoint."""
_AWS_ENDPOINTS = "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"
_ALLOW_HTTP = ("AWS_ALLOW_HTTP", "AZURE_ALLOW_HTTP")
# Any of these in the environment is a way to credentials that the library knows by itself.
_AWS_KEYS = (
    "AWS_ACCESS_KEY_ID", "AWS_SKIP_SIGNATURE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """What is known of an object without its bytes.

    Attributes:
        name: relative to the address, UTF-8.
        size_bytes: of its body.
        version_ns: stands for a file's time: the whole second of the last change, in nanoseconds since 1970, plus a
            number under 1e9 that follows from the ETag. Storage tells times in seconds, and an object may be replaced
            twice in one.
    """

    name: bytes
    size_bytes: int
    version_ns: int


class Storage:
    """The objects below one address; thread-safe, not to be pickled (``storage_at`` opens it in every process).

    Raises:
        StorageError: what an address of that kind needs is not set: account, credentials.
        MissingExtraError: ``obstore`` is not installed.
    """

    def __init__(self, address: Address) -> None:
        if importlib.util.find_spec("obstore") is None:
            raise MissingExtraError(f"reading {address.scheme}://", "obstore", "storage")
        import obstore
        from obstore.store import from_url

        self.address = address
        self._library: Any = obstore
        options: dict[str, Any] = {
            "client_options": {
                # The library reads these two by itself only where no other client option is given.
                "allow_http": any(os.environ.get(name, "").lower() == "true" for name in _ALLOW_HTTP),
                "connect_timeout": timedelta(seconds=_CONNECT_TIMEOUT_S),
                "read_timeout": timedelta(seconds=_READ_TIMEOUT_S),
                "timeout": timedelta(seconds=_BODY_TIMEOUT_S),
            },
            "retry_config": {
                "max_retries": _MAX_RETRIES,
                "retry_timeout": timedelta(seconds=_RETRY_WITHIN_S),
                "backoff": {
                    "init_backoff": timedelta(seconds=_FIRST_BACKOFF_S),
                    "max_backoff": timedelta(seconds=_LONGEST_BACKOFF_S),
                    "base": 2,
                },
            },
        }
        if address.scheme == "s3":
            options |= _aws_credentials()
        with self._told():
            self._store: Any = from_url(address.bucket, **options)

    def read(self, name: bytes, most_bytes: int) -> tuple[bytes, Stored]:
        """All bytes of one object, and what they are of.

        Args:
            name: relative to the address.
            most_bytes: the largest body that is read.

        Raises:
            StorageError: ``vanished``, ``permission``, ``too_large``, or ``io`` after all retries.
        """
        with self._told(name):
            got = self._library.get(self._store, self._key(name))
            stored = _stored(name, got.meta)
            if stored.size_bytes > most_bytes:
                raise StorageError("too_large", f"{self._shown(name)} has {stored.size_bytes:,} bytes.")
            data = bytes(got.bytes())
        if len(data) != stored.size_bytes:
            raise StorageError("io", f"{self._shown(name)} ended after {len(data):,} of {stored.size_bytes:,} bytes.")
        return data, stored

    def require_readable(self, names: Sequence[bytes]) -> None:
        """Find out before a run whether its objects can be read at all, from the first, the middle and the last.

        Raises:
            StorageError: there is no such bucket, it cannot be reached, or access to each of the three is denied.
        """
        denied = None
        for place in dict.fromkeys((0, len(names) // 2, len(names) - 1)):
            try:
                with self._told(names[place]):
                    self._library.get(self._store, self._key(names[place]))  # its body is not read
                return
            except StorageError as error:
                if error.code == "permission":
                    denied = error
                elif error.code != "vanished":  # one that is gone has a row that says so
                    raise
        if denied is not None:
            raise denied

    def part(self, name: bytes, at: int, count: int) -> bytes:
        """Up to ``count`` bytes from ``at`` on; none behind the end. Raises StorageError as ``read``."""
        size_bytes = self.stat(name).size_bytes
        length = min(count, size_bytes - at)
        if length <= 0:
            return b""
        with self._told(name):
            return bytes(self._library.get_range(self._store, self._key(name), start=at, length=length))

    def stat(self, name: bytes) -> Stored:
        """What is known of one object. Raises StorageError as ``read``."""
        with self._told(name):
            return _stored(name, self._library.head(self._store, self._key(name)))

    def pages(self) -> Iterator[list[Stored]]:
        """All objects below the address, a page at a time, in the order of their keys.

        Raises:
            StorageError: there is no such bucket, it may not be listed, or it cannot be reached.
        """
        prefix = self.address.prefix
        begin = len(prefix) + 1 if prefix else 0
        with self._told():
            for page in self._library.list(self._store, prefix or None, chunk_size=_PAGE):
                yield [_stored(meta["path"][begin:].encode("utf-8"), meta) for meta in page]

    @contextmanager
    def _told(self, name: bytes | None = None) -> Iterator[None]:
        """Turn whatever the library raises into StorageError."""
        try:
            yield
        except StorageError:
            raise
        except Exception as error:  # noqa: BLE001 - its errors have no base of their own in every version
            raise self._failure(error, name) from None
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # of Rust: no Exception, so that nobody catches it by chance
                raise
            raise self._failure(error, name) from None

    def _key(self, name: bytes) -> str:
        try:
            return self.address.key(name)
        except UnicodeDecodeError:
            raise StorageError("vanished", "No object has a name that is not UTF-8.") from None

    def _shown(self, name: bytes | None) -> str:
        return str(self.address) if name is None else f"{self.address}/{name.decode('utf-8', 'backslashreplace')}"

    def _failure(self, error: BaseException, name: bytes | None = None) -> StorageError:
        """The library's error in words, with what to do."""
        exceptions = self._library.exceptions
        # Behind the first line it prints its own structures, with keys and endpoints many times over.
        said = _USER.sub("//", str(error).partition("\n")[0].strip())
        shown = self._shown(name)
        if "NoSuchBucket" in str(error) or "ContainerNotFound" in str(error):
            return StorageError("bucket", f"There is no bucket {self.address.bucket}. Check its name and the endpoint.")
        if isinstance(error, FileNotFoundError):
            return StorageError("vanished", f"{shown} no longer exists. Run again with --resume once it is back.")
        kinds = exceptions.PermissionDeniedError, exceptions.UnauthenticatedError
        if isinstance(error, kinds) or any(code in said for code in _DENIED):  # of a list it has no such kinds
            return StorageError("permission", f"Access to {shown} is denied. Check the credentials and their rights.")
        if "invalid path" in said:
            return StorageError(
                "io",
                f"{shown} has an object whose key has an empty part, '.' or '..' in it, which cannot be read: {said}. "
                "Rename it, or list the others in a manifest of your own.",
            )
        if "BadScheme" in str(error):
            return StorageError(
                "io",
                f"{self.address.bucket} has an endpoint without encryption (http://). If that is meant, set "
                "AWS_ALLOW_HTTP=true, or AZURE_ALLOW_HTTP=true.",
            )
        if len(said) > _MAX_REASON_CHARACTERS:
            said = f"{said[:_MAX_REASON_CHARACTERS]} ..."
        return StorageError(
            "io",
            f"{shown} cannot be read: {said}. Check the network, the endpoint and the credentials; then run again.",
        )


def _stored(name: bytes, meta: Any) -> Stored:
    seconds = (meta["last_modified"] - _EPOCH) // timedelta(seconds=1)
    tag = (meta["e_tag"] or "").strip('"').encode("utf-8", "surrogateescape")
    digest = int.from_bytes(hashlib.sha256(tag).digest()[:8], "big") % 1_000_000_000 if tag else 0
    return Stored(name, meta["size"], seconds * 1_000_000_000 + digest)


def _aws_credentials() -> dict[str, Any]:
    """What the library is told of credentials: nothing where it finds them by itself. Raises StorageError.

    It does not read ``~/.aws``; boto3 does. It would ask the cloud's metadata service even where that is switched off.
    """
    found = ""
    for name in _AWS_ENDPOINTS:
        if (endpoint := os.environ.get(name)) and not endpoint.startswith(("http://", "https://")):
            # Without it: it may have an account and a key before its host.
            raise StorageError(
                "io", f"{name} begins with neither https:// nor http://. Write it like https://storage.example.org:9000"
            )
    if any(os.environ.get(name) for name in _AWS_KEYS):
        return {}
    if importlib.util.find_spec("boto3") is not None:
        from obstore.auth.boto3 import Boto3CredentialProvider

        try:
            return {"credential_provider": Boto3CredentialProvider()}
        except Exception as error:  # noqa: BLE001 - botocore has a kind for everything that a profile can lack
            found = f" (boto3: {error})"
    elif os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() != "true":
        return {}
    raise StorageError(
        "permission",
        f"There are no credentials for S3{found}. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; for a profile in "
        '~/.aws run eval "$(aws configure export-credentials --format env)", or install boto3; for a public bucket set '
        "AWS_SKIP_SIGNATURE=true.",
    )


@functools.cache
def _opened(address: Address) -> Storage:
    return Storage(address)


def storage_at(root: bytes) -> Storage | None:
    """The storage that a root is in; None for a folder on disk. Opened once in each process.

    Raises:
        UsageError, StorageError, MissingExtraError: it cannot be opened.
    """
    address = address_of(root)
    return None if address is None else _opened(address)


def forget() -> None:
    """Open storage anew at its next use: credentials and endpoints are those of the environment when it is opened."""
    _opened.cache_clear()
