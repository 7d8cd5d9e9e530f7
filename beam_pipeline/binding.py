"""A user's spec -> a resolved one: layers by name, shapes learnt, weights found, verified, and shared with workers."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace

from beam_pipeline import model, weights
from beam_pipeline.errors import ConfigurationError, WeightsError
from beam_pipeline.spec import EmbeddingSpec, ResolvedSpec, WeightsFile
from beam_pipeline.storage import Storage
from beam_pipeline.uris import absolute, is_local, join, local_path, name_of, redacted


def resolve(spec: EmbeddingSpec, storage: Storage) -> ResolvedSpec:
    """Looks at model and weights once, in the launcher, before any worker starts.

    The model is built first without weights, so that a mistake in a layer's name costs no download.

    Args:
      spec: as the user gave it.
      storage: the way to remote files.

    Returns:
      The resolved spec, with its weights in a file of this machine; see `share`.

    Raises:
      ConfigurationError: for layers that are not there, or arguments that Keras refuses.
      WeightsError: for weights that cannot be had or do not fit.
    """
    named = model.resolve_layers(spec)
    file = _weights_file(spec, storage)
    resolved = spec.resolved(file.identity, named)
    resolved.outputs  # noqa: B018  # raises where two columns would have one name
    built = model.build(resolved, weights.local_file(file, storage))
    shapes = tuple(zip(built.columns, built.shapes, strict=True))
    return ResolvedSpec(resolved, shapes, file, built.network.count_params())


def share(resolved: ResolvedSpec, folder: str, storage: Storage) -> ResolvedSpec:
    """The same spec with its weights copied to a folder that workers on other machines can reach."""
    staged = weights.stage(resolved.weights.uri, folder, resolved.weights.route, storage)
    return replace(resolved, weights=staged)


def _weights_file(spec: EmbeddingSpec, storage: Storage) -> WeightsFile:
    if spec.random_seed is not None:
        with tempfile.TemporaryDirectory(prefix="beam-embed-") as folder:
            path = os.path.join(folder, f"{spec.model}-random-{spec.random_seed}.weights.h5")
            model.draw_weights(spec, spec.random_seed, path)
            return weights.stage(path, weights.cache_folder(), "file", storage)
    if spec.weights == "imagenet":
        path, route = model.download_published(spec, include_top=model.needs_top(spec)), "imagenet"
    else:
        path = _given_file(spec.weights, storage)
        route = "imagenet" if _is_published(spec, path) else "file"
    return WeightsFile(path, weights.digest_of(path), route)


def _given_file(source: str, storage: Storage) -> str:
    uri = absolute(source)
    if is_local(uri):
        path = local_path(uri)
        if not os.path.isfile(path):
            raise WeightsError(f"there is no weights file {source!r}")
        return path
    # Nothing is known of a remote file before it is here: fetched anew for each job, then verified by its digest.
    path = join(weights.cache_folder(), "incoming", name_of(redacted(uri)))
    weights.download(uri, path, storage)
    return path


def _is_published(spec: EmbeddingSpec, path: str) -> bool:
    """Whether a file given by path is the very one that Keras publishes, with or without the top."""
    for include_top in (False, True):
        try:
            published = model.published_file(spec, include_top=include_top)
        except ConfigurationError:
            continue  # nobody has published weights for these arguments
        if weights.matches_published(path, published.hash):
            return True
    return False
