"""URIs and paths as text: which scheme, absolute, joined, shortened for a message. No I/O."""

from __future__ import annotations

import os
import posixpath
import re
from urllib.parse import unquote

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.\-]*)://")
# The part of a URL that may hold a signature or a password; never shown.
_SECRET = re.compile(r"(?<=://)[^/\s]*@|\?[^\s'\"]*")


def scheme_of(uri: str) -> str:
    """`s3` for `s3://bucket/key`; an empty string for a plain path."""
    match = _SCHEME.match(uri)
    return match.group(1).lower() if match else ""


def is_local(uri: str) -> bool:
    """Whether a URI names a file of this machine: a plain path, or `file://`."""
    return scheme_of(uri) in ("", "file")


def local_path(uri: str) -> str:
    """The path of a local URI. `file://` is percent-decoded; a plain path is taken as it stands."""
    if scheme_of(uri) != "file":
        return uri
    rest = uri[len("file://") :]
    host, slash, path = rest.partition("/")
    if host.lower() in ("", "localhost"):
        rest = slash + path
    return unquote(rest)


def absolute(uri: str, base: str = "") -> str:
    """The form in which a URI is stored: an absolute local path, or the URI as given.

    Args:
      uri: a path or URI; a relative path is taken from `base`.
      base: a folder; the working directory where it is empty.
    """
    if not is_local(uri):
        return uri
    path = local_path(uri)
    if os.path.isabs(path):
        return path  # literally: normalising '..' could name another file behind a symbolic link
    if base and not is_local(base):
        while path.startswith(("./", "../")):  # object stores have no such names: './a' would be another key
            up, _, path = path.partition("/")
            base = parent(base) if up == ".." else base
        return join(base, path)
    return os.path.normpath(os.path.join(os.path.abspath(local_path(base)), path))


def join(base: str, *names: str) -> str:
    """Joins names to a folder with single slashes, without touching the scheme."""
    head = _head(base)
    return "/".join([base[:head] + base[head:].rstrip("/"), *names])


def parent(uri: str) -> str:
    """The folder of a file."""
    head = _head(uri)
    slash = uri.rfind("/", head)
    return uri[: max(slash, head + 1)] if slash >= 0 else uri[:head]


def _head(uri: str) -> int:
    """The length of `s3://` and the like, which is no part of a path."""
    match = _SCHEME.match(uri)
    return match.end() if match else 0


def name_of(uri: str) -> str:
    """The last component of a path or URI."""
    return posixpath.basename(uri.rstrip("/"))


def without_query(uri: str) -> str:
    """A web address without its query, such as a signature; everything else as it stands, since `?` may be a name's."""
    return uri.partition("?")[0] if scheme_of(uri) in ("http", "https") else uri


def redacted(text: str) -> str:
    """The text without user names, passwords and query strings of the URIs in it."""
    return _SECRET.sub("", text) if "://" in text else text
