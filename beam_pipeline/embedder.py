"""Image references -> record batches and failures. It knows neither Beam nor the dataset.

It streams: while the model works on one full batch, the next is being fetched and decoded. A picture that fails
leaves the stream before a batch is formed, so batches stay full and of one shape. Memory depends on the batch size
alone.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from beam_pipeline import schema
from beam_pipeline.engines import Engine
from beam_pipeline.errors import ImageFailure
from beam_pipeline.fetch import fetch
from beam_pipeline.images import DecodedImage, decode, prepare_decoder
from beam_pipeline.references import NO_URI, CarriedColumn, ImageReference, from_transit
from beam_pipeline.results import Embedded, Failed
from beam_pipeline.spec import Limits, ResolvedSpec
from beam_pipeline.storage import Storage

# Batches of pictures that may wait decoded, beside the one in the model: one is enough to keep the model busy, and
# a second evens out large pictures.
BATCHES_AHEAD = 2


@dataclass(frozen=True)
class _Picture:
    reference: ImageReference
    image: DecodedImage
    sha256: str
    size_bytes: int
    source_version: str | None


def default_threads() -> int:
    """Threads that fetch and decode: two for each core, since half of their time may go to waiting for storage."""
    return 2 * len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2 * (os.cpu_count() or 1)


class Embedder:
    """Embeds any number of image references with one loaded engine.

    Args:
      resolved: what the engine runs.
      engine: see `engines.Engine`.
      storage: the way to remote pictures.
      limits: what a picture may cost.
      carried: the columns that references carry, with their types.
      threads: how many fetch and decode at once. More help where storage is slow to answer, and cost memory for
        that many encoded pictures.

    Example:
      >>> for embedded in Embedder(resolved, engine, Storage()).embed(references):  # doctest: +SKIP
      ...     print(embedded.rows.num_rows, len(embedded.failures))
    """

    def __init__(
        self,
        resolved: ResolvedSpec,
        engine: Engine,
        storage: Storage,
        *,
        limits: Limits | None = None,
        carried: Sequence[CarriedColumn] = (),
        threads: int | None = None,
    ) -> None:
        self._spec = resolved.spec
        self._engine = engine
        self._storage = storage
        self._limits = limits or Limits()
        self._carried = tuple(carried)
        self._threads = threads or default_threads()
        self.schema = schema.embedding_schema(resolved.spec, resolved.shape_of, carried)
        prepare_decoder()

    def embed(self, references: Iterable[ImageReference]) -> Iterator[Embedded]:
        """Embeds the references, a batch at a time, in their order.

        Raises:
          StoreError: where a whole store cannot be used. Whatever a single picture does is a failure instead.
        """
        with ThreadPoolExecutor(self._threads, "decode") as pool, ThreadPoolExecutor(1, "infer") as model:
            waiting: tuple[list[_Picture], list[Failed], Future[dict[str, np.ndarray]] | None] | None = None
            for pictures, failures in self._batches(self._decoded(references, pool)):
                future = model.submit(self._engine, self._pixels(pictures)) if pictures else None
                if waiting is not None:  # the rows of one batch are built and written while the model is at the next
                    yield self._embedded(*waiting)
                waiting = pictures, failures, future
            if waiting is not None:
                yield self._embedded(*waiting)

    def _decoded(self, references: Iterable[ImageReference], pool: ThreadPoolExecutor) -> Iterator[_Picture | Failed]:
        ahead: deque[Future[_Picture | Failed]] = deque()
        try:
            for reference in references:
                ahead.append(pool.submit(self._picture, reference))
                if len(ahead) > BATCHES_AHEAD * self._engine.batch_size:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()

    def _picture(self, reference: ImageReference) -> _Picture | Failed:
        try:
            if reference.uri is None or reference.problem:
                problem = reference.problem or NO_URI
                raise ImageFailure("read", "no_uri" if problem == NO_URI else "bad_row", problem)
            fetched = fetch(reference.uri, self._limits, self._storage)
            image = decode(fetched.data, self._spec.image, self._limits)
        except ImageFailure as failure:
            failure.__traceback__ = None  # its frames would keep the picture's bytes alive
            failure.__cause__ = failure.__context__ = None
            return Failed(reference, failure)
        sha256 = hashlib.sha256(fetched.data).hexdigest()
        return _Picture(reference, image, sha256, len(fetched.data), fetched.source_version)

    def _batches(self, decoded: Iterable[_Picture | Failed]) -> Iterator[tuple[list[_Picture], list[Failed]]]:
        pictures: list[_Picture] = []
        failures: list[Failed] = []
        for item in decoded:
            if isinstance(item, Failed):
                failures.append(item)
                if len(failures) == self._engine.batch_size:  # told of as they come, and not held for a whole shard
                    yield [], failures
                    failures = []
                continue
            pictures.append(item)
            if len(pictures) == self._engine.batch_size:
                yield pictures, failures
                pictures, failures = [], []
        if pictures or failures:
            yield pictures, failures

    def _pixels(self, pictures: Sequence[_Picture]) -> np.ndarray:
        height, width = self._spec.image.target_size
        # The last batch is padded with black to the one shape that the graph is compiled for.
        pixels = np.zeros((self._engine.batch_size, height, width, 3), np.uint8)
        for place, picture in enumerate(pictures):
            pixels[place] = picture.image.pixels
        return pixels

    def _embedded(
        self, pictures: list[_Picture], failures: list[Failed], future: Future[dict[str, np.ndarray]] | None
    ) -> Embedded:
        vectors: dict[str, np.ndarray] = {}
        if future is not None:
            outputs = future.result()
            vectors = {name: schema.finished(array[: len(pictures)], self._spec) for name, array in outputs.items()}
            pictures, failures, vectors = _without_broken_vectors(pictures, failures, vectors)
        return Embedded(self._rows(pictures, vectors), tuple(failures), sum(p.size_bytes for p in pictures))

    def _rows(self, pictures: Sequence[_Picture], vectors: dict[str, np.ndarray]) -> pa.RecordBatch:
        if not pictures:
            return pa.RecordBatch.from_pylist([], schema=self.schema)
        values: dict[str, list[Any]] = {
            "uri": [p.reference.uri for p in pictures],
            "sha256": [p.sha256 for p in pictures],
            "size_bytes": [p.size_bytes for p in pictures],
            "source_version": [p.source_version for p in pictures],
            "width": [p.image.width for p in pictures],
            "height": [p.image.height for p in pictures],
            "format": [p.image.format for p in pictures],
        }
        for place, column in enumerate(self._carried):
            values[column.name] = [p.reference.carried[place] for p in pictures]
        arrays = [
            schema.vector_array(vectors[field.name], field.type)
            if field.name in vectors
            else from_transit(values[field.name], field.type)
            for field in self.schema
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)


def _without_broken_vectors(
    pictures: list[_Picture], failures: list[Failed], vectors: dict[str, np.ndarray]
) -> tuple[list[_Picture], list[Failed], dict[str, np.ndarray]]:
    """Takes out the rows whose vectors hold NaN or infinity, in float16 also what is above 65,504."""
    good = np.ones(len(pictures), bool)
    for array in vectors.values():
        good &= np.isfinite(array.reshape(len(pictures), -1)).all(axis=1)
    if good.all():
        return pictures, failures, vectors
    broken = ImageFailure(
        "infer", "not_finite", f"the vector holds what is no finite {next(iter(vectors.values())).dtype}"
    )
    failed = [Failed(p.reference, broken) for p, fine in zip(pictures, good, strict=True) if not fine]
    kept = [p for p, fine in zip(pictures, good, strict=True) if fine]
    return kept, failures + failed, {name: array[good] for name, array in vectors.items()}
