"""Measures one application: the job's vectors against plain Keras code, as JSON. One model for each process.

    python tests/fidelity.py ResNet50 FOLDER 224x224 180x150

Prints `{"224x224": {"embedding": 1.2e-07, "conv3_block2_out": 0.0}, ...}`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import plain_keras
from fakes import references
from PIL import Image

from beam_pipeline import EmbeddingSpec, binding
from beam_pipeline.embedder import Embedder
from beam_pipeline.engines import load
from beam_pipeline.storage import Storage

# Not square and not of any network's size, so that every picture is resized.
PICTURES = {"a.png": (310, 250), "b.png": (200, 330)}


def draw(folder: Path) -> list[str]:
    """Pictures with structure at several scales and strong, different colours in the three channels."""
    rng = np.random.default_rng(3)
    for name, (height, width) in PICTURES.items():
        layers = [
            np.asarray(
                Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)).resize((width, height)),
                np.float32,
            )
            for cells in (3, 17, 90)
        ]
        pixels = 0.5 * layers[0] + 0.3 * layers[1] + 0.2 * layers[2]
        Image.fromarray((pixels * (1.0, 0.7, 0.4)).astype(np.uint8)).save(folder / name)
    return [str(folder / name) for name in PICTURES]


def through_the_job(
    application: str, weights: str, paths: list[str], size: tuple[int, int], layer: str, images: int | None
) -> dict[str, np.ndarray]:
    """The same vectors as the embed step computes them; `images` decides whether the graph is frozen."""
    spec = EmbeddingSpec(model=application, weights=weights, pooling="avg", layers=(layer,), target_size=size)
    storage = Storage()
    resolved = binding.resolve(spec, storage)
    engine = load(resolved, storage, len(paths), images)
    [embedded] = Embedder(resolved, engine, storage).embed(references(paths))
    assert not embedded.failures
    return {
        name: np.stack([np.asarray(value).reshape(shape) for value in _values(embedded.rows.column(name))])
        for name, shape in resolved.shapes
    }


def _values(column: object) -> list:
    return getattr(column, "storage", column).to_pylist()


def measure(application: str, folder: Path, sizes: list[tuple[int, int]]) -> dict[str, dict[str, float]]:
    """The differences of the pooled features and of a layer in the middle, for each size."""
    paths = draw(folder)
    weights = str(folder / "random.weights.h5")
    names = plain_keras.random_weights(application, weights, plain_keras.pixels_of(paths, sizes[-1]))
    layer = names[len(names) // 2]
    found = {}
    # Frozen at the first size, as a variable graph at the next.
    for size, images in zip(sizes, (None, 1), strict=False):
        expected = plain_keras.vectors(application, weights, paths, size, [layer])
        ours = through_the_job(application, weights, paths, size, layer, images)
        found["x".join(map(str, size))] = {
            name: plain_keras.difference(ours[name], expected[name]) for name in expected
        }
    return found


if __name__ == "__main__":
    sizes_asked = [tuple(map(int, text.split("x"))) for text in sys.argv[3:]]
    print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]), sizes_asked)))
