"""The same reader against moto's S3, which others wrote: lists, bodies, ETags and errors are as S3 says them.

moto cannot be installed beside glomedge's pins (botocore refuses the current python-dateutil), so it is a program of
its own, which ``make test-slow`` installs into ``.venv-moto`` and puts into PATH.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from glomedge.errors import StorageError
from glomedge.files import storage as module
from glomedge.files.storage import storage_at
from helpers.s3_server import Objects

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("moto_server") is None, reason="moto_server is not in PATH"),
]
obstore = pytest.importorskip("obstore", reason="obstore (extra storage) is not installed")

KEYS = ["night/1.png", "night/a b/ü%41#?+&'.png", *(f"night/many/{number:04}.png" for number in range(1100))]


@pytest.fixture
def moto(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for name, value in Objects(port=port).environment().items():
        monkeypatch.setenv(name, value)
    server = subprocess.Popen(
        ["moto_server", "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    module.forget()
    try:
        for _ in range(300):
            with closing(socket.socket()) as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None
            time.sleep(0.1)
        yield
    finally:
        server.terminate()
        server.wait()
        module.forget()


def test_motos_s3(moto: None) -> None:
    from obstore.store import from_url

    subprocess.run(
        ["curl", "-sf", "-X", "PUT", f"{os.environ['AWS_ENDPOINT_URL']}/crops"], check=True, stdout=subprocess.DEVNULL
    )
    writer = from_url("s3://crops", client_options={"allow_http": True})
    for key in KEYS:
        obstore.put(writer, key, key.encode())
    night = storage_at(b"s3://crops/night")
    assert night is not None
    listed = [stored for page in night.pages() for stored in page]
    assert [f"night/{stored.name.decode()}" for stored in listed] == sorted(KEYS, key=str.encode)
    for stored in listed[:3]:
        data, same = night.read(stored.name, 1 << 20)
        assert (data, same) == (f"night/{stored.name.decode()}".encode(), stored)
        assert night.stat(stored.name) == stored
        assert night.part(stored.name, 2, 3) == data[2:5]
    with pytest.raises(StorageError, match="no longer exists"):
        night.read(b"none.png", 1)
    other = storage_at(b"s3://other")
    assert other is not None
    with pytest.raises(StorageError, match="no bucket s3://other"):
        list(other.pages())
