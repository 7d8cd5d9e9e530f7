"""A spec -> a Keras model with the wanted outputs, built as a fresh process would build it.

The pooled features are those of the model without the classifier on top, whatever else is asked for. Where a layer of
the classifier is wanted too, the network runs once: the tail of the model without the top (pooling, and ConvNeXt's
normalisation behind it) is put onto the same map in the model with the top.
"""

from __future__ import annotations

import importlib
import random
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from beam_pipeline import keras_cache
from beam_pipeline.applications import application
from beam_pipeline.errors import ConfigurationError, WeightsError, nearest
from beam_pipeline.keras_thread import as_in_a_fresh_process
from beam_pipeline.spec import POOLED_COLUMN, EmbeddingSpec, LayerOutput
from beam_pipeline.weights import arrays_in


@dataclass(frozen=True)
class BuiltModel:
    """A Keras model ready to be run.

    Args:
      network: `float32[B, H, W, 3]`, preprocessed -> one tensor for each output, in the spec's order.
      preprocess: `float32[B, H, W, 3]`, RGB, 0 to 255 -> the same shape as the network wants it.
      columns: the names of the outputs.
    """

    network: Any
    preprocess: Callable[[Any], Any]
    columns: tuple[str, ...]


@dataclass(frozen=True)
class LayerInfo:
    """One layer as `beam-embed layers` shows it. `shape` has no batch dimension."""

    index: int
    name: str
    type: str
    shape: tuple[int, ...]


@dataclass
class _Parts:
    """The model without the top, and the one with it where it is needed."""

    base: Any
    full: Any | None

    @property
    def named(self) -> Any:
        """The model that layers are looked up in."""
        return self.full if self.full is not None else self.base


def preprocessing(spec: EmbeddingSpec) -> Callable[[Any], Any]:
    """The application's own `preprocess_input`, told the channel order, on float32 tensors."""
    module = importlib.import_module(f"keras.applications.{application(spec.model).module}")
    preprocess: Callable[..., Any] = module.preprocess_input
    return lambda images: preprocess(images, data_format="channels_last")


def build(spec: EmbeddingSpec, path: str | None) -> BuiltModel:
    """Builds the network of a spec whose layers have names.

    Args:
      spec: resolved, or at least with layers by name.
      path: the local weights file, of the route that the spec's identity names; None leaves the weights random.

    Raises:
      WeightsError: where the file does not fit the model.
      ConfigurationError: where Keras refuses the arguments.
    """

    def work() -> BuiltModel:
        network = _network(_parts(spec, path), spec)
        return BuiltModel(network, preprocessing(spec), _columns(spec))

    return as_in_a_fresh_process(work)


@dataclass(frozen=True)
class Look:
    """What building a spec's model without weights tells.

    Args:
      layers: the spec's layers by name.
      has_top: whether the classifier is built.
      shapes: the shape of each output column for one picture.
      parameters: number of weights of the network.
    """

    layers: tuple[LayerOutput, ...]
    has_top: bool
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    parameters: int


def look(spec: EmbeddingSpec) -> Look:
    """Builds the model of a spec once, without weights.

    Raises:
      ConfigurationError: for a layer that is not there, with the nearest names, or that is the input, and for two
        columns of one name.
    """

    def work() -> Look:
        parts = _parts(spec, None)
        layers = tuple(LayerOutput(_layer_of(parts.named, x, spec).name, x.pooling) for x in _layers(spec))
        named = replace(spec, layers=layers)
        network = _network(parts, named)
        shapes = tuple(zip(_columns(named), _static_shapes(network, named), strict=True))
        return Look(layers, parts.full is not None, shapes, network.count_params())

    return as_in_a_fresh_process(work)


def list_layers(spec: EmbeddingSpec) -> list[LayerInfo]:
    """Every layer of the model, with its output's shape at the spec's target size."""
    import keras

    def work() -> list[LayerInfo]:
        model = _parts(spec, None).named
        layers = [layer for layer in model.layers if not isinstance(layer.output, (list, dict))]
        shapes = _static_shapes(keras.Model(model.inputs, [layer.output for layer in layers]), spec)
        index = {id(layer): number for number, layer in enumerate(model.layers)}
        return [
            LayerInfo(index[id(layer)], layer.name, type(layer).__name__, shape)
            for layer, shape in zip(layers, shapes, strict=True)
        ]

    return as_in_a_fresh_process(work)


def published_file(spec: EmbeddingSpec, *, include_top: bool) -> keras_cache.PublishedFile:
    """The weights file that Keras publishes for a spec, found by asking Keras's own constructor.

    Raises:
      ConfigurationError: where there is none, as for an `alpha` nobody has trained.
    """
    asked: list[keras_cache.PublishedFile] = []

    def note(file: keras_cache.PublishedFile, download: Callable[[], str]) -> str:
        asked.append(file)
        return keras_cache.NO_FILE

    _construct(spec, include_top=include_top, imagenet=True, provide=note)
    return asked[0]


