"""A spec refuses what cannot work as soon as it is made, and its fingerprint follows what determines the vectors."""

from __future__ import annotations

import dataclasses
import json
import pickle
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_pipeline.applications import APPLICATIONS
from beam_pipeline.errors import ConfigurationError
from beam_pipeline.spec import (
    DTYPES,
    GRAY16,
    INTERPOLATIONS,
    LAYER_POOLINGS,
    EmbeddingSpec,
    ImagePolicy,
    LayerOutput,
    Limits,
    Output,
    ResolvedSpec,
    WeightsFile,
    WeightsIdentity,
)

IDENTITY = WeightsIdentity("file", "sha256:1")


def spec_of(**changes) -> EmbeddingSpec:
    return EmbeddingSpec(**{"model": "MobileNetV2", "weights": "random:1", "identity": IDENTITY, **changes})


# Mistakes

MISTAKES = [
    ({"model": "resnet50"}, "unknown model 'resnet50'; did you mean 'ResNet50' or"),
    ({"model": "Frobnicator"}, "unknown model 'Frobnicator'; 'beam-embed models' lists all 40"),
    ({"interpolation": "cubic"}, "unknown interpolation 'cubic'; it is one of nearest, bilinear, bicubic, hamming"),
    ({"gray16": "drop"}, "unknown gray16 'drop'; it is one of scale, clip"),
    ({"dtype": "float64"}, "unknown dtype 'float64'; it is one of float32, float16"),
    ({"pooling": "flatten"}, "unknown pooling 'flatten'; it is one of avg, max, none"),
    ({"layers": ["out_relu:sum"]}, "unknown pooling 'sum' for layer 'out_relu'; it is one of avg, max, none, flatten"),
    ({"layers": ["out_relu:"]}, "unknown pooling '' for layer 'out_relu'"),
    ({"layers": [""]}, "expected a layer's name or index, received ''"),
    ({"layers": [":avg"]}, "expected a layer's name or index, received ':avg'"),
    ({"layers": ["a:avg", "b", "a:avg"]}, "layer 'a' with pooling 'avg' is asked for twice"),
    ({"layers": ["a", LayerOutput("a")]}, "layer 'a' with pooling 'none' is asked for twice"),
    ({"layers": [-1, "-1:none"]}, "layer -1 with pooling 'none' is asked for twice"),
    ({"target_size": 31}, "target_size 31x31 is too small for MobileNetV2: each side needs at least 32 pixels"),
    ({"target_size": (224, 31)}, "target_size 224x31 is too small for MobileNetV2"),
    ({"target_size": 0}, "target_size is height and width in pixels, received 0"),
    ({"target_size": -32}, "target_size is height and width in pixels, received -32"),
    ({"target_size": (224,)}, "target_size is height and width in pixels, received (224,)"),
    ({"target_size": (224, 224, 3)}, "target_size is height and width in pixels, received (224, 224, 3)"),
    ({"target_size": (224.0, 224)}, "target_size is height and width in pixels, received (224.0, 224)"),
    ({"target_size": 224.0}, "target_size is height and width in pixels, received 224.0"),
    ({"target_size": "224"}, "target_size is height and width in pixels, received '224'"),
    (
        {"model_args": {"alfa": 1.0}},
        "MobileNetV2 takes no argument 'alfa'; did you mean 'alpha'? It takes: alpha, clas",
    ),
    ({"model_args": {"pooling": "avg"}}, "MobileNetV2 takes no argument 'pooling'"),
    ({"model_args": {"alpha": [1.0]}}, "expected a plain value for 'alpha' of MobileNetV2, received [1.0]"),
    ({"weights": "random:"}, "expected random:SEED with a seed from 0 to 4294967295, received 'random:'"),
    ({"weights": "random:-1"}, "received 'random:-1'"),
    ({"weights": "random:4294967296"}, "received 'random:4294967296'"),
    ({"weights": "random:²"}, "received 'random:²'"),
    ({"weights": "random:1.5"}, "received 'random:1.5'"),
    ({"weights": "ImageNet"}, "weights are 'imagenet', 'random:SEED' or a file ending in .weights.h5 or .h5, received"),
    ({"weights": "model.keras"}, "received 'model.keras'"),
    ({"weights": ""}, "received ''"),
]


