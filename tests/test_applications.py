"""The table of applications is what Keras builds, for every one of them."""

from __future__ import annotations

import pytest

from beam_pipeline import EmbeddingSpec, model
from beam_pipeline.applications import APPLICATIONS


@pytest.mark.slow
@pytest.mark.parametrize("name", APPLICATIONS)
def test_sizes_and_parameters_are_those_of_the_network_that_keras_builds(name):
    known = APPLICATIONS[name]
    without = model.look(EmbeddingSpec(model=name, weights="random:1"))
    assert dict(without.shapes) == {"embedding": (known.vector_size,)}
    assert (without.has_top, without.parameters) == (False, known.parameters)
    full = model.look(EmbeddingSpec(model=name, weights="random:1", include_top=True, layers=(-1,)))
    assert [shape for _, shape in full.shapes] == [(1000,)]
    assert (full.has_top, full.parameters) == (True, known.parameters_with_top)


def test_all_forty_are_there():
    assert len(APPLICATIONS) == 40