def download_published(spec: EmbeddingSpec, *, include_top: bool) -> str:
    """The local path of the published weights, downloaded by Keras unless they are in its cache already.

    Raises:
      WeightsError: naming the file, and where to put it.
    """
    found: list[str] = []

    def get(file: keras_cache.PublishedFile, download: Callable[[], str]) -> str:
        try:
            found.append(download())
        except Exception as error:  # Keras raises a bare Exception for what cannot be downloaded
            raise WeightsError(
                f"the ImageNet weights of {spec.model} cannot be had: {error}\n"
                f"  wanted: {file.name}\n"
                f"  from:   {file.url}\n"
                f"  put it at {keras_cache.cache_path(file.name)}, or give its path as --weights"
            ) from error
        return keras_cache.NO_FILE

    _construct(spec, include_top=include_top, imagenet=True, provide=get)
    return found[0]


def draw_weights(spec: EmbeddingSpec, path: str, *, seed: int, include_top: bool) -> None:
    """Draws random weights for a spec, the same for one seed, and saves them to a `.weights.h5` file."""
    _construct(spec, include_top=include_top, imagenet=False, seed=seed).save_weights(path)


# Building


def _layers(spec: EmbeddingSpec) -> Sequence[LayerOutput]:
    return spec.layers  # type: ignore[return-value]  # EmbeddingSpec has parsed them


def _columns(spec: EmbeddingSpec) -> tuple[str, ...]:
    return tuple(output.column for output in spec.outputs)


def _network(parts: _Parts, spec: EmbeddingSpec) -> Any:
    import keras

    tensors = [_features(parts)] if spec.pooling else []
    tensors += [_tensor(parts, asked, spec) for asked in _layers(spec)]
    network = keras.Model(parts.named.inputs, tensors)
    network.trainable = False
    return network


def _is_imagenet(spec: EmbeddingSpec) -> bool:
    return spec.weights == "imagenet" if spec.identity is None else spec.identity.route == "imagenet"


def _needs_top(spec: EmbeddingSpec, base: Any) -> bool:
    names = {layer.name for layer in base.layers}
    return spec.include_top or any(isinstance(x.layer, str) and x.layer not in names for x in _layers(spec))


def _parts(spec: EmbeddingSpec, path: str | None) -> _Parts:
    imagenet = _is_imagenet(spec)
    base = _construct(spec, include_top=False, imagenet=imagenet)
    with_top = _needs_top(spec, base)
    held = arrays_in(path) if path else 0
    if path and held == len(base.weights) and not with_top:
        _load(base, path, spec)
        return _Parts(base, None)
    if not path and not with_top:
        return _Parts(base, None)
    full = _construct(spec, include_top=True, imagenet=imagenet)
    if path:
        _check_fit(spec, path, held, base, full)
        _load(full, path, spec)
        _hand_down(full, base)
    return _Parts(base, full if with_top else None)


def _check_fit(spec: EmbeddingSpec, path: str, held: int, base: Any, full: Any) -> None:
    if held == len(full.weights):
        return
    if held == len(base.weights):
        raise WeightsError(
            f"the weights {path!r} have no classifier on top, and the layers asked for need one; "
            f"give weights with the top, or ask for layers that 'beam-embed layers --model {spec.model}' lists"
        )
    raise WeightsError(
        f"the weights {path!r} do not fit {spec.model}: they hold {held} arrays; "
        f"the model has {len(base.weights)} without the top and {len(full.weights)} with it"
    )


def _load(model: Any, path: str, spec: EmbeddingSpec) -> None:
    try:
        with warnings.catch_warnings():
            # Keras only warns where a part of the network finds nothing in the file, and leaves it random.
            warnings.filterwarnings("error", "Skipping nested container", UserWarning)
            model.load_weights(path)
    except (ValueError, KeyError, OSError, UserWarning) as error:
        detail = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
        size = "x".join(map(str, spec.image.target_size))
        raise WeightsError(f"the weights {path!r} do not fit {spec.model} at {size}: {detail}") from error


def _hand_down(full: Any, base: Any) -> None:
    """Gives the model without the top the weights of the one with it, whose first layers are the same."""
    owners = [layer for layer in full.layers if layer.weights]
    for layer, owner in zip((layer for layer in base.layers if layer.weights), owners, strict=False):
        layer.set_weights(owner.get_weights())