@pytest.mark.parametrize(("changes", "message"), MISTAKES, ids=[message[:50] for _, message in MISTAKES])
def test_what_cannot_work_is_refused_when_the_spec_is_made(changes, message):
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        spec_of(**changes)


@pytest.mark.parametrize("app", APPLICATIONS.values(), ids=APPLICATIONS)
def test_every_application_has_its_own_default_and_smallest_size(app):
    assert EmbeddingSpec(model=app.name).target_size == (app.default_size, app.default_size)
    smallest = app.smallest_size
    assert EmbeddingSpec(model=app.name, target_size=smallest).target_size == (smallest, smallest)
    for size in ((smallest - 1, smallest), (smallest, smallest - 1)):
        with pytest.raises(ConfigurationError, match=f"too small for {app.name}: .* at least {smallest} pixels"):
            EmbeddingSpec(model=app.name, target_size=size)


@pytest.mark.parametrize("weights", ["imagenet", "random:0", "random:4294967295", "s3://b/a.weights.h5", "/a/b.h5"])
def test_weights_that_can_be_had_are_accepted(weights):
    spec = spec_of(weights=weights)
    assert spec.random_seed == (int(weights[7:]) if weights.startswith("random:") else None)


@pytest.mark.parametrize("size", [(32, 48), [32, 48]])
def test_the_target_size_is_height_then_width(size):
    assert spec_of(target_size=size).image == ImagePolicy((32, 48))


@pytest.mark.parametrize("name", ["max_image_bytes", "max_pixels"])
@pytest.mark.parametrize("value", [0, -1])
def test_limits_that_let_nothing_through_are_refused(name, value):
    with pytest.raises(ConfigurationError, match=f"{name} must be at least 1, received {value}"):
        Limits(**{name: value})
    assert getattr(Limits(**{name: 1}), name) == 1


# Layers and outputs


@pytest.mark.parametrize(
    ("text", "layer"),
    [
        ("fc1", LayerOutput("fc1", "none")),
        ("block5_pool:avg", LayerOutput("block5_pool", "avg")),
        ("block5_pool:flatten", LayerOutput("block5_pool", "flatten")),
        ("-1", LayerOutput(-1, "none")),
        (-1, LayerOutput(-1, "none")),
        ("17:max", LayerOutput(17, "max")),
        ("-3:none", LayerOutput(-3, "none")),
        ("--1", LayerOutput("--1", "none")),
        ("1-2", LayerOutput("1-2", "none")),
        ("-", LayerOutput("-", "none")),
        ("conv²", LayerOutput("conv²", "none")),
        ("²", LayerOutput("²", "none")),
        ("a:b:avg", LayerOutput("a:b", "avg")),
    ],
)
def test_a_layer_is_a_name_or_an_index_with_its_pooling_behind_it(text, layer):
    assert LayerOutput.parse(text) == layer


def test_a_layer_made_directly_is_checked_too():
    with pytest.raises(ConfigurationError, match="unknown pooling 'sum' for layer 'fc1'"):
        LayerOutput("fc1", "sum")


OUTPUTS = [
    ({}, [("embedding", None, "avg")]),
    ({"pooling": "max"}, [("embedding", None, "max")]),
    ({"pooling": "none"}, [("embedding", None, "none")]),
    ({"layers": ["a:avg"]}, [("a", "a", "avg")]),
    ({"layers": ["b", "a:max"], "pooling": "avg"}, [("embedding", None, "avg"), ("b", "b", "none"), ("a", "a", "max")]),
    ({"layers": ["a", "b", "a:avg"]}, [("a_none", "a", "none"), ("b", "b", "none"), ("a_avg", "a", "avg")]),
    ({"layers": ["embedding"]}, [("embedding", "embedding", "none")]),
]


