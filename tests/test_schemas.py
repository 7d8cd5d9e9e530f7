"""What the code writes agrees with the contracts published in `schemas/`, to the last column and key."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes import columns, draw_pictures, fake_resolved, use_fakes

from beam_pipeline import EmbeddingSpec, Work, embed, schema
from beam_pipeline.spec import LayerOutput

PROJECT = Path(__file__).parents[1]
SCHEMAS = PROJECT / "schemas"


def contract(name: str) -> dict[str, Any]:
    """One published contract."""
    found: dict[str, Any] = json.loads((SCHEMAS / f"{name}-v{schema.SCHEMA_VERSION}.json").read_text())
    return found


def check(document: object, name: str) -> None:
    """Raises where a JSON document breaks its contract."""
    rules = contract(name)
    jsonschema.Draft202012Validator.check_schema(rules)
    jsonschema.Draft202012Validator(rules, format_checker=jsonschema.FormatChecker()).validate(document)


@pytest.fixture
def dataset(tmp_path, monkeypatch) -> Path:
    """A dataset of two runs with good, bad and repeated rows and a carried column."""
    use_fakes(monkeypatch)
    paths = draw_pictures(tmp_path / "in", 7)
    rows = [*({"uri": path, "id": i} for i, path in enumerate([*paths, "gone.png", paths[0]])), {"id": 99}]
    (tmp_path / "list.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    spec = EmbeddingSpec(model="MobileNetV2", weights="random:1", target_size=32)
    for run, limit in (("one", 3), ("two", None)):
        work = Work(batch_size=4, images_per_shard=3, limit=limit)
        embed(
            str(tmp_path / "list.jsonl"), str(tmp_path / "out"), spec,
            work=work, run_id=run, keep_columns=["id:int64"], limits=None,
        )  # fmt: skip
    return tmp_path / "out"


def test_every_json_file_of_a_dataset_keeps_its_contract(dataset):
    check(json.loads((dataset / "_dataset.json").read_text()), "dataset")
    for run in ("r-one", "r-two"):
        check(json.loads((dataset / "_runs" / run / "plan.json").read_text()), "plan")
        check(json.loads((dataset / "_runs" / run / "manifest.json").read_text()), "manifest")


def test_every_part_keeps_its_contract(dataset):
    parts = sorted((dataset / "embeddings").rglob("*.parquet"))
    assert len(parts) >= 2
    rules = contract("embeddings")
    for part in parts:
        metadata = pq.read_metadata(part).metadata
        own = {key.decode() for key in metadata if key.startswith(b"beam_embed.")}
        assert own == set(rules["file_metadata"])
        check(json.loads(metadata[schema.PART_KEY]), "part")
        spec = json.loads((dataset / "_dataset.json").read_text())["spec"]
        assert json.loads(metadata[schema.SPEC_KEY]) == spec


def described(fields: Iterable[pa.Field]) -> list[tuple[str, str, bool]]:
    """Fields as the contracts write them: the name of a list's item is the file format's affair."""
    return [(f.name, re.sub(r"\b(item|element): ", "", str(f.type)), f.nullable) for f in fields]


def expand(rules: dict[str, Any], carried: list[pa.Field], outputs: list[pa.Field]) -> list[tuple[str, str, bool]]:
    """The columns of a contract with its places filled in: name, Arrow type, nullable."""
    found = []
    for column in rules["columns"]:
        if "place" in column:
            fields = {"carried columns": carried, "output columns": outputs}[column["place"]]
            found += described(fields)
        else:
            found.append((column["name"], column["arrow"], column["nullable"]))
    return found


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_schema_of_embedding_rows_is_the_published_one(dtype):
    layers = (LayerOutput("block_1", "none"), LayerOutput("block_1", "avg"))
    spec = fake_resolved(EmbeddingSpec(model="MobileNetV2", pooling="avg", layers=layers, dtype=dtype)).spec
    shapes = {"embedding": (5,), "block_1_none": (3, 2, 4), "block_1_avg": (4,)}
    carried = columns("id:int64", "label:string")
    found = schema.embedding_schema(spec, shapes, carried)
    rules = contract("embeddings")
    assert described(found) == expand(rules, schema.carried_fields(carried), [found.field(name) for name in shapes])
    value = {"float32": "float", "float16": "halffloat"}[dtype]
    vector, tensor = (rules["output_types"][kind] for kind in ("vector", "map"))
    for name, kind, shape in (("embedding", vector, "5"), ("block_1_avg", vector, "4"), ("block_1_none", tensor, "")):
        wanted = kind["arrow"].replace("VALUE", value).replace("[D]", f"[{shape}]").replace("[H,W,C]", "[3,2,4]")
        [(_, arrow, nullable)] = described([found.field(name)])
        assert (re.sub(r"\s", "", arrow), nullable) == (re.sub(r"\s", "", wanted), kind["nullable"])


def test_the_schema_of_failure_rows_is_the_published_one(dataset):
    carried = columns("id:int64")
    wanted = expand(contract("failures"), schema.carried_fields(carried), [])
    assert described(schema.failure_schema(carried)) == wanted
    for file in (dataset / "failures").rglob("*.parquet"):
        assert described(pq.read_schema(file)) == wanted


def test_every_stage_and_kind_of_failure_in_the_code_is_published():
    published = {
        column["name"]: set(column["values"]) for column in contract("failures")["columns"] if "values" in column
    }
    code = "\n".join(path.read_text() for path in (PROJECT / "beam_pipeline").rglob("*.py"))
    raised = set(re.findall(r'ImageFailure\(\s*"(\w+)", "(\w+)"', code))
    assert {stage for stage, _ in raised} == published["stage"]
    assert {kind for _, kind in raised} | {"bad_row"} == published["kind"]
