"""Object storage: what is read is whole, what fails is tried again within bounds, and what is said helps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from glomedge.errors import StorageError, UsageError
from glomedge.files import addresses
from glomedge.files import storage as module
from glomedge.files.addresses import Address, address_of, is_address, place_of
from glomedge.files.storage import Storage, storage_at
from helpers.s3_server import Objects, reachable

pytest.importorskip("obstore", reason="obstore (extra storage) is not installed")

BODY = bytes(range(256)) * 1000
ODD = "a b/ü%41#?+&'\\x.png"


@pytest.fixture
def objects(monkeypatch: pytest.MonkeyPatch) -> Iterator[Objects]:
    monkeypatch.setattr(module, "_FIRST_BACKOFF_S", 0.001)
    monkeypatch.setattr(module, "_LONGEST_BACKOFF_S", 0.01)
    monkeypatch.setattr(module, "_READ_TIMEOUT_S", 0.3)
    with reachable(Objects({"night/1.png": BODY, f"night/{ODD}": b"odd"}), monkeypatch) as served:
        yield served


def at(text: str = "s3://crops/night") -> Storage:
    found = storage_at(text.encode())
    assert found is not None
    return found


def test_one_request_for_a_file(objects: Objects) -> None:
    data, stored = at().read(b"1.png", 1 << 20)
    assert data == BODY
    assert (stored.name, stored.size_bytes, stored.version_ns // 10**9) == (b"1.png", len(BODY), objects.changed_s)
    assert objects.requests == [("GET", "night/1.png")]
    assert at().read(ODD.encode(), 1 << 20)[0] == b"odd"


@pytest.mark.parametrize("fault", ["503", "reset", "truncate", "stall", "slow"])
def test_a_fault_that_passes_costs_nothing(objects: Objects, fault: str) -> None:
    objects.fault = lambda method, key, before: fault if before < 2 else None
    assert at().read(b"1.png", 1 << 20)[0] == BODY
    assert len(objects.requests) == (1 if fault == "slow" else 3)


@pytest.mark.parametrize("fault", ["503", "reset", "truncate", "stall"])
def test_a_fault_that_stays_is_an_error_after_a_bounded_number_of_tries(objects: Objects, fault: str) -> None:
    objects.bodies["night/1.png"] = BODY * 4
    objects.fault = lambda method, key, before: fault
    with pytest.raises(StorageError, match=r"cannot be read.*Check the network") as caught:
        at().read(b"1.png", 1 << 30)
    assert caught.value.code == "io"
    assert 2 <= len(objects.requests) <= 2 * (module._MAX_RETRIES + 1)


def test_what_retries_do_not_help_is_said_at_once(objects: Objects) -> None:
    objects.fault = lambda method, key, before: "403" if "1.png" in key else None
    for name, code, said in ((b"1.png", "permission", "denied"), (b"2.png", "vanished", "no longer exists")):
        with pytest.raises(StorageError, match=said) as caught:
            at().read(name, 1 << 20)
        assert caught.value.code == code
    with pytest.raises(StorageError, match="no bucket s3://other"):
        list(at("s3://other").pages())
    assert len(objects.requests) == 3
    with pytest.raises(StorageError) as caught:
        at().read(ODD.encode(), 2)
    assert caught.value.code == "too_large"
    with pytest.raises(StorageError, match="not UTF-8"):
        at().read(b"\xff.png", 2)


def test_an_object_that_is_replaced_while_it_is_read_is_never_half_old(objects: Objects) -> None:
    def fault(method: str, key: str, before: int) -> str | None:
        if before:
            objects.bodies[key] = BODY[::-1]
        return None if before else "truncate"

    objects.fault = fault
    with pytest.raises(StorageError) as caught:
        at().read(b"1.png", 1 << 20)
    assert caught.value.code == "io"


def test_a_version_tells_apart_what_was_replaced_within_one_second(objects: Objects) -> None:
    before = at().stat(b"1.png")
    assert at().read(b"1.png", 1 << 20)[1] == before
    assert [stored for page in at().pages() for stored in page if stored.name == b"1.png"] == [before]
    objects.bodies["night/1.png"] = BODY[::-1]
    after = at().stat(b"1.png")
    assert (after.size_bytes, after.version_ns // 10**9) == (before.size_bytes, before.version_ns // 10**9)
    assert after.version_ns != before.version_ns


def test_lists_come_in_pages_and_survive_faults(objects: Objects) -> None:
    objects.bodies |= {f"night/{number:04}.png": b"x" for number in range(250)} | {"nightly/no.png": b"x"}
    objects.page = 100
    objects.fault = lambda method, key, before: "503" if before == 1 else None
    names = [stored.name for page in at().pages() for stored in page]
    assert len(names) == 252
    assert names == sorted(names)
    assert len(objects.requests) == 4


def test_a_key_that_cannot_be_read_is_named(objects: Objects) -> None:
    objects.bodies["night/../day.png"] = b"x"
    with pytest.raises(StorageError, match=r"empty part, '\.' or '\.\.'.*night/\.\./day\.png.*Rename it"):
        list(at().pages())


def test_parts(objects: Objects) -> None:
    assert at().part(b"1.png", 3, 5) == bytes([3, 4, 5, 6, 7])
    assert at().part(b"1.png", len(BODY) - 2, 100) == BODY[-2:]
    assert at().part(b"1.png", len(BODY) + 2, 100) == b""


def test_without_credentials_nothing_is_asked(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StorageError, match=r"no credentials for S3.*Set AWS_ACCESS_KEY_ID"):
        at()
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    assert at().stat(b"1.png").size_bytes == len(BODY)
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    module.forget()
    with pytest.raises(StorageError, match="without encryption"):
        at().stat(b"1.png")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"127.0.0.1:{objects.port}")
    module.forget()
    with pytest.raises(StorageError, match=r"AWS_ENDPOINT_URL begins with neither .*Write it like https://"):
        at()


def test_a_profile_is_found_by_boto3(objects: Objects, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("boto3", reason="boto3 is not installed; it cannot be beside the pinned python-dateutil")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    (tmp_path / "keys").write_text("[lab]\naws_access_key_id = a\naws_secret_access_key = b\n", "utf-8")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "keys"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    assert at().stat(b"1.png").size_bytes == len(BODY)
    monkeypatch.setenv("AWS_PROFILE", "other")
    module.forget()
    with pytest.raises(StorageError, match=r"no credentials for S3 \(boto3: .*other"):
        at()


def test_addresses() -> None:
    address = place_of("s3://crops/a/b/")
    assert isinstance(address, Address)
    assert (str(address), address.bucket, address.key("ü".encode())) == ("s3://crops/a/b", "s3://crops", "a/b/ü")
    assert (address.below(b"s3://crops/a/b/c.png"), address.below(b"s3://crops/a/bc.png")) == (b"c.png", None)
    assert address_of(bytes(address)) == address
    assert address_of(b"/data/s3") is None
    assert not is_address(b"s3:/crops")
    assert str(place_of("abfss://crops@account.dfs.core.windows.net/x")).startswith("abfss://crops@account")
    for text, said in (
        ("ftp://a/b", "begins with s3://"),
        ("s3://", "Write it like s3://bucket/folder"),
        ("s3://crops/x?endpoint_override=a", "AWS_ENDPOINT_URL"),
        ("s3://crops//x", "as short as it can be"),
        ("s3://crops/../x", "as short as it can be"),
    ):
        with pytest.raises(UsageError, match=said):
            place_of(text)
    with pytest.raises(UsageError, match="must not have an account or a key") as caught:
        place_of("s3://AKIA:geheim@crops/x")
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize("text", ["https://a:geheim@host/x", "s3://a:gehe/geheim@crops/x", "az://c/x?sig=geheim"])
def test_a_key_in_an_address_is_not_shown(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        place_of(text)
    assert "geheim" not in str(caught.value)
    assert "geheim" not in addresses.shown(text.encode())


def test_other_addresses_are_shown() -> None:
    for text in ("s3://crops/a@b:c.png", "abfss://crops@account.dfs.core.windows.net/x", "a/b?c.png"):
        assert addresses.shown(text.encode()) == text


def test_a_key_in_an_endpoint_is_not_shown(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    said = at()._failure(OSError("no route to http://AKIA:geheim@store.example/crops?list: timed out"))
    assert "no route to http://store.example/crops?list: timed out" in str(said)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "AKIA:geheim@store.example")
    module.forget()
    with pytest.raises(StorageError, match="AWS_ENDPOINT_URL begins with neither") as caught:
        at()
    assert "geheim" not in str(caught.value)
