"""Weights: found, downloaded by Keras's own code, verified, and refused with the reason where they do not fit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import plain_keras
import pytest
from fakes import draw_pictures, references, serving

from beam_pipeline import EmbeddingSpec, binding, engines, model
from beam_pipeline.embedder import Embedder
from beam_pipeline.errors import ConfigurationError, WeightsError
from beam_pipeline.spec import WeightsFile
from beam_pipeline.storage import Storage
from beam_pipeline.weights import arrays_in, local_file, stage

NO_TOP = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_96_no_top.h5"


def published_weights(application: str, path: Path, weights: str | None = None, **arguments: Any) -> str:
    """Random weights in the layout of the files that Keras publishes (`.h5`, by layer); returns their MD5."""

    def work() -> None:
        import h5py
        import keras
        from keras.src.legacy.saving import legacy_h5_format

        keras.utils.set_random_seed(11)
        built = plain_keras.constructor_of(application)(weights=weights, **arguments)
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as file:
            legacy_h5_format.save_weights_to_hdf5_group(file, built)

    plain_keras.in_a_fresh_thread(work)
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def homes(tmp_path, monkeypatch) -> Path:
    """A Keras home and a weights cache of this test's own. Returns Keras's folder of weights."""
    from keras.src.backend import config

    (tmp_path / "keras" / "models").mkdir(parents=True)  # without its home, Keras takes a folder of its own choice
    monkeypatch.setattr(config, "_KERAS_DIR", str(tmp_path / "keras"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "keras" / "models"


@pytest.fixture
def server(tmp_path) -> Iterator[tuple[str, Path]]:
    """A web server on loopback: its address, and the folder that it serves."""
    with serving(tmp_path / "served") as address:
        yield address, tmp_path / "served"


def vectors(spec: EmbeddingSpec, paths: list[str]) -> np.ndarray:
    """The column `embedding` as the job computes it."""
    storage = Storage()
    resolved = binding.resolve(spec, storage)
    engine = engines.load(resolved, storage, len(paths), 1)
    [embedded] = Embedder(resolved, engine, storage).embed(references(paths))
    return np.stack(embedded.rows.column("embedding").to_pylist())


def test_imagenet_weights_are_downloaded_once_by_keras_and_give_its_vectors(homes, server, tmp_path, monkeypatch):
    from keras.src.applications import mobilenet_v2

    address, folder = server
    monkeypatch.setattr(mobilenet_v2, "BASE_WEIGHT_PATH", address)
    published_weights("MobileNetV2", folder / NO_TOP, include_top=False, input_shape=(96, 96, 3))
    paths = draw_pictures(tmp_path / "in", 2)
    spec = EmbeddingSpec(model="MobileNetV2", target_size=96)
    ours = vectors(spec, paths)
    assert (homes / NO_TOP).exists()
    (folder / NO_TOP).unlink()
    assert np.array_equal(vectors(spec, paths), ours), "the second time nothing is downloaded"

    def notebook() -> np.ndarray:
        import keras

        built = keras.applications.MobileNetV2(include_top=False, pooling="avg", input_shape=(96, 96, 3))
        return built.predict(
            keras.applications.mobilenet_v2.preprocess_input(plain_keras.pixels_of(paths, (96, 96))), verbose=0
        )

    assert np.array_equal(ours, plain_keras.in_a_fresh_thread(notebook))


def test_weights_that_cannot_be_had_are_named_with_the_place_to_put_them(homes, monkeypatch):
    from keras.src.applications import mobilenet_v2

    # Port 9 is "discard": nothing listens there, so the connection is refused at once.
    monkeypatch.setattr(mobilenet_v2, "BASE_WEIGHT_PATH", "http://127.0.0.1:9/")
    with pytest.raises(WeightsError) as raised:
        binding.resolve(EmbeddingSpec(model="MobileNetV2", target_size=96), Storage())
    message = str(raised.value)
    assert f"wanted: {NO_TOP}" in message
    assert f"from:   http://127.0.0.1:9/{NO_TOP}" in message
    assert f"put it at {homes / NO_TOP}" in message


def test_published_efficientnet_weights_given_as_a_file_count_as_imagenet(homes, tmp_path, monkeypatch):
    """Keras adds a layer for the word `imagenet` alone, and with it gives other vectors (cosine 0.889)."""
    from keras.src.applications import efficientnet

    given = tmp_path / "efficientnetb0_notop.h5"
    digest = published_weights("EfficientNetB0", given, include_top=False, input_shape=(64, 64, 3))
    monkeypatch.setitem(efficientnet.WEIGHTS_HASHES, "b0", ("no top here", digest))
    (homes / given.name).write_bytes(given.read_bytes())
    paths = draw_pictures(tmp_path / "in", 2)

    def notebook(weights: str) -> np.ndarray:
        import keras

        built = keras.applications.EfficientNetB0(
            include_top=False, pooling="avg", input_shape=(64, 64, 3), weights=weights
        )
        return built.predict(plain_keras.pixels_of(paths, (64, 64)), verbose=0)

    expected = plain_keras.in_a_fresh_thread(lambda: notebook("imagenet"))
    by_path = plain_keras.in_a_fresh_thread(lambda: notebook(str(given)))
    assert plain_keras.difference(by_path, expected) > 0.1, "the trap is there"
    for weights in ("imagenet", str(given)):
        spec = EmbeddingSpec(model="EfficientNetB0", weights=weights, target_size=64)
        assert binding.resolve(spec, Storage()).weights.route == "imagenet"
        assert np.array_equal(vectors(spec, paths), expected)


def test_one_weights_file_has_one_fingerprint_wherever_it_lies(homes, tmp_path, server):
    address, folder = server
    spec = EmbeddingSpec(model="MobileNetV2", weights="random:1", target_size=32)
    path = tmp_path / "own.weights.h5"
    model.draw_weights(spec, str(path), seed=1, include_top=False)
    (folder / "elsewhere.weights.h5").write_bytes(path.read_bytes())

    def resolved(source: str) -> Any:
        return binding.resolve(EmbeddingSpec(model="MobileNetV2", weights=source, target_size=32), Storage())

    here, there = resolved(str(path)), resolved(address + "elsewhere.weights.h5")
    assert here.spec.fingerprint == there.spec.fingerprint
    assert Path(there.weights.uri).read_bytes() == path.read_bytes()


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    """Weights of MobileNetV2 at 32 pixels, with and without the top, and spoilt ones."""
    folder = tmp_path_factory.mktemp("weights")
    found = {}
    for name, top in (("plain", False), ("top", True)):
        found[name] = str(folder / f"{name}.weights.h5")
        spec = EmbeddingSpec(model="MobileNetV2", weights="random:1", target_size=32)
        model.draw_weights(spec, found[name], seed=1, include_top=top)
    whole = Path(found["plain"]).read_bytes()
    for name, data in (("truncated", whole[: len(whole) // 2]), ("text", b"no weights at all"), ("empty", b"")):
        found[name] = str(folder / f"{name}.weights.h5")
        Path(found[name]).write_bytes(data)
    return found


@pytest.mark.parametrize("name", ["truncated", "text", "empty"])
def test_a_spoilt_weights_file_is_named_as_such(files, name):
    with pytest.raises(WeightsError, match=f"{name}.weights.h5' is corrupt or truncated"):
        binding.resolve(EmbeddingSpec(model="MobileNetV2", weights=files[name], target_size=32), Storage())


def test_weights_of_another_network_are_refused_with_the_numbers(files):
    with pytest.raises(WeightsError, match=r"do not fit ResNet50: they hold 260 arrays; the model has 318 without"):
        binding.resolve(EmbeddingSpec(model="ResNet50", weights=files["plain"], target_size=32), Storage())
    wide = EmbeddingSpec(model="MobileNetV2", model_args={"alpha": 0.5}, weights=files["plain"], target_size=32)
    with pytest.raises(WeightsError, match="do not fit MobileNetV2 at 32x32"):
        binding.resolve(wide, Storage())


def test_layers_of_the_top_need_weights_with_the_top(files):
    def spec(weights: str) -> EmbeddingSpec:
        return EmbeddingSpec(model="MobileNetV2", weights=files[weights], target_size=32, layers=("predictions",))

    with pytest.raises(WeightsError, match="have no classifier on top"):
        binding.resolve(spec("plain"), Storage())
    assert dict(binding.resolve(spec("top"), Storage()).shapes) == {"predictions": (1000,)}


def test_weights_with_the_top_give_the_features_without_it(files, tmp_path):
    paths = draw_pictures(tmp_path / "in", 2)

    def notebook() -> np.ndarray:
        import keras

        full = keras.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3))
        full.load_weights(files["top"])
        pooled = full.get_layer("global_average_pooling2d").output
        pixels = keras.applications.mobilenet_v2.preprocess_input(plain_keras.pixels_of(paths, (32, 32)))
        return keras.Model(full.inputs, pooled).predict(pixels, verbose=0)

    ours = vectors(EmbeddingSpec(model="MobileNetV2", weights=files["top"], target_size=32), paths)
    assert np.array_equal(ours, plain_keras.in_a_fresh_thread(notebook))


def test_a_file_that_has_changed_since_the_launcher_saw_it_is_refused(files, tmp_path):
    staged = stage(files["plain"], str(tmp_path / "staged"), "file", Storage())
    assert local_file(staged, Storage()) == staged.uri
    with open(staged.uri, "r+b") as handle:
        handle.seek(5000)
        handle.write(b"\0\1\2\3")
    with pytest.raises(WeightsError, match="has changed: expected sha256:"):
        local_file(staged, Storage())


def test_a_worker_fetches_a_remote_file_once_and_verifies_it(files, homes, server):
    address, folder = server
    (folder / "w.weights.h5").write_bytes(Path(files["plain"]).read_bytes())
    digest = "sha256:" + hashlib.sha256((folder / "w.weights.h5").read_bytes()).hexdigest()
    file = WeightsFile(address + "w.weights.h5", digest, "file")
    path = local_file(file, Storage())
    (folder / "w.weights.h5").unlink()
    assert local_file(file, Storage()) == path
    with pytest.raises(WeightsError, match="cannot be read"):
        local_file(WeightsFile(address + "w.weights.h5", "sha256:" + "0" * 64, "file"), Storage())


def test_missing_weights_files_are_errors_before_any_work(tmp_path):
    for source in (str(tmp_path / "none.weights.h5"), "http://127.0.0.1:9/none.weights.h5"):
        with pytest.raises(WeightsError, match=r"none\.weights\.h5"):
            binding.resolve(EmbeddingSpec(model="MobileNetV2", weights=source, target_size=32), Storage())


def test_arguments_that_keras_refuses_are_mistakes_in_the_call():
    spec = EmbeddingSpec(model="MobileNetV2", model_args={"alpha": 0.123}, target_size=96)
    with pytest.raises(ConfigurationError, match=r"keras\.applications\.MobileNetV2 refuses: .*alpha"):
        binding.resolve(spec, Storage())


def test_both_layouts_of_weights_files_are_counted(files, tmp_path):
    published_weights("MobileNetV2", tmp_path / "old.h5", include_top=False, input_shape=(32, 32, 3))
    assert arrays_in(str(tmp_path / "old.h5")) == arrays_in(files["plain"]) == 260


def test_layers_counts_the_layers_that_layer_takes():
    def asked(**more: Any) -> EmbeddingSpec:
        return EmbeddingSpec(model="MobileNetV2", weights="random:1", target_size=32, **more)

    listed = model.list_layers(asked())
    for at in (listed[-1].index, -1, "global_average_pooling2d"):
        found = model.look(asked(layers=(at,)))
        assert [layer.layer for layer in found.layers] == [listed[-1].name]
        assert not found.has_top
