"""What executes the model. Every engine is made by `load` and called with pixels; that is all that others rely on."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from beam_pipeline.spec import ResolvedSpec
from beam_pipeline.storage import Storage


class Engine(Protocol):
    """A model loaded and ready.

    Attributes:
      batch_size: the number of pictures that one call takes.
    """

    batch_size: int

    def __call__(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Runs one batch.

        Args:
          pixels: `uint8[batch_size, H, W, 3]`, RGB, 0 to 255.

        Returns:
          For each output column a `float32[batch_size, …]`.
        """
        ...


def load(resolved: ResolvedSpec, storage: Storage, batch_size: int, images: int | None = None) -> Engine:
    """Loads the engine for a spec: TensorFlow, the only one so far.

    Args:
      resolved: what to run.
      storage: the way to the weights.
      batch_size: pictures in a call.
      images: how many pictures this process is likely to see, where that is known. See
        `tensorflow.worth_freezing`.
    """
    from beam_pipeline.engines import tensorflow

    return tensorflow.TensorFlowEngine(resolved, storage, batch_size, images)
