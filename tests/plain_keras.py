"""What a notebook would do: plain Keras code, without a line of beam_pipeline. The vectors are measured against it."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

# With random weights these two overflow: EfficientNetV2L differs from itself by 0.67 between batches of one and of
# four. One pass in training mode puts their batch normalisations where training would have put them.
CHAOTIC = ("EfficientNetV2M", "EfficientNetV2L")


def constructor_of(application: str) -> Callable[..., Any]:
    """`keras.applications.NAME`."""
    import keras

    return getattr(keras.applications, application)


def pixels_of(paths: Sequence[str], size: tuple[int, int]) -> np.ndarray:
    """`float32[N, H, W, 3]`, RGB, 0 to 255."""
    import keras

    images = [keras.utils.load_img(path, target_size=size) for path in paths]
    return np.stack([keras.utils.img_to_array(image) for image in images])


def preprocessed(application: str, pixels: np.ndarray) -> np.ndarray:
    """By `preprocess_input` of the module that defines the constructor."""
    module = importlib.import_module(constructor_of(application).__module__)
    return module.preprocess_input(pixels.copy())


def vectors(
    application: str, weights: str, paths: Sequence[str], size: tuple[int, int], layers: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """The pooled features and the maps of layers, for one batch of pictures.

    Args:
      application: the constructor's name.
      weights: a file for the model without the top.
      paths: of the pictures.
      size: height and width.
      layers: of the model without the top.
    """

    def work() -> dict[str, np.ndarray]:
        import keras

        model = constructor_of(application)(include_top=False, weights=None, pooling="avg", input_shape=(*size, 3))
        model.load_weights(weights)
        outputs = [model.output, *(model.get_layer(layer).output for layer in layers)]
        inputs = preprocessed(application, pixels_of(paths, size))
        found = keras.Model(model.inputs, outputs).predict(inputs, batch_size=len(paths), verbose=0)
        return dict(zip(["embedding", *layers], found, strict=True))

    return in_a_fresh_thread(work)


def random_weights(application: str, path: str, pixels: np.ndarray) -> list[str]:
    """Saves random weights of the model without the top; returns the names of the layers that give maps.

    Args:
      application: the constructor's name.
      path: a `.weights.h5` file to write.
      pixels: a batch of pictures, `float32[N, H, W, 3]`, for the networks in `CHAOTIC`.
    """

    def work() -> list[str]:
        import keras

        keras.utils.set_random_seed(7)
        size = pixels.shape[1:3]
        model = constructor_of(application)(include_top=False, weights=None, pooling="avg", input_shape=(*size, 3))
        if application in CHAOTIC:
            for layer in model.layers:
                if isinstance(layer, keras.layers.BatchNormalization):
                    layer.momentum = 0.0  # the statistics of this one batch alone
            model(preprocessed(application, pixels), training=True)
        model.save_weights(path)
        return [layer.name for layer in model.layers if len(layer.output.shape) == 4][1:]

    return in_a_fresh_thread(work)


def difference(ours: np.ndarray, keras_own: np.ndarray) -> float:
    """The largest max|a-b| / max|b| of any picture's vector."""
    count = len(keras_own)
    a, b = ours.reshape(count, -1).astype(np.float64), keras_own.reshape(count, -1).astype(np.float64)
    return float((np.abs(a - b).max(axis=1) / np.abs(b).max(axis=1)).max())


def in_a_fresh_thread(work: Callable[[], Any]) -> Any:
    """Keras counts the names of layers for each thread: a notebook's first model is the first of its thread."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]
