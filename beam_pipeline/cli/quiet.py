"""Keeps TensorFlow's and Beam's chatter off the screen, unless something is wrong or `--verbose` is given."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import warnings


def silence() -> None:
    """Lowers every known voice. To be called before TensorFlow or Beam is imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    warnings.simplefilter("ignore")
    # Beam logs on the root logger while it is imported, which would set up a handler of its own.
    logging.basicConfig(level=logging.ERROR, force=True)
    # Where a job fails, its error is printed once, at the end; Beam would print it for each thread.
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    logging.getLogger("absl").setLevel(logging.ERROR)


def import_tensorflow() -> None:
    """Imports TensorFlow with its greeting held back.

    The greeting is written to file descriptor 2 by C++ code before it looks at any setting
    (tensorflow/tensorflow 62770), so the descriptor itself is turned away for that moment.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            import keras
            import tensorflow  # noqa: F401
        except BaseException:
            os.dup2(kept, 2)
            held.seek(0)
            sys.stderr.write(held.read().decode(errors="replace"))
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
    if not sys.stdout.isatty():  # where it is one, Keras shows how far a download of weights is
        keras.config.disable_interactive_logging()
