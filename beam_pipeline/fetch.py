"""URIs -> bytes: one picture read from its store, with what the store tells of its version."""

from __future__ import annotations

import datetime
import errno
import os
import stat
from dataclasses import dataclass
from typing import Any

from beam_pipeline.errors import ConfigurationError, ImageFailure, StoreError
from beam_pipeline.spec import Limits
from beam_pipeline.storage import Storage
from beam_pipeline.uris import is_local, local_path, redacted, scheme_of

# Where an fsspec file system's `info` holds something that changes with the content, best first.
_VERSION_KEYS = ("etag", "ETag", "generation", "version_id", "VersionId", "md5Hash", "mtime", "LastModified", "updated")

# Errors that no picture is at fault for: botocore's, google-auth's and azure-core's.
_CREDENTIAL_ERRORS = frozenset(
    {
        "NoCredentialsError",
        "PartialCredentialsError",
        "CredentialRetrievalError",
        "DefaultCredentialsError",
        "RefreshError",
        "ClientAuthenticationError",
    }
)


@dataclass(frozen=True)
class FetchedImage:
    """The encoded picture, and `mtime:…`, `etag:…` or the like where the store tells it."""

    data: bytes
    source_version: str | None


def fetch(uri: str, limits: Limits, storage: Storage) -> FetchedImage:
    """Reads one picture.

    Args:
      uri: an absolute path, or a URI of any scheme that fsspec knows.
      limits: the size in bytes above which it is refused, before it is read where the size is known.
      storage: the way to remote files.

    Raises:
      ImageFailure: with stage `fetch`, and the kind `not_found`, `is_a_folder`, `not_a_file`, `permission_denied`,
        `empty`, `too_many_bytes`, `unknown_scheme`, `bad_uri` or `io_error`.
      StoreError: where the store as a whole cannot be used.
    """
    try:
        fetched = _fetch_local(local_path(uri), limits) if is_local(uri) else _fetch_remote(uri, limits, storage)
    except ConfigurationError as error:
        raise ImageFailure("fetch", "unknown_scheme", str(error)) from error
    except (FileNotFoundError, NotADirectoryError) as error:  # the latter where a file stands in a folder's place
        raise _not_found(uri, error) from error
    except IsADirectoryError as error:
        raise ImageFailure("fetch", "is_a_folder", "expected a file, found a folder") from error
    except PermissionError as error:
        raise _permission_denied() from error
    except ValueError as error:  # an embedded null byte, a malformed URL
        raise ImageFailure("fetch", "bad_uri", redacted(f"not a usable URI: {error}")) from error
    except OSError as error:
        raise _io_failure(error) from error
    if not fetched.data:
        raise ImageFailure("fetch", "empty", "the file has no bytes")
    return fetched


def _not_found(uri: str, error: OSError) -> ImageFailure:
    # fsspec's HTTP file system calls every refusal and every broken connection "not found"; the cause knows better.
    cause = error.__cause__ if scheme_of(uri) in ("http", "https") else None
    status = getattr(cause, "status", None)
    if cause is None or status in (404, 410):
        return ImageFailure("fetch", "not_found", "there is no such file", retryable=True)
    if status in (401, 403):
        return _permission_denied()
    if isinstance(cause, ValueError):
        return ImageFailure("fetch", "bad_uri", f"not a usable URI: {type(cause).__name__}")
    return _unreadable(cause)


def _permission_denied() -> ImageFailure:
    return ImageFailure("fetch", "permission_denied", "the file may not be read", retryable=True)


def _unreadable(error: BaseException) -> ImageFailure:
    message = f"cannot be read: {type(error).__name__}: {redacted(str(error))}"
    return ImageFailure("fetch", "io_error", message, retryable=True)


def _io_failure(error: OSError) -> ImageFailure:
    if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        return ImageFailure("fetch", "bad_uri", f"not a usable path: {os.strerror(error.errno)}")
    reason = error.strerror or redacted(str(error))
    return ImageFailure("fetch", "io_error", f"cannot be read: {type(error).__name__}: {reason}", retryable=True)


def _too_large(size: int, limits: Limits) -> ImageFailure:
    message = f"{size} bytes are more than max_image_bytes={limits.max_image_bytes}"
    return ImageFailure("fetch", "too_many_bytes", message)


def _fetch_local(path: str, limits: Limits) -> FetchedImage:
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError
    if not stat.S_ISREG(status.st_mode):  # a pipe or a device would block for ever
        raise ImageFailure("fetch", "not_a_file", "expected a regular file")
    if status.st_size > limits.max_image_bytes:
        raise _too_large(status.st_size, limits)
    with open(path, "rb") as handle:
        return FetchedImage(handle.read(limits.max_image_bytes), f"mtime:{status.st_mtime_ns}")


def _fetch_remote(uri: str, limits: Limits, storage: Storage) -> FetchedImage:
    try:
        fs, path = storage.filesystem(uri)
    except StoreError as error:  # of this one URI, until a store has answered: a list may hold any scheme
        raise ImageFailure("fetch", "unknown_scheme", redacted(str(error)), retryable=True) from error
    try:
        info = fs.info(path)
        if info.get("type") == "directory":
            raise IsADirectoryError
        size = info.get("size")
        if size is not None and size > limits.max_image_bytes:
            raise _too_large(size, limits)
        data = fs.cat_file(path) if size is not None else _read_bounded(fs, path, limits)
    except (OSError, ValueError, ImageFailure):
        raise
    except Exception as error:  # each file system of fsspec brings errors of its own
        if type(error).__name__ in _CREDENTIAL_ERRORS:
            raise StoreError(f"no access to {scheme_of(uri)}://: {redacted(str(error))}") from error
        raise _unreadable(error) from error
    if len(data) > limits.max_image_bytes:
        raise _too_large(len(data), limits)
    return FetchedImage(data, _version(info))


def _read_bounded(fs: Any, path: str, limits: Limits) -> bytes:
    # A server that states no size may send bytes without end.
    with fs.open(path, "rb") as handle:
        data: bytes = handle.read(limits.max_image_bytes + 1)
    return data


def _version(info: dict[str, Any]) -> str | None:
    for key in _VERSION_KEYS:
        value = info.get(key)
        if value:
            text = value.isoformat() if isinstance(value, datetime.datetime) else str(value).strip('"')
            return f"{key.lower()}:{text}"
    return None
