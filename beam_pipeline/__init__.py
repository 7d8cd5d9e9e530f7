"""beam-embed: a corpus of images -> embeddings by pretrained Keras models, in batch, on Apache Beam.

The public names, nothing else. Each is imported when it is first used, so that the package itself costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from beam_pipeline.version import VERSION as __version__

if TYPE_CHECKING:
    from beam_pipeline.dataset.reading import EmbeddingDataset, open_dataset
    from beam_pipeline.errors import BeamEmbedError, ConfigurationError, DatasetError, ImageFailure
    from beam_pipeline.job import Work
    from beam_pipeline.launcher import Finished, embed
    from beam_pipeline.spec import EmbeddingSpec, Limits
    from beam_pipeline.stages.embed import EmbedImages

_HOMES = {
    "BeamEmbedError": "errors",
    "ConfigurationError": "errors",
    "DatasetError": "errors",
    "EmbedImages": "stages.embed",
    "EmbeddingDataset": "dataset.reading",
    "EmbeddingSpec": "spec",
    "Finished": "launcher",
    "ImageFailure": "errors",
    "Limits": "spec",
    "Work": "job",
    "embed": "launcher",
    "open_dataset": "dataset.reading",
}
__all__ = [
    "BeamEmbedError",
    "ConfigurationError",
    "DatasetError",
    "EmbedImages",
    "EmbeddingDataset",
    "EmbeddingSpec",
    "Finished",
    "ImageFailure",
    "Limits",
    "Work",
    "__version__",
    "embed",
    "open_dataset",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"beam_pipeline.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'beam_pipeline' has no attribute {name!r}")
