"""A failure crosses process borders whole, mistakes are `ValueError`s, and a message offers the nearest names."""

from __future__ import annotations

import pickle

import pytest

from beam_pipeline.errors import (
    BeamEmbedError,
    ConfigurationError,
    DatasetError,
    DatasetLockedError,
    ImageFailure,
    SpecMismatchError,
    StoreError,
    WeightsError,
    nearest,
)


@pytest.mark.parametrize("retryable", [True, False])
def test_a_failure_is_the_same_after_pickling(retryable):
    failure = ImageFailure("fetch", "not_found", "früh: there is no such file", retryable=retryable)
    again = pickle.loads(pickle.dumps(failure))
    assert type(again) is ImageFailure
    assert (again.stage, again.kind, again.message, again.retryable) == (
        "fetch", "not_found", "früh: there is no such file", retryable,
    )  # fmt: skip
    assert str(again) == str(failure) == failure.message


def test_a_failure_is_not_retryable_unless_it_says_so():
    assert ImageFailure("decode", "corrupt", "torn").retryable is False


@pytest.mark.parametrize("mistake", [ConfigurationError, WeightsError, SpecMismatchError])
def test_mistakes_in_a_call_are_value_errors(mistake):
    assert issubclass(mistake, ValueError)
    assert issubclass(mistake, ConfigurationError)


@pytest.mark.parametrize("state", [DatasetError, DatasetLockedError, StoreError, ImageFailure])
def test_states_of_data_and_stores_are_not_mistakes_in_the_call(state):
    assert issubclass(state, BeamEmbedError)
    assert not issubclass(state, ValueError)


@pytest.mark.parametrize(
    ("wanted", "known", "text"),
    [
        ("block4_pol", ["block4_pool", "fc1"], "; did you mean 'block4_pool'?"),
        ("RESNET50", ["ResNet50", "VGG16"], "; did you mean 'ResNet50'?"),
        ("resnet50", ["Xception", "VGG16"], ";"),
        ("anything", [], ";"),
        ("", ["a", "b"], ";"),
    ],
)
def test_nearest_joins_the_parts_of_a_message(wanted, known, text):
    assert nearest(wanted, known) == text


def test_nearest_offers_three_names_at_most_the_closest_first():
    known = (name for name in ["conv5", "conv1x", "conv12", "conv13", "conv1"])
    text = nearest("conv1", known)
    assert text.startswith("; did you mean 'conv1' or ")
    assert text.count("conv") == 3
