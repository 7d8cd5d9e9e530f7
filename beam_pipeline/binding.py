"""A user's spec -> a resolved one: layers by name, shapes learnt, weights found, verified, and shared with workers."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace

from beam_pipeline import model, weights
from beam_pipeline.errors import ConfigurationError, WeightsError
from beam_pipeline.spec import EmbeddingSpec, ResolvedSpec, WeightsFile
from beam_pipeline.storage import Storage
from beam_pipeline.uris import absolute, is_local, local_path, name_of, without_query


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
    look = model.look(spec)
    file = _weights_file(spec, look.has_top, storage)
    resolved = spec.resolved(file.identity, look.layers)
    if spec.random_seed is None:  # given by others: whether they fit shows only when they are loaded
        model.build(resolved, weights.local_file(file, storage))
    return ResolvedSpec(resolved, look.shapes, file, look.parameters)


def share(resolved: ResolvedSpec, folder: str, storage: Storage) -> ResolvedSpec:
    """The same spec with its weights copied to a folder that workers on other machines can reach."""
    staged = weights.stage(resolved.weights.uri, folder, resolved.weights.route, storage)
    return replace(resolved, weights=staged)


def _weights_file(spec: EmbeddingSpec, has_top: bool, storage: Storage) -> WeightsFile:
    if spec.weights == "imagenet":
        path = model.download_published(spec, include_top=has_top)
        return WeightsFile(path, weights.digest_of(path), "imagenet")
    uri = absolute(spec.weights)
    if spec.random_seed is None and is_local(uri):
        path = local_path(uri)
        if not os.path.isfile(path):
            raise WeightsError(f"there is no weights file {spec.weights!r}")
        return WeightsFile(path, weights.digest_of(path), _route(spec, path))
    # Made or fetched anew for each job, then kept under the digest of what it turned out to be.
    with tempfile.TemporaryDirectory(prefix="beam-embed-") as folder:
        if spec.random_seed is not None:
            path = os.path.join(folder, f"{spec.model}-random-{spec.random_seed}.weights.h5")
            model.draw_weights(spec, path, seed=spec.random_seed, include_top=has_top)
        else:
            path = os.path.join(folder, name_of(without_query(uri)))
            weights.download(uri, path, storage)
        return weights.stage(path, weights.cache_folder(), _route(spec, path), storage)


def _route(spec: EmbeddingSpec, path: str) -> str:
    """`imagenet` for a file given by path that is the very one that Keras publishes, with or without the top."""
    if path.endswith(".weights.h5"):  # what Keras publishes is all of the older layout, and named so
        return "file"
    for include_top in (False, True):
        try:
            published = model.published_file(spec, include_top=include_top)
        except ConfigurationError:
            continue  # nobody has published weights for these arguments
        if weights.matches_published(path, published.hash):
            return "imagenet"
    return "file"
