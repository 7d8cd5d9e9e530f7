"""Weights as files: their digest, what they hold, a staged copy for the workers, and a verified local one.

Nothing here builds a model; `model.py` does, and `binding.py` decides which file a spec means.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from beam_pipeline.errors import WeightsError
from beam_pipeline.spec import WeightsFile
from beam_pipeline.storage import Storage
from beam_pipeline.uris import is_local, join, local_path, name_of, redacted


def digest_of(path: str) -> str:
    """`sha256:` and the hexadecimal digest of a local file."""
    return "sha256:" + hash_of(path, "sha256")


def hash_of(path: str, algorithm: str) -> str:
    """The hexadecimal hash of a local file."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, algorithm).hexdigest()


def matches_published(path: str, published: str | None) -> bool:
    """Whether a local file has the hash that Keras publishes for it: MD5, or SHA-256 for the newer families."""
    if published is None:
        return False
    return hash_of(path, "sha256" if len(published) == 64 else "md5") == published


def arrays_in(path: str) -> int:
    """How many weight arrays a weights file holds, in either of Keras's two layouts.

    Raises:
      WeightsError: where it is no such file, or a truncated one.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            root = file.get("model_weights", file)
            if "layer_names" in root.attrs:
                return sum(len(root[name].attrs["weight_names"]) for name in root.attrs["layer_names"])
            found: list[str] = []
            file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
    except (OSError, KeyError) as error:
        raise WeightsError(f"the weights file {path!r} is corrupt or truncated: {error}") from error
    # The state of a dropout's random numbers is saved too, and is no weight.
    arrays = [name for name in found if "/vars/" in name and "seed_generator" not in name and "optimizer" not in name]
    if not arrays:
        raise WeightsError(f"{path!r} holds no Keras weights; expected a .weights.h5 or .h5 file")
    return len(arrays)


def stage(path: str, folder: str, route: str, storage: Storage) -> WeightsFile:
    """Copies a local file to where workers reach it, under its digest and its own name.

    Its name is kept because Keras's constructors go by it.
    """
    digest = digest_of(path)
    uri = join(folder, digest.removeprefix("sha256:"), name_of(path))
    if not storage.exists(uri):
        with storage.temporary(uri) as copy:
            shutil.copyfile(path, copy)
            storage.commit(copy, uri)
    return WeightsFile(uri, digest, route)


def local_file(file: WeightsFile, storage: Storage) -> str:
    """A local, verified path of a weights file; downloads it once for each machine.

    Raises:
      WeightsError: where it cannot be had, or its content is not what the launcher saw.
    """
    if is_local(file.uri):
        path = local_path(file.uri)
    else:
        path = join(cache_folder(), file.digest.removeprefix("sha256:"), name_of(file.uri))
        if not os.path.exists(path):
            download(file.uri, path, storage)
    if not os.path.isfile(path):
        raise WeightsError(f"the weights file {file.uri!r} cannot be reached from this worker")
    found = digest_of(path)
    if found != file.digest:
        raise WeightsError(f"the weights file {path!r} has changed: expected {file.digest}, found {found}")
    return path


def download(uri: str, path: str, storage: Storage) -> None:
    """Copies a remote file to a local path, which appears only when it is whole.

    Raises:
      WeightsError: where there is no such file, or it cannot be read.
    """
    try:
        with storage.temporary(path) as part:
            storage.download(uri, part)
            os.replace(part, path)
    except OSError as error:
        reason = redacted(str(error)) or type(error).__name__
        raise WeightsError(f"the weights file {redacted(uri)!r} cannot be read: {reason}") from error


def cache_folder() -> str:
    """Where this machine keeps downloaded weights: `beam-embed/weights` in the user's cache folder."""
    return str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "beam-embed" / "weights")
