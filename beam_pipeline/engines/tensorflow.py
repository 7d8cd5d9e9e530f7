"""The TensorFlow engine: the network and its preprocessing as one graph from uint8, at one batch shape."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from beam_pipeline import model
from beam_pipeline.spec import ResolvedSpec
from beam_pipeline.storage import Storage
from beam_pipeline.weights import local_file

# Freezing variables into constants lets TensorFlow fold batch normalisation into convolutions: 1.44 times the speed
# for MobileNetV2, 1.2 for ResNet50 on two cores. It costs memory (ConvNeXtLarge 15.4 GB instead of 1.7), hence the
# bound on parameters, and start-up (ResNet50 some ten seconds), hence the pictures that a process must have before
# it pays: ten seconds are what 1,400 pictures save with ResNet50's 26 million parameters.
FREEZE_BELOW_PARAMETERS = 30_000_000
IMAGES_PER_MILLION_PARAMETERS = 60


def worth_freezing(parameters: int, images: int | None) -> bool:
    """Whether the frozen graph is the faster way in all for a job of so many pictures; unknown means many."""
    if parameters > FREEZE_BELOW_PARAMETERS:
        return False
    return images is None or images * 1_000_000 >= IMAGES_PER_MILLION_PARAMETERS * parameters


class TensorFlowEngine:
    """Runs a spec's network; see `Engine`. One inference at a time, however many threads call.

    Raises:
      WeightsError: where the weights cannot be had or do not fit.
    """

    def __init__(self, resolved: ResolvedSpec, storage: Storage, batch_size: int, images: int | None) -> None:
        import tensorflow as tf

        # TF32 keeps ten bits of a float32's mantissa; it is on by default on GPUs.
        tf.config.experimental.enable_tensor_float_32_execution(False)
        self.batch_size = batch_size
        self._lock = threading.Lock()
        self._built = model.build(resolved.spec, local_file(resolved.weights, storage))
        shape = (batch_size, *resolved.spec.image.target_size, 3)
        self._call = self._graph(tf, shape)
        if worth_freezing(resolved.parameters, images):
            self._call = _frozen(self._call)
        # The first call compiles kernels. Paid here, it is not counted as work.
        self(np.zeros(shape, np.uint8))

    def _graph(self, tf: Any, shape: tuple[int, ...]) -> Any:
        network, preprocess = self._built.network, _dividing_as_numpy_does(tf, self._built.preprocess, shape)

        # `preprocess_input` on uint8 tensors is silently wrong for caffe, so the cast comes first.
        @tf.function(input_signature=[tf.TensorSpec(shape, tf.uint8)], autograph=False)
        def run(pixels: Any) -> Any:
            return tf.nest.flatten(network(preprocess(tf.cast(pixels, tf.float32)), training=False))

        return run.get_concrete_function()

    def __call__(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """See `Engine`."""
        import tensorflow as tf

        with self._lock:
            tensors = self._call(tf.constant(pixels))
        return {name: tensor.numpy() for name, tensor in zip(self._built.columns, tensors, strict=True)}


def _dividing_as_numpy_does(tf: Any, preprocess: Callable[[Any], Any], shape: tuple[int, ...]) -> Callable[[Any], Any]:
    """The same function on tensors of a graph, equal to the last bit to what it gives on NumPy arrays.

    TensorFlow's graph optimiser turns `x / 127.5` into `x * (1 / 127.5)`, which is one unit in the last place off for
    a third of all pixels; a network with random weights made 5e-5 of it. It leaves `DivNoNan` alone, which divides as
    fast, and as NumPy does where the divisor is not zero.
    """
    traced = tf.function(preprocess, autograph=False).get_concrete_function(tf.TensorSpec(shape, tf.float32))
    definition = traced.graph.as_graph_def()
    for node in definition.node:
        if node.op == "RealDiv":
            node.op = "DivNoNan"
    given, wanted = traced.inputs[0].name, traced.outputs[0].name
    return lambda images: tf.graph_util.import_graph_def(definition, {given: images}, [wanted], name="")[0]


def _frozen(function: Any) -> Any:
    # The only way to freeze in TensorFlow 2.21; it has had no public name since version 1.
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    return convert_variables_to_constants_v2(function)
