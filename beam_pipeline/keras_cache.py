"""The one place between Keras's constructors and its download cache: which published file they want, and from where.

With `weights="imagenet"` a constructor calls `file_utils.get_file` and then `Model.load_weights`. Keras has no public
way to be told "this is the file", and passing the path instead gives other vectors for EfficientNetB0 to B7, which
add a `Rescaling` layer for the word `imagenet` only (keras-team/keras 15930). So both calls are watched here, for the
calling thread alone.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

# What `no_file` gives Keras in place of a path, and what is then not loaded.
NO_FILE = "no-file.weights.h5"


@dataclass(frozen=True)
class PublishedFile:
    """A weights file that Keras publishes.

    Args:
      name: under which Keras looks for it in the folder `models` of its home.
      url: where Keras would download it from.
      hash: MD5 or SHA-256 in hexadecimal, or None for the two families without (MobileNet and MobileNetV2).
    """

    name: str
    url: str
    hash: str | None


Provide = Callable[[PublishedFile, Callable[[], str]], str]


class _Watch(threading.local):
    provide: Provide | None = None


_watch = _Watch()
_install_lock = threading.Lock()


@contextlib.contextmanager
def providing(provide: Provide) -> Iterator[None]:
    """Inside, Keras's constructors in this thread get the paths that `provide` returns.

    Args:
      provide: called with the file that is wanted and with Keras's own way to get it, which downloads.
    """
    _install()
    _watch.provide = provide
    try:
        yield
    finally:
        _watch.provide = None


def no_file(file: PublishedFile, download: Callable[[], str]) -> str:
    """Lets `weights="imagenet"` build the network it would build, and leaves its weights as they are drawn."""
    return NO_FILE


def cache_path(name: str) -> str:
    """Where Keras looks for a published file on this machine."""
    from keras.src.backend import config

    return os.path.join(os.path.expanduser(config.keras_home()), "models", name)


def _install() -> None:
    """Puts the watchers in place once for the process; without a `provide` in their thread they do nothing."""
    from keras.src.models import model as model_module
    from keras.src.utils import file_utils

    with _install_lock:
        if getattr(file_utils.get_file, "beam_embed", False):
            return
        original_get, original_load = file_utils.get_file, model_module.Model.load_weights

        def get_file(fname: str | None = None, origin: str | None = None, *args: Any, **kwargs: Any) -> str:
            provide = _watch.provide
            if provide is None:
                return original_get(fname, origin, *args, **kwargs)
            wanted = PublishedFile(str(fname), str(origin), kwargs.get("file_hash") or kwargs.get("md5_hash"))
            return provide(wanted, lambda: original_get(fname, origin, *args, **kwargs))

        def load_weights(self: Any, filepath: Any, *args: Any, **kwargs: Any) -> Any:
            if _watch.provide is not None and filepath == NO_FILE:
                return None
            return original_load(self, filepath, *args, **kwargs)

        get_file.beam_embed = True  # type: ignore[attr-defined]
        file_utils.get_file = get_file
        model_module.Model.load_weights = load_weights
