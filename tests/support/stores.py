"""Stores for tests of distributed work: fsspec's memory store, and S3 by moto on this machine."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from support.absent import need_packages


@pytest.fixture
def memory_store() -> Iterator[str]:
    need_packages("fsspec")
    import fsspec

    place = f"memory://{secrets.token_hex(4)}"
    yield place
    fsspec.filesystem("memory").store.clear()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Return the endpoint of an S3 service in this process."""
    need_packages("moto", "s3fs")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_store(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the URL of a new bucket; processes started with this environment also reach it."""
    import s3fs

    for name, value in (
        ("AWS_ENDPOINT_URL", s3_server),
        ("AWS_ACCESS_KEY_ID", "testing"),
        ("AWS_SECRET_ACCESS_KEY", "testing"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    bucket = f"bucket-{secrets.token_hex(4)}"
    s3fs.S3FileSystem().mkdir(bucket)
    return f"s3://{bucket}"