@pytest.mark.parametrize(("changes", "outputs"), OUTPUTS)
def test_a_column_is_named_after_its_layer_and_its_pooling_only_where_it_must(changes, outputs):
    assert spec_of(**changes).outputs == tuple(Output(*output) for output in outputs)


@pytest.mark.parametrize(
    ("changes", "column"),
    [
        ({"layers": ["embedding"], "pooling": "avg"}, "embedding"),
        ({"layers": ["a:avg", "a:max", "a_max"]}, "a_max"),
    ],
)
def test_two_outputs_of_one_name_are_refused(changes, column):
    with pytest.raises(ConfigurationError, match=f"two outputs would both be called '{column}'"):
        _ = spec_of(**changes).outputs


def test_an_index_has_no_column_before_it_is_resolved():
    spec = spec_of(layers=[-1])
    with pytest.raises(ConfigurationError, match="has no name before the launcher has resolved it"):
        _ = spec.outputs
    assert spec.resolved(IDENTITY, [LayerOutput("out_relu")]).outputs == (Output("out_relu", "out_relu", "none"),)


def test_the_size_of_a_row_is_that_of_all_its_outputs():
    shapes = (("embedding", (1280,)), ("map", (7, 7, 320)))
    file = WeightsFile("/a.h5", "sha256:1", "file")
    for dtype, width in (("float32", 4), ("float16", 2)):
        resolved = ResolvedSpec(spec_of(dtype=dtype), shapes, file, 1)
        assert resolved.vector_bytes == (1280 + 7 * 7 * 320) * width
        assert resolved.shape_of == dict(shapes)


# Fingerprint

SPECS = st.fixed_dictionaries(
    {
        "model": st.sampled_from(["MobileNetV2", "ResNet50", "InceptionV3"]),
        "include_top": st.booleans(),
        "pooling": st.sampled_from([None, "avg", "max", "none"]),
        "layers": st.lists(
            st.builds(LayerOutput, st.sampled_from(["a", "b", "c"]), st.sampled_from(LAYER_POOLINGS)),
            unique=True,
            max_size=3,
        ),
        "target_size": st.sampled_from([None, 96, (96, 128), (128, 96)]),
        "interpolation": st.sampled_from(INTERPOLATIONS),
        "keep_aspect_ratio": st.booleans(),
        "exif_orientation": st.booleans(),
        "gray16": st.sampled_from(GRAY16),
        "dtype": st.sampled_from(DTYPES),
        "normalize": st.booleans(),
        "identity": st.builds(WeightsIdentity, st.sampled_from(["imagenet", "file"]), st.sampled_from(["1", "2"])),
        "model_args": st.dictionaries(st.sampled_from(["classes", "classifier_activation"]), st.integers(1, 3)),
    }
)
# What one sets and the other reads as the same: defaults spelt out.
MEANING = ("model", "arguments", "outputs", "image", "dtype", "normalize", "identity")


@settings(deadline=None, max_examples=300)
@given(SPECS, SPECS)
def test_two_specs_share_a_fingerprint_only_where_they_mean_the_same(one, other):
    # Half of the fields are shared, so that pairs often differ in a single one.
    mixed = {name: value if place % 2 else one[name] for place, (name, value) in enumerate(other.items())}
    for fields in (other, mixed):
        a, b = EmbeddingSpec(**one), EmbeddingSpec(**fields)
        same = all(getattr(a, name) == getattr(b, name) for name in MEANING)
        assert (a.fingerprint == b.fingerprint) == same


CHANGES = [
    {"model": "MobileNet"},
    {"model_args": {"alpha": 0.5}},
    {"model_args": {"classes": 10}},
    {"pooling": "max"},
    {"pooling": "none"},
    {"layers": ["a"]},
    {"layers": ["a"], "pooling": "avg"},
    {"layers": ["a:avg"], "pooling": "avg"},
    {"layers": ["a", "b"]},
    {"layers": ["b", "a"]},
    {"target_size": 96},
    {"target_size": (96, 128)},
    {"target_size": (128, 96)},
    *({"interpolation": name} for name in INTERPOLATIONS if name != "nearest"),
    {"keep_aspect_ratio": True},
    {"exif_orientation": True},
    {"gray16": "clip"},
    {"dtype": "float16"},
    {"normalize": True},
    {"identity": WeightsIdentity("imagenet", "sha256:1")},
    {"identity": WeightsIdentity("file", "sha256:2")},
]


