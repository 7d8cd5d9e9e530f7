"""One picture that cannot be read is one failure that says why, and no message holds credentials or query strings."""

from __future__ import annotations

import contextlib
import datetime
import errno
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from beam_pipeline.errors import ImageFailure, StoreError
from beam_pipeline.fetch import FetchedImage, fetch
from beam_pipeline.spec import Limits
from beam_pipeline.storage import Storage

SECRET = "S3CRET"


def fetched(uri: str, limits: Limits | None = None) -> FetchedImage:
    return fetch(uri, limits or Limits(), Storage())


def failure(uri: str, limits: Limits | None = None) -> ImageFailure:
    with pytest.raises(ImageFailure) as raised:
        fetched(uri, limits)
    found = raised.value
    assert found.stage == "fetch"
    assert SECRET not in found.message
    return found


def said(found: ImageFailure) -> tuple[str, str, bool]:
    return found.kind, found.message, found.retryable


NOT_FOUND = ("not_found", "there is no such file", True)
IS_A_FOLDER = ("is_a_folder", "expected a file, found a folder", False)
NO_BYTES = ("empty", "the file has no bytes", False)
DENIED = ("permission_denied", "the file may not be read", True)


# Files of this machine


@pytest.mark.parametrize(
    "name", ["a.png", "with space.png", "100%.png", "a%20b.png", "num#ber.png", "q?x=1.png", "früh-早い.png"]
)
def test_a_file_is_read_whole_whatever_its_name(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x89PNG")
    time = os.stat(tmp_path / name).st_mtime_ns
    assert fetched(str(tmp_path / name)) == FetchedImage(b"\x89PNG", f"mtime:{time}")


def test_a_file_uri_is_percent_decoded(tmp_path):
    (tmp_path / "a b%.png").write_bytes(b"x")
    assert fetched(f"file://{tmp_path}/a%20b%25.png").data == b"x"


def test_the_version_changes_with_the_file(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"x")
    os.utime(path, ns=(0, 1_700_000_000_123_456_789))
    assert fetched(str(path)).source_version == "mtime:1700000000123456789"


def test_a_link_is_followed(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "link.png").symlink_to("a.png")
    assert fetched(str(tmp_path / "link.png")).data == b"x"


def missing(folder):
    return folder / "none.png"


def broken_link(folder):
    (folder / "link.png").symlink_to("none.png")
    return folder / "link.png"


def below_a_file(folder):
    (folder / "a.png").write_bytes(b"x")
    return folder / "a.png" / "b.png"


def folder_itself(folder):
    return folder


def no_bytes(folder):
    (folder / "a.png").touch()
    return folder / "a.png"


def pipe(folder):
    os.mkfifo(folder / "pipe.png")
    return folder / "pipe.png"


def link_to_itself(folder):
    (folder / "a.png").symlink_to("a.png")
    return folder / "a.png"


def null_byte(folder):
    return f"{folder}/a\0b.png"


def long_name(folder):
    return folder / ("a" * 300)


def not_utf8(folder):
    return f"{folder}/\ud800.png"


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (missing, NOT_FOUND),
        (broken_link, NOT_FOUND),
        (below_a_file, NOT_FOUND),
        (folder_itself, IS_A_FOLDER),
        (no_bytes, NO_BYTES),
        (pipe, ("not_a_file", "expected a regular file", False)),
        (null_byte, ("bad_uri", "not a usable URI: embedded null byte", False)),
        (long_name, ("bad_uri", f"not a usable path: {os.strerror(errno.ENAMETOOLONG)}", False)),
        (link_to_itself, ("bad_uri", f"not a usable path: {os.strerror(errno.ELOOP)}", False)),
    ],
)
def test_a_path_that_gives_no_picture_says_why(tmp_path, make, expected):
    assert said(failure(str(make(tmp_path)))) == expected


def test_a_name_that_cannot_be_encoded_is_a_failure(tmp_path):
    assert failure(not_utf8(tmp_path)).kind == "bad_uri"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_says_so(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"x")
    path.chmod(0)
    assert said(failure(str(path))) == DENIED


def test_a_refused_permission_is_one_wherever_it_comes_from(tmp_path, monkeypatch):
    # The same for root, who may read every file.
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", f"/a?{SECRET}")

    monkeypatch.setattr(os, "stat", refuse)
    assert said(failure(str(tmp_path / "a.png"))) == DENIED


