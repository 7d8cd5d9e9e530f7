"""Every listing, read and write of a file, local or remote, through fsspec; and the one-step commit.

Listing caches are off: s3fs would otherwise deny what another client has just written. Nothing here knows what the
files mean.
"""

from __future__ import annotations

import contextlib
import glob as local_glob
import inspect
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

import fsspec
import pyarrow.fs as pafs
from fsspec.core import url_to_fs

from beam_pipeline.errors import ConfigurationError, StoreError, nearest
from beam_pipeline.uris import is_local, join, local_path, name_of, parent, scheme_of, without_query

GLOB_CHARACTERS = frozenset("*?[")
# Schemes whose file systems take no credentials; a --storage-option without a scheme is not meant for them.
_WITHOUT_OPTIONS = frozenset({"http", "https", "memory", "data"})
# The extra that brings a scheme's package.
_EXTRAS = {"s3": "aws", "s3a": "aws", "gs": "gcp", "gcs": "gcp", "az": "azure", "abfs": "azure", "abfss": "azure"}


@dataclass(frozen=True)
class FileInfo:
    """One file of a listing; its size in bytes only where the listing tells it without a further look."""

    uri: str
    size_bytes: int | None


class Storage:
    """Access to files by URI.

    Args:
      options: for remote file systems, as fsspec's constructors name them. `key` is meant for every object store,
        `s3.key` for the scheme `s3` alone.
    """

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        self.options = dict(options or {})

    def filesystem(self, uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
        """The file system of a URI, and the path in it.

        Raises:
          ConfigurationError: for a scheme that fsspec does not know.
          StoreError: where the scheme's package is missing, or refuses its options.
        """
        if is_local(uri):
            return fsspec.filesystem("file"), local_path(uri)
        scheme = scheme_of(uri)
        if scheme not in fsspec.available_protocols():
            known = nearest(scheme, fsspec.available_protocols())
            raise ConfigurationError(f"unknown scheme {scheme!r}{known} fsspec knows no such file system")
        try:
            # fsspec knows schemes in lower case only; RFC 3986 does not care.
            return url_to_fs(scheme + uri[len(scheme) :], use_listings_cache=False, **self._options_for(scheme))
        except ImportError as error:
            extra = _EXTRAS.get(scheme)
            remedy = f"pip install 'beam-embed[{extra}]'" if extra else str(error)
            raise StoreError(f"reading {scheme}:// needs a package that is not installed: {remedy}") from error
        except (TypeError, ValueError, AttributeError, KeyError) as error:  # each file system checks in its own way
            raise StoreError(f"the file system for {scheme}:// cannot be set up: {error}") from error

    def _options_for(self, scheme: str) -> dict[str, Any]:
        shared: dict[str, Any] = {}
        own: dict[str, Any] = {}
        for key, value in self.options.items():
            prefix, dot, name = key.partition(".")
            if dot and prefix == scheme:
                own[name] = value
            elif not dot and scheme not in _WITHOUT_OPTIONS:
                shared[key] = value
        return shared | own

    def arrow(self, uri: str) -> tuple[pafs.FileSystem, str]:
        """The same as an Arrow file system, for reading Parquet."""
        if is_local(uri):
            return pafs.LocalFileSystem(), local_path(uri)
        fs, path = self.filesystem(uri)
        return pafs.PyFileSystem(pafs.FSSpecHandler(fs)), path

    # Reading

    def open(self, uri: str, *, as_stream: bool = False) -> IO[bytes]:
        """A file opened for reading bytes.

        Args:
          uri: of the file.
          as_stream: it is read from its start to its end, without seeking: what any web server can give.
        """
        if is_local(uri):
            return open(local_path(uri), "rb")
        fs, path = self.filesystem(uri)
        if as_stream and scheme_of(uri) in ("http", "https"):
            return fs.open(path, "rb", block_size=0)
        return fs.open(path, "rb")

    def read(self, uri: str) -> bytes:
        """A whole file."""
        with self.open(uri) as handle:
            return handle.read()

    def download(self, uri: str, path: str) -> None:
        """Copies a whole file to a local path as one stream, which also a web server without ranges can give."""
        if is_local(uri):
            shutil.copyfile(local_path(uri), path)
            return
        fs, remote = self.filesystem(uri)
        fs.get_file(remote, path)

    def exists(self, uri: str) -> bool:
        """Whether there is a file or folder."""
        if is_local(uri):
            return os.path.exists(local_path(uri))
        fs, path = self.filesystem(uri)
        return bool(fs.exists(path))

    def is_folder(self, uri: str) -> bool:
        """Whether there is a folder. On object stores: whether anything lies under that prefix."""
        if is_local(uri):
            return os.path.isdir(local_path(uri))
        fs, path = self.filesystem(uri)
        return bool(fs.isdir(path))

    def list(self, folder: str) -> list[FileInfo]:
        """The files and folders directly in a folder, sorted; nothing where there is no such folder."""
        fs, path = self.filesystem(folder)
        try:
            entries = fs.ls(path, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        named = {name_of(entry["name"]): entry for entry in entries}
        return [FileInfo(join(folder, name), named[name].get("size")) for name in sorted(named) if name]

    def walk(self, folder: str) -> Iterator[FileInfo]:
        """Every file under a folder, sorted by folder and name. Names that begin with a dot are passed over."""
        if is_local(folder):
            yield from _walk_local(local_path(folder))
            return
        fs, path = self.filesystem(folder)
        found = fs.find(path, detail=True)
        for name in sorted(found):
            if not _is_hidden(name[len(path) :]):
                yield FileInfo(fs.unstrip_protocol(name), found[name].get("size"))

    def glob(self, pattern: str) -> Iterator[FileInfo]:
        """Every file that a pattern matches, sorted. `**` stands for any number of folders.

        As in a shell, names that begin with a dot are matched only where the pattern spells that dot.
        """
        if is_local(pattern):
            for path in sorted(local_glob.iglob(local_path(pattern), recursive=True)):
                if os.path.isfile(path):
                    yield FileInfo(path, None)
            return
        fs, path = self.filesystem(pattern)
        found = fs.glob(path, detail=True)
        first = min((path.index(one) for one in GLOB_CHARACTERS & set(path)), default=0)
        spelt = path.rfind("/", 0, first) + 1
        hidden_too = _is_hidden(path[spelt:])
        for name in sorted(found):
            if found[name].get("type") != "directory" and (hidden_too or not _is_hidden(name[spelt:])):
                yield FileInfo(fs.unstrip_protocol(name), found[name].get("size"))

    def matches(self, pattern: str) -> bool:
        """Whether a pattern matches any file. A local folder of millions is not listed to its end for that."""
        if is_local(pattern):
            return any(os.path.isfile(path) for path in local_glob.iglob(local_path(pattern), recursive=True))
        return next(self.glob(pattern), None) is not None

    # Writing

    def create(self, uri: str, data: bytes) -> bool:
        """Writes a file in one step if there is none. False where there was one; that one stays as it is."""
        with self.temporary(uri) as path:
            with open(path, "wb") as handle:
                handle.write(data)
            return self.commit(path, uri)

    def replace(self, uri: str, data: bytes) -> None:
        """Writes a file in one step, over whatever is there."""
        if is_local(uri):
            with self.temporary(uri) as path:
                with open(path, "wb") as handle:
                    handle.write(data)
                os.replace(path, local_path(uri))
            return
        fs, path = self.filesystem(uri)
        fs.pipe_file(path, data)

    @contextlib.contextmanager
    def temporary(self, uri: str) -> Iterator[str]:
        """A local path to write to before `commit`: in the folder of a local URI, so that a link can be made.

        Its name begins with a dot and ends in `.tmp`, so that no reader takes it for data. It is gone afterwards.
        """
        if is_local(uri):
            folder = parent(local_path(uri))
            os.makedirs(folder, exist_ok=True)
            path = join(folder, f".{name_of(uri)}.{uuid.uuid4().hex}.tmp")
            try:
                yield path
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
            return
        folder = tempfile.mkdtemp(prefix="beam-embed-")
        try:
            yield join(folder, "file.tmp")
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def commit(self, path: str, uri: str) -> bool:
        """Puts a finished local file under its final name in one step, if that name is free.

        Local: flushed, then linked, then the folder is flushed. Object stores: one put that is refused where the
        object exists. A store whose put knows no such condition is asked first whether the file is there; between
        the question and the put a second writer may come, and the last one wins.

        Returns:
          False where the name was taken; the file under it stays as it is.
        """
        if is_local(uri):
            return _commit_local(path, local_path(uri))
        fs, remote = self.filesystem(uri)
        try:
            if "mode" in inspect.signature(getattr(fs, "_put_file", fs.put_file)).parameters:
                fs.put_file(path, remote, mode="create")
            elif fs.exists(remote):
                return False
            else:
                fs.put_file(path, remote)
        except FileExistsError:
            return False
        return True

    def delete(self, uri: str) -> None:
        """Removes a file; nothing happens where there is none."""
        with contextlib.suppress(FileNotFoundError):
            if is_local(uri):
                os.unlink(local_path(uri))
            else:
                fs, path = self.filesystem(uri)
                fs.rm_file(path)

    def delete_folder(self, uri: str) -> None:
        """Removes a folder with everything in it."""
        with contextlib.suppress(FileNotFoundError):
            fs, path = self.filesystem(uri)
            fs.rm(path, recursive=True)


def has_glob(uri: str) -> bool:
    """Whether a URI is a pattern. A name that exists as it stands is none, whatever characters it has."""
    return bool(GLOB_CHARACTERS & set(without_query(uri))) and not (is_local(uri) and os.path.exists(local_path(uri)))


def _is_hidden(path: str) -> bool:
    return any(piece.startswith(".") for piece in path.split("/"))


def _commit_local(path: str, final: str) -> bool:
    with open(path, "rb") as handle:
        os.fsync(handle.fileno())
    try:
        os.link(path, final)
    except FileExistsError:
        return False
    folder = os.open(parent(final), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return True


def _walk_local(folder: str) -> Iterator[FileInfo]:
    seen: set[tuple[int, int]] = set()
    for path, folders, names in os.walk(folder, onerror=_cannot_list, followlinks=True):
        status = os.stat(path)
        if (status.st_dev, status.st_ino) in seen:  # a link to a folder above, or a second way to the same pictures
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield FileInfo(os.path.join(path, name), None)


def _cannot_list(error: OSError) -> None:
    # Passed over in silence, a folder without permission would be pictures that nobody accounts for.
    raise StoreError(f"the folder {error.filename!r} cannot be listed: {error.strerror}") from error
