"""The vectors are Keras's own: the job against plain Keras code, with random and with real weights."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import fidelity
import numpy as np
import plain_keras
import pytest

from beam_pipeline import EmbeddingSpec, Work, binding, embed, engines, images, model, open_dataset
from beam_pipeline.applications import APPLICATIONS
from beam_pipeline.spec import LayerOutput
from beam_pipeline.storage import Storage

# max|a-b| / max|b| of each vector. Float32 rounding in another order of sums reaches 2e-6.
TOLERANCE = 1e-5
CUSTOM_SIZE = (96, 128)
# One for each way of preprocessing.
EACH_PREPROCESSING = {"caffe": "ResNet50", "tf": "MobileNetV2", "torch": "DenseNet121", "model": "EfficientNetB0"}


@pytest.mark.slow
@pytest.mark.parametrize("application", APPLICATIONS)
def test_each_application_gives_the_vectors_of_plain_keras(application, tmp_path):
    side = APPLICATIONS[application].default_size
    command = [sys.executable, fidelity.__file__, application, str(tmp_path), f"{side}x{side}"]
    command.append("x".join(map(str, CUSTOM_SIZE)))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == 2
    for size, differences in found.items():
        assert len(differences) == 2
        assert max(differences.values()) <= TOLERANCE, (size, differences)


@pytest.mark.parametrize("application", EACH_PREPROCESSING.values())
def test_each_way_of_preprocessing_gives_the_vectors_of_plain_keras(application, tmp_path):
    found = fidelity.measure(application, tmp_path, [(64, 64), (75, 90)])
    frozen, variable = found["64x64"], found["75x90"]
    assert max(frozen.values()) <= TOLERANCE
    assert set(variable.values()) == {0.0}, "a graph of variables gives Keras's own numbers to the last bit"


def _swapped_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    original = images._rgb
    monkeypatch.setattr(images, "_rgb", lambda *args: _reversed(original(*args)))


def _reversed(image: Any) -> Any:
    from PIL import Image

    return Image.merge("RGB", image.split()[::-1])


def _wrong_preprocessing(monkeypatch: pytest.MonkeyPatch) -> None:
    from keras.applications import mobilenet_v2, resnet

    def other(spec: EmbeddingSpec) -> Any:
        is_tf = APPLICATIONS[spec.model].preprocessing == "tf"
        return (resnet if is_tf else mobilenet_v2).preprocess_input

    monkeypatch.setattr(model, "preprocessing", other)


def _shifted_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    original = model._tensor

    def neighbour(parts: Any, asked: LayerOutput, spec: EmbeddingSpec) -> Any:
        layers = parts.named.layers
        place = [layer.name for layer in layers].index(asked.layer)
        same = [at for at in (place + 1, place - 1) if layers[at].output.shape == layers[place].output.shape]
        return original(parts, LayerOutput(layers[same[0]].name, asked.pooling), spec)

    monkeypatch.setattr(model, "_tensor", neighbour)


@pytest.mark.parametrize("mistake", [_swapped_channels, _wrong_preprocessing, _shifted_layer])
@pytest.mark.parametrize("application", EACH_PREPROCESSING.values())
def test_the_comparison_sees_each_mistake(application, mistake, tmp_path, monkeypatch):
    mistake(monkeypatch)
    [differences] = fidelity.measure(application, tmp_path, [(64, 64)]).values()
    assert max(differences.values()) > 10 * TOLERANCE


@pytest.mark.parametrize("pooling", ["avg", "max", "none"])
def test_one_layer_can_be_had_in_every_way_beside_the_pooled_features(pooling, tmp_path):
    paths = fidelity.draw(tmp_path)
    layers = tuple(f"block_6_expand:{way}" for way in ("none", "avg", "max", "flatten"))
    spec = EmbeddingSpec(
        model="MobileNetV2", weights="random:1", target_size=64, pooling=pooling, layers=(*layers, "predictions")
    )
    storage = Storage()
    resolved = binding.resolve(spec, storage)
    outputs = engines.load(resolved, storage, len(paths), 1)(plain_keras.pixels_of(paths, (64, 64)).astype(np.uint8))
    assert list(outputs) == ["embedding", *(layer.replace(":", "_") for layer in layers), "predictions"]
    assert {name: values.shape[1:] for name, values in outputs.items()} == resolved.shape_of
    whole = outputs["block_6_expand_none"]
    assert np.array_equal(outputs["block_6_expand_max"], whole.max(axis=(1, 2)))
    assert plain_keras.difference(outputs["block_6_expand_avg"], whole.mean(axis=(1, 2))) <= TOLERANCE
    assert np.array_equal(outputs["block_6_expand_flatten"], whole.reshape(len(paths), -1))


def test_a_model_built_again_in_one_process_has_the_same_layers(tmp_path):
    spec = EmbeddingSpec(model="InceptionV3", weights="random:1", target_size=75, layers=("conv2d", "mixed8:avg", -2))
    names = [[layer.layer for layer in model.look(spec).layers] for _ in range(2)]
    assert names[0] == names[1]
    assert names[0][:2] == ["conv2d", "mixed8"]
    built = [model.build(spec.resolved(None, model.look(spec).layers), None) for _ in range(2)]
    assert built[0].columns == built[1].columns


def test_random_weights_are_drawn_once_by_the_launcher_and_are_the_same_for_one_seed(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def resolved(seed: int) -> Any:
        return binding.resolve(EmbeddingSpec(model="MobileNet", weights=f"random:{seed}", target_size=32), Storage())

    first, again, other = resolved(5), resolved(5), resolved(6)
    assert first.weights.digest == again.weights.digest != other.weights.digest
    assert Path(first.weights.uri).exists(), "workers get a file, not a seed"


# Real weights and real photographs

REAL = {
    "mobilenet_v2_1.0_224_from_tf2_ptq_int8.h5": ("MobileNetV2", {}, True),
    "mobilenet_2_5_224_tf.h5": ("MobileNet", {"alpha": 0.25}, True),
    "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_224_no_top.h5": ("MobileNetV2", {"alpha": 0.35}, False),
}


def real_keras(name: str, weights: Path, layer: str | None = None) -> Any:
    """The Keras model of a file of real weights, as a notebook builds it; with its top only where it has one."""
    application, arguments, has_top = REAL[name]
    construct = plain_keras.constructor_of(application)
    if not has_top:
        return construct(weights=str(weights), include_top=False, input_shape=(224, 224, 3), pooling="avg", **arguments)
    full = construct(weights=str(weights), **arguments)
    import keras

    pooled = next(x for x in full.layers if isinstance(x, keras.layers.GlobalAveragePooling2D))
    return keras.Model(full.inputs, [keras.layers.Flatten()(pooled.output), full.output])


@pytest.mark.parametrize("name", REAL)
def test_photographs_with_real_weights_give_the_rows_of_plain_keras(name, data, tmp_path):
    application, arguments, has_top = REAL[name]
    paths = sorted(str(path) for path in (data / "photos").iterdir())
    spec = EmbeddingSpec(
        model=application,
        model_args=arguments,
        weights=str(data / "weights" / name),
        pooling="avg",
        layers=("predictions",) if has_top else (),
    )
    finished = embed(str(data / "photos"), str(tmp_path / "out"), spec, work=Work(batch_size=len(paths)))
    assert finished.manifest["counts"]["embedded"] == len(paths)
    found = open_dataset(str(tmp_path / "out"))
    pixels = plain_keras.preprocessed(application, plain_keras.pixels_of(paths, (224, 224)))
    expected = real_keras(name, data / "weights" / name).predict(pixels, batch_size=len(paths), verbose=0)
    columns = ("embedding", "predictions") if has_top else ("embedding",)
    for column, values in zip(columns, expected if has_top else [expected], strict=True):
        uris, vectors = found.to_numpy(column)
        rows = dict(zip(uris, vectors, strict=True))
        ours = np.stack([rows[path] for path in paths])
        assert plain_keras.difference(ours, values) <= TOLERANCE
    if has_top:
        classes = json.loads((data / "imagenet_class_index.json").read_text())
        elephant = rows[str(data / "photos" / "elephant.jpg")]
        assert classes[str(int(elephant.argmax()))][1] == "African_elephant"
