"""The frozen dataclasses that say what is computed: the spec, its outputs, its image policy, and the limits.

A spec is validated when it is made, costs no I/O, and has a fingerprint once the launcher has resolved it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from beam_pipeline.applications import Application, application
from beam_pipeline.errors import ConfigurationError, nearest

# The names of `keras.utils.load_img`.
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "hamming", "box", "lanczos")
POOLINGS = ("avg", "max", "none")
LAYER_POOLINGS = (*POOLINGS, "flatten")
DTYPES = ("float32", "float16")
GRAY16 = ("scale", "clip")
POOLED_COLUMN = "embedding"


@dataclass(frozen=True)
class ImagePolicy:
    """How the bytes of a picture become `uint8[H, W, 3]`, RGB, 0 to 255.

    Args:
      target_size: height and width in pixels.
      interpolation: one of `INTERPOLATIONS`, as in `keras.utils.load_img`.
      keep_aspect_ratio: crop the centre to the target's proportions before resizing, instead of squeezing.
      exif_orientation: turn the picture upright first. Keras does not.
      gray16: what becomes of 16-bit grey: `scale` keeps the upper eight bits, `clip` is what Keras does, which
        turns everything above 255 white.
    """

    target_size: tuple[int, int]
    interpolation: str = "nearest"
    keep_aspect_ratio: bool = False
    exif_orientation: bool = False
    gray16: str = "scale"


@dataclass(frozen=True)
class Limits:
    """What a picture may cost at most. Limits decide whether there is a vector, not which: no part of the spec.

    Args:
      max_image_bytes: size of the encoded picture in bytes.
      max_pixels: width times height, as the picture's header states it. The default is the number above which
        Pillow itself warns of a decompression bomb: 89,478,485, a quarter of a gibibyte as RGB.
    """

    max_image_bytes: int = 256 * 1024 * 1024
    max_pixels: int = 89_478_485

    def __post_init__(self) -> None:
        for name in ("max_image_bytes", "max_pixels"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be at least 1, received {getattr(self, name)!r}")


@dataclass(frozen=True)
class LayerOutput:
    """A named layer asked for: its name or index, and what is done with its map."""

    layer: str | int
    pooling: str = "none"

    def __post_init__(self) -> None:
        if self.pooling not in LAYER_POOLINGS:
            raise ConfigurationError(
                f"unknown pooling {self.pooling!r} for layer {self.layer!r}; it is one of {', '.join(LAYER_POOLINGS)}"
            )

    @classmethod
    def parse(cls, text: str | int) -> LayerOutput:
        """`block5_pool:avg`, `-1`, `fc1` -> a `LayerOutput`.

        Raises:
          ConfigurationError: for an empty name or an unknown pooling.
        """
        name, colon, pooling = str(text).rpartition(":")
        if not colon:
            name, pooling = str(text), "none"
        if not name:
            raise ConfigurationError(f"expected a layer's name or index, received {text!r}")
        is_index = name.lstrip("-").isdecimal() and name.count("-") <= 1
        return cls(int(name) if is_index else name, pooling)


@dataclass(frozen=True)
class Output:
    """One vector column. `layer` is None for the pooled features."""

    column: str
    layer: str | None
    pooling: str


@dataclass(frozen=True)
class WeightsIdentity:
    """What the weights are, wherever they lie.

    Args:
      route: `imagenet` where Keras builds with its own published file, else `file`. It matters: for
        EfficientNetB0 to B7 Keras adds a layer for the first only.
      digest: `sha256:` and the hexadecimal digest of the content.
    """

    route: str
    digest: str


@dataclass(frozen=True)
class WeightsFile:
    """Where workers find the weights.

    Args:
      uri: absolute path or URI of the file.
      digest: `sha256:` and the hexadecimal digest of its bytes; checked before it is loaded.
      route: see `WeightsIdentity`.
    """

    uri: str
    digest: str
    route: str

    @property
    def identity(self) -> WeightsIdentity:
        """The same, wherever it lies."""
        return WeightsIdentity(self.route, self.digest)


@dataclass(frozen=True, kw_only=True)
class EmbeddingSpec:
    """Everything that determines the vectors.

    Args:
      model: a constructor of `keras.applications`, such as `ResNet50`.
      model_args: further arguments of that constructor, such as `{"alpha": 0.25}`.
      weights: `imagenet`, the path or URI of a weights file (`.weights.h5` or `.h5`), or `random:SEED`.
      include_top: build the classifier on top too, so that its layers can be asked for.
      pooling: `avg`, `max` or `none` for the column `embedding`, the features under the classifier. Left out,
        it is `avg` where no layer is asked for, and otherwise the column is not written.
      layers: names or indices of layers, with `:avg`, `:max`, `:none` or `:flatten` behind them.
      target_size: height and width in pixels, or one number for both. Default: the application's own.
      interpolation: see `ImagePolicy`, as for the three that follow.
      keep_aspect_ratio: see `ImagePolicy`.
      exif_orientation: see `ImagePolicy`.
      gray16: see `ImagePolicy`.
      dtype: type of the stored vectors: `float32`, or `float16`, which no Spark can read.
      normalize: divide each vector by its Euclidean length.
      identity: set by the launcher: what the weights turned out to be.

    Raises:
      ConfigurationError: as soon as the spec is made, for anything that could not work.

    Example:
      >>> EmbeddingSpec(model="ResNet50", weights="random:1").target_size
      (224, 224)
    """

    model: str
    model_args: Mapping[str, Any] | tuple[tuple[str, Any], ...] = ()
    weights: str = "imagenet"
    include_top: bool = False
    pooling: str | None = None
    layers: Sequence[str | int | LayerOutput] = ()
    target_size: int | tuple[int, int] | None = None
    interpolation: str = "nearest"
    keep_aspect_ratio: bool = False
    exif_orientation: bool = False
    gray16: str = "scale"
    dtype: str = "float32"
    normalize: bool = False
    identity: WeightsIdentity | None = None

    def __post_init__(self) -> None:
        app = application(self.model)
        _choice("interpolation", self.interpolation, INTERPOLATIONS)
        _choice("gray16", self.gray16, GRAY16)
        _choice("dtype", self.dtype, DTYPES)
        if isinstance(self.layers, (str, int, LayerOutput)):
            raise ConfigurationError(f"layers is a sequence of layers, received {self.layers!r}")
        layers = tuple(x if isinstance(x, LayerOutput) else LayerOutput.parse(x) for x in self.layers)
        if len(set(layers)) != len(layers):
            twice = next(x for x in layers if layers.count(x) > 1)
            raise ConfigurationError(f"layer {twice.layer!r} with pooling {twice.pooling!r} is asked for twice")
        pooling = self.pooling or (None if layers else "avg")
        if pooling is not None:
            _choice("pooling", pooling, POOLINGS)
        object.__setattr__(self, "layers", layers)
        object.__setattr__(self, "pooling", pooling)
        object.__setattr__(self, "model_args", _checked_arguments(app, dict(self.model_args)))
        object.__setattr__(self, "target_size", _checked_size(app, self.target_size))
        _check_weights_source(self.weights)

    @property
    def arguments(self) -> dict[str, Any]:
        """`model_args` as a dictionary."""
        return dict(self.model_args)

    @property
    def random_seed(self) -> int | None:
        """The seed of `random:SEED`, or None."""
        return int(self.weights[len("random:") :]) if self.weights.startswith("random:") else None

    @property
    def image(self) -> ImagePolicy:
        """The part of the spec that turns bytes into pixels."""
        return ImagePolicy(
            self.target_size,  # type: ignore[arg-type]  # __post_init__ has made it a pair
            self.interpolation,
            self.keep_aspect_ratio,
            self.exif_orientation,
            self.gray16,
        )

    @property
    def outputs(self) -> tuple[Output, ...]:
        """The vector columns in their order: the pooled features, then the layers as they were asked for.

        A column is named after its layer; where one layer is asked for twice, the pooling follows its name.

        Raises:
          ConfigurationError: while a layer is still an index.
        """
        found = [Output(POOLED_COLUMN, None, self.pooling)] if self.pooling else []
        names = [layer.layer for layer in self.layers]  # type: ignore[union-attr]
        for asked in self.layers:
            if not isinstance(asked, LayerOutput) or isinstance(asked.layer, int):
                raise ConfigurationError(f"layer {asked!r} has no name before the launcher has resolved it")
            suffix = f"_{asked.pooling}" if names.count(asked.layer) > 1 else ""
            found.append(Output(asked.layer + suffix, asked.layer, asked.pooling))
        columns = [output.column for output in found]
        for column in columns:
            if columns.count(column) > 1:
                raise ConfigurationError(f"two outputs would both be called {column!r}")
        return tuple(found)

    def resolved(self, identity: WeightsIdentity, layers: Sequence[LayerOutput]) -> EmbeddingSpec:
        """The same spec with what only a look at model and weights can tell."""
        return replace(self, identity=identity, layers=tuple(layers))

    def to_json(self) -> dict[str, Any]:
        """What determines the vectors, and nothing else, as plain JSON values."""
        if self.identity is None:
            raise ConfigurationError("a spec has no fingerprint before its weights are resolved")
        return {
            "application": self.model,
            "arguments": self.arguments,
            "weights": asdict(self.identity),
            "image": asdict(self.image) | {"target_size": list(self.image.target_size)},
            "outputs": [asdict(output) for output in self.outputs],
            "precision": "float32",  # of the arithmetic; the only one so far
            "dtype": self.dtype,
            "normalize": self.normalize,
        }

    @property
    def fingerprint(self) -> str:
        """SHA-256, hexadecimal, of the canonical JSON of `to_json()`."""
        canonical = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


@dataclass(frozen=True)
class ResolvedSpec:
    """A spec after the launcher's look at the model: what a worker needs to build it.

    Args:
      spec: with its layers by name and the identity of its weights.
      shapes: the shape of each output column for one picture, without the batch dimension.
      weights: the file to load.
      parameters: number of weights of the network that runs, for choosing how to run it.
    """

    spec: EmbeddingSpec
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    weights: WeightsFile
    parameters: int

    @property
    def shape_of(self) -> dict[str, tuple[int, ...]]:
        """`shapes` as a dictionary."""
        return dict(self.shapes)

    @property
    def vector_bytes(self) -> int:
        """Bytes that the outputs of one picture take, uncompressed."""
        width = 4 if self.spec.dtype == "float32" else 2
        return sum(math.prod(shape) * width for _, shape in self.shapes)


def _choice(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ConfigurationError(f"unknown {name} {value!r}; it is one of {', '.join(known)}")


def _checked_arguments(app: Application, arguments: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    for name, value in arguments.items():
        if name not in app.arguments:
            known = ", ".join(app.arguments)
            raise ConfigurationError(
                f"{app.name} takes no argument {name!r}{nearest(name, app.arguments)} It takes: {known}"
            )
        if not isinstance(value, (int, float, str, bool, type(None))):
            raise ConfigurationError(f"expected a plain value for {name!r} of {app.name}, received {value!r}")
    # `alpha=1` and `alpha=1.0` are one network, and must have one fingerprint.
    if isinstance(arguments.get("alpha"), int):
        arguments["alpha"] = float(arguments["alpha"])
    return tuple(sorted(arguments.items()))


def _checked_size(app: Application, size: int | Sequence[int] | None) -> tuple[int, int]:
    if size is None:
        return app.default_size, app.default_size
    pair = tuple(size) if isinstance(size, Sequence) else (size, size)
    if len(pair) != 2 or not all(isinstance(side, int) and side > 0 for side in pair):
        raise ConfigurationError(f"target_size is height and width in pixels, received {size!r}")
    if min(pair) < app.smallest_size:
        raise ConfigurationError(
            f"target_size {pair[0]}x{pair[1]} is too small for {app.name}: "
            f"each side needs at least {app.smallest_size} pixels"
        )
    return pair[0], pair[1]


def _check_weights_source(source: str) -> None:
    if source == "imagenet":
        return
    if source.startswith("random:"):
        seed = source[len("random:") :]
        # Keras takes seeds of 32 bits.
        if not seed.isdecimal() or int(seed) >= 2**32:
            raise ConfigurationError(f"expected random:SEED with a seed from 0 to 4294967295, received {source!r}")
    elif not source.endswith(".h5"):
        raise ConfigurationError(
            f"weights are 'imagenet', 'random:SEED' or a file ending in .weights.h5 or .h5, received {source!r}"
        )