def test_an_error_of_the_disk_may_pass(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error", "/a.png")

    monkeypatch.setattr(os, "stat", fail)
    assert said(failure("/a.png")) == ("io_error", "cannot be read: OSError: Input/output error", True)


def test_a_file_of_too_many_bytes_is_refused_and_one_of_just_enough_is_not(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"x" * 100)
    assert len(fetched(str(path), Limits(max_image_bytes=100)).data) == 100
    expected = ("too_many_bytes", "100 bytes are more than max_image_bytes=99", False)
    assert said(failure(str(path), Limits(max_image_bytes=99))) == expected


# Other stores


@pytest.fixture
def remote() -> Iterator[str]:
    """A folder of fsspec's in-memory store with one file in it."""
    folder = f"memory://{uuid.uuid4().hex}"
    Storage().create(f"{folder}/a b%#?.png", b"x" * 10)
    yield folder
    Storage().delete_folder(folder)


def test_a_remote_file_is_read_whole(remote):
    assert fetched(f"{remote}/a b%#?.png") == FetchedImage(b"x" * 10, None)


def test_remote_failures_are_told_apart(remote):
    Storage().create(f"{remote}/empty.png", b"")
    assert said(failure(f"{remote}/none.png")) == NOT_FOUND
    assert said(failure(remote)) == IS_A_FOLDER
    assert said(failure(f"{remote}/empty.png")) == NO_BYTES
    small = Limits(max_image_bytes=9)
    assert failure(f"{remote}/a b%#?.png", small).message == "10 bytes are more than max_image_bytes=9"


def test_an_unknown_scheme_is_a_failure_of_this_row():
    found = failure(f"memry://user:{SECRET}@bucket/a.png?{SECRET}")
    assert found.kind == "unknown_scheme"
    assert found.message.startswith("unknown scheme 'memry'; did you mean 'memory'")
    assert found.retryable is False


class FakeStore:
    """A file system that knows of one file, or raises."""

    def __init__(self, info: dict | None = None, error: Exception | None = None, data: bytes = b"x") -> None:
        self._info, self._error, self._data = info or {}, error, data

    def info(self, path: str) -> dict:
        return {"name": path, "size": 1, "type": "file", **self._info}

    def cat_file(self, path: str) -> bytes:
        if self._error is not None:
            raise self._error
        return self._data


def use_store(monkeypatch, store: FakeStore) -> None:
    monkeypatch.setattr(Storage, "filesystem", lambda self, uri: (store, uri))


NOON = datetime.datetime(2026, 11, 23, 12, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("info", "version"),
    [
        ({"ETag": '"abc"'}, "etag:abc"),
        ({"etag": "abc", "LastModified": NOON}, "etag:abc"),
        ({"LastModified": NOON}, "lastmodified:2026-11-23T12:00:00+00:00"),
        ({"generation": "17", "updated": NOON}, "generation:17"),
        ({"VersionId": None, "mtime": 1.5}, "mtime:1.5"),
        ({"version_id": "v", "md5Hash": "m"}, "version_id:v"),
        ({"created": NOON}, None),
        ({}, None),
    ],
)
def test_the_version_is_the_best_that_the_store_tells(monkeypatch, info, version):
    use_store(monkeypatch, FakeStore(info))
    assert fetched("s3://bucket/a.png") == FetchedImage(b"x", version)


def test_a_store_that_understates_the_size_is_found_out(monkeypatch):
    use_store(monkeypatch, FakeStore({"size": 1}, data=b"x" * 10))
    assert failure("s3://b/a.png", Limits(max_image_bytes=9)).message == "10 bytes are more than max_image_bytes=9"


class ClientError(Exception):
    """As the stores' own packages raise: no OSError."""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            ClientError(f"503 for https://user:{SECRET}@h/a?sig={SECRET} today"),
            ("io_error", "cannot be read: ClientError: 503 for https://h/a today", True),
        ),
        (TimeoutError(f"https://h/a?{SECRET}"), ("io_error", "cannot be read: TimeoutError: https://h/a", True)),
        (PermissionError(SECRET), DENIED),
        (FileNotFoundError(SECRET), NOT_FOUND),
        (IsADirectoryError(SECRET), IS_A_FOLDER),
        (ValueError(f"https://h/a?{SECRET} is none"), ("bad_uri", "not a usable URI: https://h/a is none", False)),
    ],
)
def test_whatever_a_store_raises_for_one_file_is_a_failure_without_secrets(monkeypatch, error, expected):
    use_store(monkeypatch, FakeStore(error=error))
    found = failure(f"s3://user:{SECRET}@bucket/a.png?versionId={SECRET}")
    assert said(found) == expected
    assert found.__cause__ is error


