"""Where Keras models are built: a thread in which Keras behaves as in a process that has just begun."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def as_in_a_fresh_process(work: Callable[[], T]) -> T:
    """Runs `work` in a thread of its own, with Keras's defaults.

    Keras counts layer names and keeps its dtype policy for each thread: built a second time in one thread,
    InceptionV3's `conv2d` would be called `conv2d_94`. The order of channels is set for the whole process, and may
    come from the user's keras.json.
    """
    import keras

    found: list[T] = []
    raised: list[BaseException] = []
    talkative = keras.config.is_interactive_logging_enabled()  # for each thread too, so it is handed on

    def run() -> None:
        before = keras.config.image_data_format()
        keras.config.set_image_data_format("channels_last")
        keras.config.set_dtype_policy("float32")
        if not talkative:
            keras.config.disable_interactive_logging()
        try:
            found.append(work())
        except BaseException as error:  # noqa: BLE001  # raised again in the calling thread
            raised.append(error)
        finally:
            keras.config.set_image_data_format(before)

    thread = threading.Thread(target=run, name="keras-model")
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
    return found[0]