def _construct(
    spec: EmbeddingSpec,
    *,
    include_top: bool,
    imagenet: bool,
    seed: int | None = None,
    provide: keras_cache.Provide = keras_cache.no_file,
) -> Any:
    """Calls the application's constructor. No weights are loaded: `_load` does that.

    Args:
      spec: what to build.
      include_top: whether with the classifier.
      imagenet: build the network that Keras builds for its own published weights.
      seed: for random weights. Keras's initialisers take their seeds from Python's global `random`, whose state
        is put back afterwards.
      provide: what becomes of Keras's wish for a published file.
    """

    def work() -> Any:
        import keras

        shape = (*spec.image.target_size, 3)
        arguments = dict(spec.arguments)
        if include_top and imagenet and spec.image.target_size != (application(spec.model).default_size,) * 2:
            # Keras refuses another input_shape for the top with its own weights, but not a tensor of that shape.
            arguments["input_tensor"] = keras.Input(shape)
        else:
            arguments["input_shape"] = shape
        if not include_top:
            # Also where only layers are asked for, so that 'layers' and '--layer' count the same ones.
            arguments["pooling"] = None if spec.pooling == "none" else spec.pooling or "avg"
        constructor = getattr(keras.applications, spec.model)
        state = random.getstate()
        if seed is not None:
            random.seed(seed)
        try:
            with keras_cache.providing(provide):
                return constructor(include_top=include_top, weights="imagenet" if imagenet else None, **arguments)
        except WeightsError:
            raise
        except (ValueError, TypeError) as error:
            raise ConfigurationError(f"keras.applications.{spec.model} refuses: {error}") from error
        finally:
            random.setstate(state)

    return as_in_a_fresh_process(work)


def _layer_of(model: Any, asked: LayerOutput, spec: EmbeddingSpec) -> Any:
    listing = f"'beam-embed layers --model {spec.model}{' --include-top' if spec.include_top else ''}'"
    count = len(model.layers)
    if isinstance(asked.layer, int):
        if not -count <= asked.layer < count:
            raise ConfigurationError(
                f"{spec.model} has {count} layers, so there is no layer {asked.layer}; {listing} lists them"
            )
        layer = model.layers[asked.layer]
    else:
        named = {layer.name: layer for layer in model.layers}
        if asked.layer not in named:
            close = nearest(asked.layer, named)
            raise ConfigurationError(f"unknown layer {asked.layer!r} in {spec.model}{close} {listing} lists them all")
        layer = named[asked.layer]
    if type(layer).__name__ == "InputLayer":
        raise ConfigurationError(f"layer {asked.layer!r} of {spec.model} is the input itself, not an output")
    return layer


def _tensor(parts: _Parts, asked: LayerOutput, spec: EmbeddingSpec) -> Any:
    import keras

    output = _layer_of(parts.named, asked, spec).output
    if isinstance(output, (list, tuple, dict)):
        raise ConfigurationError(f"layer {asked.layer!r} of {spec.model} has several outputs")
    if asked.pooling == "none":
        return output
    # A name of its own: left to Keras, it could be that of the model's own pooling, and names are unique in a model.
    name = f"{POOLED_COLUMN}_{asked.layer}_{asked.pooling}"
    if asked.pooling == "flatten":
        return keras.layers.Flatten(data_format="channels_last", name=name)(output)
    if len(output.shape) != 4:
        shape = output.shape[1:]
        raise ConfigurationError(
            f"layer {asked.layer!r} of {spec.model} gives {shape} and no image map, so there is nothing to pool; "
            f"ask for it without ':{asked.pooling}'"
        )
    pooled = {"avg": keras.layers.GlobalAveragePooling2D, "max": keras.layers.GlobalMaxPooling2D}[asked.pooling]
    return pooled(data_format="channels_last", name=name)(output)


def _features(parts: _Parts) -> Any:
    """The output of the model without the top, put onto the model with the top where that is the one that runs."""
    if parts.full is None:
        return parts.base.output
    shared = {layer.name for layer in parts.full.layers}
    layers = parts.base.layers
    last = max(i for i, layer in enumerate(layers) if layer.name in shared and len(layer.output.shape) == 4)
    tensor = parts.full.get_layer(layers[last].name).output
    for layer in layers[last + 1 :]:
        # A copy under a name of its own: the top has pooling of the same name, and names are unique in a model.
        copy = type(layer).from_config(layer.get_config() | {"name": f"{POOLED_COLUMN}_{layer.name}"})
        tensor = copy(tensor)
        copy.set_weights(layer.get_weights())
    return tensor


def _static_shapes(network: Any, spec: EmbeddingSpec) -> tuple[tuple[int, ...], ...]:
    """The output shapes for one picture; MobileNetV3's own input has no size, so they follow from the spec's."""
    import keras

    found = network.compute_output_spec(keras.KerasTensor((1, *spec.image.target_size, 3)))
    tensors = found if isinstance(found, (list, tuple)) else [found]
    return tuple(tuple(tensor.shape[1:]) for tensor in tensors)
