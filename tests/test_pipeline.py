"""The whole job on Beam's in-process runner with a fake engine: rows, counts, reruns, interrupted runs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes import SPEC, FakeEngine, draw_pictures, fake_resolved, references, use_fakes

from beam_pipeline import ConfigurationError, DatasetError, Work, embed, open_dataset
from beam_pipeline.dataset import publish as publishing
from beam_pipeline.dataset.layout import Layout
from beam_pipeline.embedder import Embedder
from beam_pipeline.errors import SpecMismatchError
from beam_pipeline.launcher import Observer
from beam_pipeline.spec import EmbeddingSpec
from beam_pipeline.storage import Storage

WORK = Work(batch_size=4, images_per_shard=5)


def rows_of(output: Path) -> dict[str, list[float]]:
    """The published embeddings by URI; each URI once."""
    uris, vectors = open_dataset(str(output)).to_numpy()
    assert len(set(uris)) == len(uris)
    return {uri: vector.tolist() for uri, vector in zip(uris, vectors, strict=True)}


def reconciles(manifest: dict) -> None:
    counts = manifest["counts"]
    assert counts["read"] == counts["embedded"] + counts["failed"] + counts["skipped"] + counts["duplicates"]


def test_the_job_gives_the_rows_that_the_embedder_alone_gives(tmp_path, monkeypatch):
    use_fakes(monkeypatch)
    paths = draw_pictures(tmp_path / "in", 23)
    finished = embed(str(tmp_path / "in"), str(tmp_path / "out"), SPEC, work=WORK)
    alone = Embedder(fake_resolved(), FakeEngine(), Storage())
    table = pa.Table.from_batches([batch.rows for batch in alone.embed(references(paths))])
    expected = dict(zip(table["uri"].to_pylist(), table["embedding"].to_pylist(), strict=True))
    assert rows_of(tmp_path / "out") == expected
    assert finished.manifest["counts"] == {
        "read": 23, "embedded": 23, "failed": 0, "skipped": 0, "duplicates": 0, "conflicting": 0,
    }  # fmt: skip
    everything = open_dataset(str(tmp_path / "out")).to_arrow().to_table().sort_by("uri")
    assert everything.drop_columns("embedding") == table.drop_columns("embedding").sort_by("uri")


def test_a_second_run_embeds_only_what_is_new(tmp_path, monkeypatch):
    engines = use_fakes(monkeypatch)
    draw_pictures(tmp_path / "in", 10)
    embed(str(tmp_path / "in"), str(tmp_path / "out"), SPEC, work=WORK)
    before = rows_of(tmp_path / "out")
    engines.clear()
    nothing = embed(str(tmp_path / "in"), str(tmp_path / "out"), SPEC, work=WORK)
    assert nothing.manifest["counts"]["skipped"] == 10
    assert not engines, "nothing new loads no model"
    draw_pictures(tmp_path / "in", 14)
    more = embed(str(tmp_path / "in"), str(tmp_path / "out"), SPEC, work=WORK)
    assert more.manifest["counts"] | {"conflicting": 0} == {
        "read": 14, "embedded": 4, "failed": 0, "skipped": 10, "duplicates": 0, "conflicting": 0,
    }  # fmt: skip
    after = rows_of(tmp_path / "out")
    assert len(after) == 14
    assert {uri: after[uri] for uri in before} == before


def test_duplicates_conflicts_bad_rows_and_bad_pictures_are_each_accounted_for(tmp_path, monkeypatch):
    use_fakes(monkeypatch)
    a, b, c = draw_pictures(tmp_path / "in", 3)
    (tmp_path / "in" / "torn.png").write_bytes(Path(a).read_bytes()[:60])
    listing = tmp_path / "list.jsonl"
    pairs = [(a, 1), (b, 2), (a, 1), (a, 7), (None, 3), ("in/torn.png", 5), ("in/gone.png", 6), (c, None)]
    rows = [*({"uri": uri, "id": number} for uri, number in pairs), {"id": 4}]
    listing.write_text("\n".join(json.dumps(row) for row in rows) + "\nnot json\n\n")
    finished = embed(str(listing), str(tmp_path / "out"), SPEC, work=WORK, keep_columns=["id:int64"])
    assert finished.manifest["counts"] == {
        "read": 10, "embedded": 3, "failed": 5, "skipped": 0, "duplicates": 2, "conflicting": 1,
    }  # fmt: skip
    dataset = open_dataset(str(tmp_path / "out"))
    table = dataset.to_arrow().to_table(columns=["uri", "id"])
    assert dict(zip(table["uri"].to_pylist(), table["id"].to_pylist(), strict=True)) == {a: 1, b: 2, c: None}
    assert table.schema.field("id").type == pa.int64()
    failures = dataset.failures().to_pylist()
    assert sorted((f["stage"], f["kind"], f["id"]) for f in failures if f["id"] is not None) == [
        ("decode", "corrupt", 5), ("fetch", "not_found", 6), ("read", "no_uri", 3), ("read", "no_uri", 4),
    ]  # fmt: skip
    assert [f["kind"] for f in failures if f["id"] is None] == ["bad_row"]
    assert finished.manifest["failures"]["kinds"] == {"no_uri": 2, "corrupt": 1, "not_found": 1, "bad_row": 1}
    assert finished.failure_ratio == 2 / 5, "rows without URI are no pictures that were tried"


def test_failures_that_may_pass_are_tried_again_and_others_are_not(tmp_path, monkeypatch):
    use_fakes(monkeypatch)
    good, late = draw_pictures(tmp_path / "in", 2)
    held = Path(late).read_bytes()
    os.unlink(late)
    (tmp_path / "torn.png").write_bytes(held[:50])
    (tmp_path / "list.txt").write_text("\n".join([good, late, "torn.png"]))

    def run(retry: str = "retryable") -> dict[str, int]:
        work = Work(batch_size=4, retry_failed=retry)
        manifest = embed(str(tmp_path / "list.txt"), str(tmp_path / "out"), SPEC, work=work).manifest
        reconciles(manifest)
        return {**manifest["counts"], **manifest["skipped"], **manifest["first_attempts"]}

    assert run()["failed"] == 2
    none = run("none")
    assert (none["embedded"], none["already_embedded"], none["already_failed"]) == (0, 1, 2)
    assert run()["already_failed"] == 1, "the missing file is tried again, the torn one is not"
    Path(late).write_bytes(held)
    third = run()
    assert (third["embedded"], third["failed"], third["tried"]) == (1, 0, 0)
    assert run("all")["already_embedded"] == 2


def test_an_interrupted_run_is_adopted_and_its_parts_are_not_computed_again(tmp_path, monkeypatch):
    engines = use_fakes(monkeypatch)
    paths = draw_pictures(tmp_path / "in", 24)
    publish = publishing.publish
    monkeypatch.setattr("beam_pipeline.stages.publish.publish", _interrupt)
    with pytest.raises(Exception, match="pulled the plug"):
        embed(str(tmp_path / "in"), str(tmp_path / "out"), SPEC, work=WORK, run_id="first")
    monkeypatch.setattr("beam_pipeline.stages.publish.publish", publish)
    parts = sorted((tmp_path / "out/embeddings/run_id=r-first").glob("*.parquet"))
    lost = pq.read_table(parts[-1]).num_rows
    parts[-1].unlink()
    stale = parts[0].parent / ".part.tmp"
    stale.write_bytes(b"left by a kill")
    engines.clear()
    finished = embed(str(tmp_path / "in"), str(tmp_path / "out"), SPEC, work=WORK, run_id="second")
    assert finished.manifest["counts"]["embedded"] == lost
    batches = sum(-(-part["rows"] // WORK.batch_size) for part in finished.manifest["parts"])
    assert sum(engine.calls for engine in engines) == batches, "only the lost shard was computed"
    first, second = open_dataset(str(tmp_path / "out")).runs
    assert (first["status"], second["status"]) == ("adopted", "complete")
    assert first["skipped"]["unfinished"] == lost
    reconciles(first)
    assert set(rows_of(tmp_path / "out")) == set(paths)
    assert not stale.exists()


def _interrupt(*args: object) -> None:
    raise RuntimeError("pulled the plug")


def test_a_run_goes_on_by_its_plan_even_where_the_input_has_changed(tmp_path, monkeypatch):
    use_fakes(monkeypatch)
    paths = draw_pictures(tmp_path / "in", 12)
    publish = publishing.publish
    monkeypatch.setattr("beam_pipeline.stages.publish.publish", _interrupt)
    with pytest.raises(Exception, match="pulled the plug"):
        embed(str(tmp_path / "in"), str(tmp_path / "out"), SPEC, work=WORK, run_id="night")
    monkeypatch.setattr("beam_pipeline.stages.publish.publish", publish)
    draw_pictures(tmp_path / "in", 20)
    finished = embed(str(tmp_path / "in"), str(tmp_path / "out"), SPEC, work=WORK, run_id="night")
    assert finished.manifest["counts"]["read"] == 12
    assert set(rows_of(tmp_path / "out")) == set(paths)
    again = embed(str(tmp_path / "in"), str(tmp_path / "out"), SPEC, work=WORK, run_id="r-night")
    assert again.already_published
    assert again.manifest == finished.manifest


def test_a_part_that_no_manifest_names_is_removed(tmp_path, monkeypatch):
    use_fakes(monkeypatch)
    draw_pictures(tmp_path / "in", 3)
    embed(str(tmp_path / "in"), str(tmp_path / "out"), SPEC, work=WORK, run_id="one")
    folder = tmp_path / "out/embeddings/run_id=r-one"
    [part] = folder.glob("*.parquet")
    (folder / "part-00007-of-00001.parquet").write_bytes(part.read_bytes())
    embed(str(tmp_path / "in"), str(tmp_path / "out"), SPEC, work=WORK, run_id="two")
    assert list(folder.glob("*.parquet")) == [part]


def test_another_spec_is_refused_with_its_differences(tmp_path, monkeypatch):
    use_fakes(monkeypatch)
    draw_pictures(tmp_path / "in", 3)
    embed(str(tmp_path / "in"), str(tmp_path / "out"), SPEC, work=WORK)
    other = EmbeddingSpec(model="MobileNetV2", weights="random:1", target_size=48, interpolation="bilinear")
    with pytest.raises(SpecMismatchError) as raised:
        embed(str(tmp_path / "in"), str(tmp_path / "out"), other, work=WORK)
    assert 'spec.image.interpolation: the dataset has "nearest", this call "bilinear"' in str(raised.value)
    assert "spec.image.target_size: the dataset has [32, 32], this call [48, 48]" in str(raised.value)
    use_fakes(monkeypatch, digest="sha256:others")
    with pytest.raises(SpecMismatchError, match=r"spec\.weights\.digest"):
        embed(str(tmp_path / "in"), str(tmp_path / "out"), SPEC, work=WORK)
    use_fakes(monkeypatch)
    (tmp_path / "list.csv").write_text("uri,id\nin/p0000.png,1\n")
    with pytest.raises(SpecMismatchError, match="carried"):
        embed(str(tmp_path / "list.csv"), str(tmp_path / "out"), SPEC, work=WORK, keep_columns=["id"])


def test_limit_takes_the_first_of_the_input_and_leaves_the_rest_for_the_next_run(tmp_path, monkeypatch):
    use_fakes(monkeypatch)
    paths = draw_pictures(tmp_path / "in", 10)
    work = Work(batch_size=4, limit=4)
    first = embed(str(tmp_path / "in"), str(tmp_path / "out"), SPEC, work=work)
    reconciles(first.manifest)
    assert first.manifest["skipped"]["over_limit"] == 6
    assert set(rows_of(tmp_path / "out")) == set(paths[:4])
    embed(str(tmp_path / "in"), str(tmp_path / "out"), SPEC, work=work)
    assert set(rows_of(tmp_path / "out")) == set(paths[:8])


def test_stop_after_publishes_what_is_finished(tmp_path, monkeypatch):
    use_fakes(monkeypatch)
    draw_pictures(tmp_path / "in", 10)
    stopped = embed(str(tmp_path / "in"), str(tmp_path / "out"), SPEC, work=Work(batch_size=4, stop_after_s=1e-9))
    assert stopped.manifest["status"] == "stopped"
    assert stopped.manifest["skipped"]["unfinished"] == 10
    reconciles(stopped.manifest)
    whole = embed(str(tmp_path / "in"), str(tmp_path / "out"), SPEC, work=Work(batch_size=4, stop_after_s=3600))
    assert whole.manifest["status"] == "complete"
    assert len(rows_of(tmp_path / "out")) == 10


def test_the_id_column_is_the_identity_where_uris_change(tmp_path, monkeypatch):
    use_fakes(monkeypatch)
    a, b = draw_pictures(tmp_path / "in", 2)
    listing = tmp_path / "list.csv"
    listing.write_text(f"uri,id\n{a},one\n{b},two\n{b},one\n,three\n{a},\n")
    first = embed(str(listing), str(tmp_path / "out"), SPEC, work=WORK, id_column="id").manifest
    assert first["counts"]["duplicates"] == 1
    assert first["counts"]["failed"] == 2
    listing.write_text(f"uri,id\n{b},one\n{a},two\n{a},four\n")
    second = embed(str(listing), str(tmp_path / "out"), SPEC, work=WORK, id_column="id").manifest
    assert (second["counts"]["skipped"], second["counts"]["embedded"]) == (2, 1)


def test_an_id_column_of_dates_finds_what_earlier_runs_embedded(tmp_path, monkeypatch):
    use_fakes(monkeypatch)
    paths = draw_pictures(tmp_path / "in", 2)
    taken = pa.array([1_700_000_000_000_000_001, 1_700_000_000_000_000_002], pa.timestamp("ns"))
    pq.write_table(pa.table({"uri": paths, "taken": taken}), tmp_path / "list.parquet")
    counts = [
        embed(str(tmp_path / "list.parquet"), str(tmp_path / "out"), SPEC, work=WORK, id_column="taken").manifest[
            "counts"
        ]
        for _ in range(2)
    ]
    assert [(count["embedded"], count["skipped"]) for count in counts] == [(2, 0), (0, 2)]


def test_no_input_one_picture_and_all_bad(tmp_path, monkeypatch):
    use_fakes(monkeypatch)
    [path] = draw_pictures(tmp_path / "in", 1)
    assert embed(path, str(tmp_path / "one"), SPEC).manifest["counts"]["embedded"] == 1
    for number in range(3):
        (tmp_path / "bad").mkdir(exist_ok=True)
        (tmp_path / "bad" / f"{number}.jpg").write_bytes(b"")
    bad = embed(str(tmp_path / "bad"), str(tmp_path / "two"), SPEC)
    assert bad.failure_ratio == 1.0
    assert len(open_dataset(str(tmp_path / "two")).to_numpy()[0]) == 0
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(ConfigurationError, match="no URIs at all"):
        embed(str(tmp_path / "empty.txt"), str(tmp_path / "three"), SPEC)
    assert not (tmp_path / "three").exists(), "a mistake in the call leaves nothing behind"


def test_a_broken_part_is_never_published(tmp_path, monkeypatch):
    use_fakes(monkeypatch)
    draw_pictures(tmp_path / "in", 12)
    publish = publishing.publish

    def tamper(layout: Layout, *args: object) -> object:
        part = next(Path(layout.parts("r-one")).glob("*.parquet"))
        table, metadata = pq.read_table(part), pq.read_metadata(part).metadata
        part.unlink()
        with pq.ParquetWriter(part, table.schema) as writer:
            writer.write_table(table.slice(1))
            writer.add_key_value_metadata({k: v for k, v in metadata.items() if k.startswith(b"beam_embed")})
        return publish(layout, *args)

    monkeypatch.setattr("beam_pipeline.stages.publish.publish", tamper)
    with pytest.raises(Exception, match="says it has"):
        embed(str(tmp_path / "in"), str(tmp_path / "out"), SPEC, work=WORK, run_id="one")
    assert not Path(Layout(str(tmp_path / "out")).manifest("r-one")).exists()


def test_names_that_are_hard_to_store_are_read_as_they_stand(tmp_path, monkeypatch):
    use_fakes(monkeypatch)
    [path] = draw_pictures(tmp_path / "in", 1)
    names = ["with space.png", "100%.png", "a%20b.png", "num#ber.png", "früh-早い.png", "q?*[x].png"]
    for name in names:
        (tmp_path / "in" / name).write_bytes(Path(path).read_bytes())
    os.unlink(path)
    (tmp_path / "list.txt").write_text("\n".join(f"in/{name}" for name in names))
    embed(str(tmp_path / "list.txt"), str(tmp_path / "out"), SPEC, work=WORK)
    assert set(rows_of(tmp_path / "out")) == {str(tmp_path / "in" / name) for name in names}
    quoted = f"file://{tmp_path}/in/a%2520b.png"
    (tmp_path / "url.txt").write_text(quoted)
    again = embed(str(tmp_path / "url.txt"), str(tmp_path / "out"), SPEC, work=WORK)
    assert again.manifest["counts"]["skipped"] == 1, "a file:// URI names the same picture as its path"


def test_vectors_with_nan_become_failure_rows(tmp_path, monkeypatch):
    use_fakes(monkeypatch)
    draw_pictures(tmp_path / "in", 6)
    original = FakeEngine.__call__

    def broken(self: FakeEngine, pixels: np.ndarray) -> dict[str, np.ndarray]:
        outputs = original(self, pixels)
        outputs["embedding"][1, 3] = np.nan
        return outputs

    monkeypatch.setattr(FakeEngine, "__call__", broken)
    counts = embed(str(tmp_path / "in"), str(tmp_path / "out"), SPEC, work=Work(batch_size=6)).manifest["counts"]
    assert (counts["embedded"], counts["failed"]) == (5, 1)
    assert open_dataset(str(tmp_path / "out")).failures()["kind"].to_pylist() == ["not_finite"]


def test_a_dataset_that_is_not_there_says_so(tmp_path):
    with pytest.raises(DatasetError, match="no dataset"):
        open_dataset(str(tmp_path))


def test_a_uri_whose_store_cannot_be_set_up_costs_one_row(tmp_path, monkeypatch):
    use_fakes(monkeypatch)
    [path] = draw_pictures(tmp_path / "in", 1)
    odd = ["github://a", "dir://a", "simplecache://a", "hf://a/b.png", "NOSUCH://a/b.png"]
    (tmp_path / "list.txt").write_text("\n".join([path, *odd]))
    counts = embed(str(tmp_path / "list.txt"), str(tmp_path / "out"), SPEC, work=WORK).manifest["counts"]
    assert (counts["embedded"], counts["failed"]) == (1, len(odd))


def test_rows_without_uri_do_not_fail_a_healthy_rerun(tmp_path, monkeypatch):
    use_fakes(monkeypatch)
    paths = draw_pictures(tmp_path / "in", 2)
    (tmp_path / "list.csv").write_text("\n".join(["uri,id", *(f"{path},1" for path in paths), ",2", "too,many,fields"]))
    runs = [embed(str(tmp_path / "list.csv"), str(tmp_path / "out"), SPEC, work=WORK) for _ in range(2)]
    assert [run.manifest["counts"]["failed"] for run in runs] == [2, 2]
    assert [run.failure_ratio for run in runs] == [0.0, 0.0]


def test_an_output_inside_the_input_is_no_input(tmp_path, monkeypatch):
    use_fakes(monkeypatch)
    draw_pictures(tmp_path, 3)
    for pattern in (tmp_path, tmp_path / "**" / "*"):
        counts = embed(pattern, tmp_path / "out", SPEC, work=WORK).manifest["counts"]
        assert (counts["read"], counts["failed"]) == (3, 0)


def test_a_run_that_goes_on_refuses_other_inputs(tmp_path, monkeypatch):
    use_fakes(monkeypatch)
    draw_pictures(tmp_path / "in", 3)
    draw_pictures(tmp_path / "other", 3)
    with monkeypatch.context() as patched:
        patched.setattr("beam_pipeline.stages.publish.publish", _interrupt)
        with pytest.raises(Exception, match="pulled the plug"):
            embed(tmp_path / "in", tmp_path / "out", SPEC, work=WORK, run_id="night")
    with pytest.raises(ConfigurationError, match="was begun with the inputs"):
        embed(tmp_path / "other", tmp_path / "out", SPEC, work=WORK, run_id="night")
    resumed: list[str] = []
    observer = Observer(resumed=lambda plan: resumed.append(plan.run_id))
    embed(tmp_path / "in", tmp_path / "out", SPEC, work=WORK, run_id="night", observer=observer)
    assert resumed == ["r-night"]


def test_leftovers_go_and_what_others_put_there_stays(tmp_path, monkeypatch):
    use_fakes(monkeypatch)
    draw_pictures(tmp_path / "in", 2)
    out = tmp_path / "out"
    (tmp_path / "in" / "bad.png").write_bytes(b"")
    embed(tmp_path / "in", out, SPEC, work=WORK, run_id="one")
    temporary = [out / "_runs/r-one/.m.tmp", out / "_runs/r-one/work/.w.tmp", out / "failures/run_id=r-one/.f.tmp"]
    theirs = out / "embeddings/run_id=r-one/_SUCCESS"
    for path in (*temporary, theirs):
        path.touch()
    embed(tmp_path / "in", out, SPEC, work=WORK, run_id="two")
    assert [path for path in (*temporary, theirs) if path.exists()] == [theirs]


def test_keep_columns_is_no_single_text(tmp_path):
    with pytest.raises(ConfigurationError, match="keep_columns is a sequence of columns, received 'id'"):
        embed(tmp_path, tmp_path / "out", SPEC, keep_columns="id")
