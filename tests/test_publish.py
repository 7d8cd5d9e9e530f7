"""The end of a run: counts proved, failures written, interrupted runs adopted, leftovers removed, manifest last."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fakes import FakeEngine, draw_pictures, fake_resolved, fix_plan, references, run_shard

from beam_pipeline.dataset.contract import Contract
from beam_pipeline.dataset.layout import Layout
from beam_pipeline.dataset.plan import Plan, read_plan
from beam_pipeline.dataset.publish import (
    ADOPTED,
    COMPLETE,
    STOPPED,
    adopt_interrupted,
    publish,
    published_runs,
    read_manifest,
    remove_leftovers,
)
from beam_pipeline.errors import DatasetError
from beam_pipeline.storage import Storage

CONTRACT = Contract.of(fake_resolved(), (), None)


def layout_of(folder: Path) -> Layout:
    return Layout(str(folder / "out"))


def planned(folder: Path, run_id: str = "r-one", good: int = 5) -> Plan:
    """Three work lists: good pictures; two missing ones and one picture; a torn one."""
    paths = draw_pictures(folder / run_id, good + 1)
    torn = folder / run_id / "torn.png"
    torn.write_bytes(Path(paths[0]).read_bytes()[:60])
    lists = [references(paths[:good]), references([paths[good], "/gone/a", "/gone/b"]), references([str(torn)])]
    return fix_plan(layout_of(folder), run_id, lists)


def work_on(folder: Path, plan: Plan, *shards: int) -> None:
    for shard in shards:
        run_shard(layout_of(folder), plan, plan.work[shard])


def end(folder: Path, plan: Plan, status: str = COMPLETE) -> dict:
    return publish(layout_of(folder), plan, CONTRACT, status, Storage())


def failure_rows(folder: Path, run_id: str = "r-one") -> list[dict]:
    return pq.read_table(layout_of(folder).failures(run_id)).to_pylist()


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_manifest_tells_what_became_of_everything(tmp_path):
    plan = planned(tmp_path)
    work_on(tmp_path, plan, 0, 1, 2)
    manifest = end(tmp_path, plan)
    assert manifest["status"] == "complete"
    assert manifest["counts"] == {
        "read": 9, "embedded": 6, "failed": 3, "skipped": 0, "duplicates": 0, "conflicting": 0,
    }  # fmt: skip
    assert manifest["failures"] == {
        "file": "failures/run_id=r-one/part-00000.parquet", "kinds": {"not_found": 2, "corrupt": 1},
    }  # fmt: skip
    assert manifest["first_attempts"] == {"tried": 9, "failed": 3}
    assert [(part["name"], part["rows"], part["failed"]) for part in manifest["parts"]] == [
        ("part-00000-of-00003.parquet", 5, 0), ("part-00001-of-00003.parquet", 1, 2),
        ("part-00002-of-00003.parquet", 0, 1),
    ]  # fmt: skip
    for part in manifest["parts"]:
        assert part["size_bytes"] == Path(layout_of(tmp_path).part("r-one", part["name"])).stat().st_size
    assert read_manifest(layout_of(tmp_path), "r-one", Storage()) == manifest
    assert [row["kind"] for row in failure_rows(tmp_path)] == ["not_found", "not_found", "corrupt"]


def test_kinds_are_listed_with_the_most_frequent_first(tmp_path):
    plan = planned(tmp_path)
    work_on(tmp_path, plan, 2, 1, 0)
    assert list(end(tmp_path, plan)["failures"]["kinds"]) == ["not_found", "corrupt"]


def test_a_run_without_failures_has_no_file_of_failures(tmp_path):
    plan = fix_plan(layout_of(tmp_path), "r-one", [references(draw_pictures(tmp_path / "in", 2))])
    work_on(tmp_path, plan, 0)
    assert end(tmp_path, plan)["failures"] == {"file": None, "kinds": {}}
    assert not (tmp_path / "out" / "failures").exists()


def test_a_run_with_nothing_to_do_is_published_too(tmp_path):
    plan = fix_plan(layout_of(tmp_path), "r-one", [])
    manifest = end(tmp_path, plan)
    assert (manifest["status"], manifest["parts"], manifest["counts"]["read"]) == ("complete", [], 0)


def test_a_complete_run_that_lacks_a_part_is_not_published(tmp_path):
    plan = planned(tmp_path)
    work_on(tmp_path, plan, 0, 2)
    before = files_in(tmp_path / "out")
    with pytest.raises(DatasetError, match="'r-one' lacks 1 of its 3 parts"):
        end(tmp_path, plan)
    assert files_in(tmp_path / "out") == before, "nothing is written, the failures neither"
    work_on(tmp_path, plan, 1)
    assert end(tmp_path, plan)["status"] == "complete"


@pytest.mark.parametrize("status", [STOPPED, ADOPTED])
def test_a_run_that_ended_early_counts_its_missing_parts_as_unfinished(tmp_path, status):
    plan = planned(tmp_path)
    work_on(tmp_path, plan, 0)
    manifest = end(tmp_path, plan, status)
    assert manifest["status"] == status
    assert manifest["skipped"]["unfinished"] == 4
    assert manifest["counts"] == {
        "read": 9, "embedded": 5, "failed": 0, "skipped": 4, "duplicates": 0, "conflicting": 0,
    }  # fmt: skip
    assert manifest["first_attempts"]["tried"] == 5, "what was not tried did not fail"


@pytest.mark.parametrize(("status", "found"), [(STOPPED, COMPLETE), (ADOPTED, ADOPTED)])
def test_a_run_whose_parts_are_all_there_is_complete_unless_another_ended_it(tmp_path, status, found):
    plan = planned(tmp_path)
    work_on(tmp_path, plan, 0, 1, 2)
    assert end(tmp_path, plan, status)["status"] == found


def test_a_plan_whose_counts_do_not_add_up_is_not_published(tmp_path):
    plan = planned(tmp_path)
    work_on(tmp_path, plan, 0, 1, 2)
    with pytest.raises(DatasetError, match="10 rows were read, 9 are accounted for"):
        end(tmp_path, replace(plan, counts=replace(plan.counts, read=10)))
    assert not Path(layout_of(tmp_path).manifest("r-one")).exists()


def test_a_part_that_does_not_add_up_to_its_work_list_is_not_published(tmp_path):
    plan = planned(tmp_path)
    work_on(tmp_path, plan, 0, 1, 2)
    first, *others = plan.work
    # The counts of the whole agree: only the part and its list do not.
    with pytest.raises(DatasetError, match=r"'part-00000-of-00003\.parquet' accounts for 5 pictures, .* has 6"):
        end(tmp_path, replace(plan, work=(replace(first, rows=6), *others)))
    assert not Path(layout_of(tmp_path).manifest("r-one")).exists()


def test_the_first_manifest_stands(tmp_path):
    plan = planned(tmp_path)
    work_on(tmp_path, plan, 0)
    first = end(tmp_path, plan, STOPPED)
    written = Path(layout_of(tmp_path).manifest("r-one")).read_bytes()
    work_on_late = FakeEngine()
    with pytest.raises(DatasetError, match="published already"):
        run_shard(layout_of(tmp_path), plan, plan.work[1], work_on_late)
    assert end(tmp_path, plan, STOPPED) == first
    assert Path(layout_of(tmp_path).manifest("r-one")).read_bytes() == written
    assert not (tmp_path / "out" / "failures").exists()


def test_failures_that_a_killed_attempt_has_written_do_not_stand_for_the_whole_run(tmp_path):
    plan = planned(tmp_path)
    work_on(tmp_path, plan, 1)
    end(tmp_path, plan, STOPPED)
    Path(layout_of(tmp_path).manifest("r-one")).unlink()  # as if killed between failures and manifest
    work_on(tmp_path, plan, 0, 2)
    manifest = end(tmp_path, plan)
    assert manifest["counts"]["failed"] == 3
    assert sorted(row["kind"] for row in failure_rows(tmp_path)) == ["corrupt", "not_found", "not_found"]


def test_every_interrupted_run_is_adopted_but_the_one_that_is_to_go_on(tmp_path):
    for run_id, shards in (("r-a", (0, 1)), ("r-b", ()), ("r-c", (0,)), ("r-d", (0, 1, 2))):
        work_on(tmp_path, planned(tmp_path, run_id), *shards)
    end(tmp_path, read_plan(layout_of(tmp_path), "r-d", Storage()))
    before = Path(layout_of(tmp_path).manifest("r-d")).read_bytes()
    adopted = adopt_interrupted(layout_of(tmp_path), CONTRACT, "r-c", Storage())
    assert [(one["run_id"], one["status"], one["counts"]["embedded"]) for one in adopted] == [
        ("r-a", "adopted", 6), ("r-b", "adopted", 0),
    ]  # fmt: skip
    assert [row["uri"] for row in failure_rows(tmp_path, "r-a")] == ["/gone/a", "/gone/b"]
    assert read_manifest(layout_of(tmp_path), "r-c", Storage()) is None
    assert Path(layout_of(tmp_path).manifest("r-d")).read_bytes() == before
    assert adopt_interrupted(layout_of(tmp_path), CONTRACT, "r-c", Storage()) == [], "once"


def test_a_run_that_had_no_plan_leaves_no_trace(tmp_path):
    plan = planned(tmp_path)
    Path(layout_of(tmp_path).plan("r-one")).unlink()
    assert (tmp_path / "out/_runs/r-one/work").exists()
    assert adopt_interrupted(layout_of(tmp_path), CONTRACT, "r-two", Storage()) == []
    assert list((tmp_path / "out/_runs").iterdir()) == []
    planned(tmp_path)
    Path(layout_of(tmp_path).plan("r-one")).unlink()
    adopt_interrupted(layout_of(tmp_path), CONTRACT, plan.run_id, Storage())
    assert (tmp_path / "out/_runs/r-one/work").exists(), "but for the run that is to go on"


def test_a_file_that_is_no_run_is_passed_over(tmp_path):
    work_on(tmp_path, planned(tmp_path), 0)
    (tmp_path / "out" / "_runs" / ".DS_Store").write_bytes(b"\0")
    [adopted] = adopt_interrupted(layout_of(tmp_path), CONTRACT, "r-two", Storage())
    assert published_runs(layout_of(tmp_path), Storage()) == [adopted]
    assert (tmp_path / "out" / "_runs" / ".DS_Store").exists()


def test_runs_are_listed_by_their_end_not_by_their_name(tmp_path):
    for run_id in ("r-z", "r-a", "r-m"):
        work_on(tmp_path, plan := planned(tmp_path, run_id), 0, 1, 2)
        end(tmp_path, plan)
    assert [run["run_id"] for run in published_runs(layout_of(tmp_path), Storage())] == ["r-z", "r-a", "r-m"]


def test_leftovers_are_temporary_files_and_parts_that_no_manifest_names(tmp_path):
    done, going_on = planned(tmp_path, "r-done"), planned(tmp_path, "r-on")
    work_on(tmp_path, done, 0)
    end(tmp_path, done, STOPPED)
    work_on(tmp_path, going_on, 0)
    root = tmp_path / "out" / "embeddings"
    kept = files_in(root)
    late = "run_id=r-done/part-00001-of-00003.parquet"  # committed in the milliseconds before the manifest
    leftovers = {late, *(f"run_id={run_id}/.part-00001-of-00003.parquet.ab12.tmp" for run_id in ("r-done", "r-on"))}
    for name in leftovers:
        (root / name).write_bytes(b"left by a kill")
    assert set(remove_leftovers(layout_of(tmp_path), Storage())) == {str(root / name) for name in leftovers}
    assert files_in(root) == kept == {f"run_id=r-{run}/part-00000-of-00003.parquet" for run in ("done", "on")}
    assert remove_leftovers(layout_of(tmp_path), Storage()) == []


@pytest.mark.parametrize("content", [b"", b'{"run_id": "r-o', b"\xff"])
def test_a_damaged_manifest_names_its_file_and_nothing_is_removed(tmp_path, content):
    plan = planned(tmp_path)
    work_on(tmp_path, plan, 0, 1, 2)
    end(tmp_path, plan)
    Path(layout_of(tmp_path).manifest("r-one")).write_bytes(content)
    before = files_in(tmp_path / "out")
    for act in (published_runs, remove_leftovers):
        with pytest.raises(DatasetError, match=r"manifest\.json' is damaged"):
            act(layout_of(tmp_path), Storage())
    assert files_in(tmp_path / "out") == before


def test_a_manifest_says_what_the_run_was_asked_for(tmp_path):
    plan = planned(tmp_path)
    work_on(tmp_path, plan, 0, 1, 2)
    manifest = end(tmp_path, replace(plan, settings={"inputs": ["s3://bucket/a"]}))
    assert json.loads(Path(layout_of(tmp_path).manifest("r-one")).read_text()) == manifest
    assert manifest["settings"] == {"inputs": ["s3://bucket/a"]}