def test_each_field_that_determines_the_vectors_changes_the_fingerprint():
    prints = [spec_of(**changes).fingerprint for changes in ({}, *CHANGES)]
    assert len(set(prints)) == len(CHANGES) + 1
    assert all(re.fullmatch("[0-9a-f]{64}", one) for one in prints)
    # `include_top` only builds more layers to ask for: no output depends on it.
    fields = {name for changes in CHANGES for name in changes} | {"weights", "include_top"}
    assert fields == {field.name for field in dataclasses.fields(EmbeddingSpec)}, "a new field belongs in this table"


@pytest.mark.parametrize(
    "changes",
    [
        {"weights": "/elsewhere/b.weights.h5"},
        {"weights": "s3://bucket/b.h5"},
        {"weights": "random:2"},
        {"model_args": {"classes": 10, "alpha": 0.5}},
        {"model_args": (("alpha", 0.5), ("classes", 10))},
        {"pooling": "avg"},
        {"target_size": 224},
        {"target_size": [224, 224]},
        {"include_top": True},
    ],
)
def test_what_does_not_determine_the_vectors_does_not_change_it(changes):
    plain = {"model_args": {"alpha": 0.5, "classes": 10}} if "model_args" in changes else {}
    assert spec_of(**changes).fingerprint == spec_of(**plain).fingerprint


def test_the_fingerprint_is_the_same_from_version_to_version():
    # Datasets on disk hold it: a change here makes every one of them refuse its next run.
    assert spec_of().fingerprint == "614628ca914e3b356984e8998ac92aee0f049ad0d71e5ac9330da7e225fe2a85"


def test_a_spec_whose_weights_are_not_resolved_has_no_fingerprint():
    with pytest.raises(ConfigurationError, match="no fingerprint before its weights are resolved"):
        _ = spec_of(identity=None).fingerprint


@settings(deadline=None)
@given(SPECS)
def test_a_spec_survives_pickling_and_its_json_survives_json(fields):
    spec = EmbeddingSpec(**fields)
    again = pickle.loads(pickle.dumps(spec))
    assert again == spec
    assert again.fingerprint == spec.fingerprint
    assert json.loads(json.dumps(spec.to_json())) == spec.to_json()


ARGUMENTS = [("classes", 10), ("alpha", 0.5)]


def test_a_spec_is_frozen_and_can_be_a_key():
    spec = spec_of(layers=["a"], model_args={"alpha": 0.5}, target_size=[96, 96])
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.model = "VGG16"  # type: ignore[misc]
    one, other = (spec_of(model_args=dict(pairs)) for pairs in (ARGUMENTS, reversed(ARGUMENTS)))
    assert (one == other, hash(one) == hash(other)) == (True, True)
    assert {spec: 1}[spec_of(layers=("a",), model_args={"alpha": 0.5}, target_size=96)] == 1


def test_the_identity_of_weights_is_theirs_wherever_they_lie():
    here, there = (WeightsFile(uri, "sha256:1", "imagenet") for uri in ("/a.h5", "s3://b/c.h5"))
    assert here.identity == there.identity == WeightsIdentity("imagenet", "sha256:1")


def test_a_width_multiplier_has_one_fingerprint_however_it_is_written():
    assert spec_of(model_args={"alpha": 1}).fingerprint == spec_of(model_args={"alpha": 1.0}).fingerprint


def test_one_layer_alone_is_not_taken_letter_by_letter():
    with pytest.raises(ConfigurationError, match="layers is a sequence of layers, received 'fc1'"):
        spec_of(layers="fc1")