def test_a_missing_object_is_not_found_even_where_its_package_names_a_cause(monkeypatch):
    error = FileNotFoundError(SECRET)
    error.__cause__ = ClientError("An error occurred (404) when calling HeadObject")
    use_store(monkeypatch, FakeStore(error=error))
    assert said(failure("s3://bucket/a.png")) == NOT_FOUND


@pytest.mark.parametrize("name", ["NoCredentialsError", "DefaultCredentialsError", "ClientAuthenticationError"])
def test_missing_credentials_are_the_fault_of_no_picture(monkeypatch, name):
    use_store(monkeypatch, FakeStore(error=type(name, (Exception,), {})(f"none for https://h/a?{SECRET}")))
    with pytest.raises(StoreError) as raised:
        fetched("s3://bucket/a.png")
    assert str(raised.value) == "no access to s3://: none for https://h/a"


def test_a_mistake_in_the_code_is_no_failure_of_a_picture(monkeypatch):
    def broken(self: Storage, uri: str) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Storage, "filesystem", broken)
    with pytest.raises(ZeroDivisionError):
        fetched("s3://bucket/a.png")


# HTTP, from a server of the test's own


class Answers(BaseHTTPRequestHandler):
    """`/200` and the like answer with that status; `/endless` states no size and sends 100,000 bytes."""

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        name = self.path.partition("?")[0].strip("/")
        body = b"x" * (100_000 if name == "endless" else 10)
        self.send_response(200 if name == "endless" else int(name))
        if name != "endless":
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", '"v1"')
        self.end_headers()
        if with_body:
            with contextlib.suppress(ConnectionError):  # a client that has read enough hangs up
                self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """`host:port` of a server on this machine alone."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"127.0.0.1:{httpd.server_port}"
        finally:
            httpd.shutdown()
            thread.join()


def test_a_picture_comes_over_http_with_its_version(server):
    assert fetched(f"http://{server}/200") == FetchedImage(b"x" * 10, "etag:v1")
    assert fetched(f"http://{server}/200?sig={SECRET}").data == b"x" * 10


def test_a_picture_of_unstated_size_is_read_to_its_end(server):
    assert fetched(f"http://{server}/endless", Limits(max_image_bytes=100_000)) == FetchedImage(b"x" * 100_000, None)


def test_a_server_that_states_no_size_cannot_send_more_than_the_limit(server):
    found = failure(f"http://{server}/endless", Limits(max_image_bytes=1000))
    assert said(found) == ("too_many_bytes", "1001 bytes are more than max_image_bytes=1000", False)


def test_a_stated_size_above_the_limit_is_refused(server):
    found = failure(f"http://{server}/200", Limits(max_image_bytes=9))
    assert said(found) == ("too_many_bytes", "10 bytes are more than max_image_bytes=9", False)


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (404, "not_found", "there is no such file"),
        (410, "not_found", "there is no such file"),
        (401, "permission_denied", "the file may not be read"),
        (403, "permission_denied", "the file may not be read"),
        (429, "io_error", "cannot be read: ClientResponseError: 429, message='Too Many Requests', url='"),
        (500, "io_error", "cannot be read: ClientResponseError: 500, message='Internal Server Error', url='"),
        (503, "io_error", "cannot be read: ClientResponseError: 503, message='Service Unavailable', url='"),
    ],
)
def test_each_refusal_of_a_server_is_what_it_is(server, status, kind, message):
    found = failure(f"http://user:{SECRET}@{server}/{status}?sig={SECRET}")
    assert (found.kind, found.retryable) == (kind, True)
    assert found.message.startswith(message)


def test_a_server_that_is_not_there_is_no_missing_file():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # taken, and nobody listens
        found = failure(f"http://127.0.0.1:{held.getsockname()[1]}/a.png?sig={SECRET}")
    assert (found.kind, found.retryable) == ("io_error", True)
    assert found.message.startswith("cannot be read: ClientConnectorError: Cannot connect to host 127.0.0.1")


@pytest.mark.parametrize(
    "uri", ["http://", f"http:///a.png?{SECRET}", f"http://user:{SECRET}@/a.png", f"http://[::{SECRET}/a"]
)
def test_an_address_that_is_none_is_a_failure(uri):
    assert said(failure(uri))[::2] == ("bad_uri", False)
