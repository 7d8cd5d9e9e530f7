"""One run at a time: a second run is refused by name, a dead one's lock is taken over, and no two hold it at once."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from beam_pipeline.dataset import lock as locking
from beam_pipeline.dataset.layout import Layout
from beam_pipeline.dataset.lock import BEAT_EVERY_S, DEAD_AFTER_S, locked
from beam_pipeline.errors import DatasetLockedError
from beam_pipeline.storage import Storage

ELSEWHERE = "a-host-that-is-not-this-one"


def lock_files(output: Path) -> list[str]:
    """Every file in the folder of locks, temporary ones too."""
    return sorted(path.name for path in (output / "_locks").glob("*")) if (output / "_locks").exists() else []


def sign(**changes: object) -> dict[str, object]:
    """What this process would write, with changes."""
    return json.loads(locking._sign("r-first")) | changes


def leave_lock(output: Path, content: bytes | dict[str, object], number: int = 0) -> Path:
    """A lock that somebody has left."""
    path = output / "_locks" / f"{number:08d}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def take(output: Path) -> list[str]:
    """Takes the lock for a moment; the lock files there were while it was held."""
    with locked(Layout(str(output)), "r-second", Storage()):
        return lock_files(output)


def test_a_second_run_is_refused_and_told_of_the_first(tmp_path):
    layout = Layout(str(tmp_path))
    with locked(layout, "r-first", Storage()):
        held = json.loads((tmp_path / "_locks" / "00000000.json").read_bytes())
        with pytest.raises(DatasetLockedError) as raised, locked(layout, "r-second", Storage()):
            pytest.fail("two runs hold the dataset")
        assert lock_files(tmp_path) == ["00000000.json"], "a refused run leaves the first one's lock"
    assert str(raised.value) == (
        f"another run is at work on {str(tmp_path)!r}: r-first on {socket.gethostname()} (process {os.getpid()}), "
        f"last sign of life {held['beat_at']}"
    )


def test_the_lock_is_gone_after_the_run_and_after_a_run_that_failed(tmp_path):
    assert take(tmp_path) == ["00000000.json"]
    assert lock_files(tmp_path) == []
    with pytest.raises(ZeroDivisionError), locked(Layout(str(tmp_path)), "r-first", Storage()):
        raise ZeroDivisionError
    assert lock_files(tmp_path) == []
    assert take(tmp_path) == ["00000000.json"]


def test_the_lock_of_a_process_that_has_ended_is_taken_over_at_once(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    leave_lock(tmp_path, sign(pid=process.pid, process=locking._process_identity(process.pid)))
    with pytest.raises(DatasetLockedError):
        take(tmp_path)
    process.communicate(b"\n")
    assert take(tmp_path) == ["00000001.json"], "the dead one's lock is removed by the one that follows it"


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="states of processes are read from /proc")
def test_a_killed_process_is_dead_though_nobody_has_waited_for_it(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    leave_lock(tmp_path, sign(pid=process.pid, process=locking._process_identity(process.pid)))
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays a zombie
    assert os.path.isdir(f"/proc/{process.pid}")
    assert take(tmp_path) == ["00000001.json"]
    process.communicate()


@pytest.mark.parametrize(
    ("changes", "alive"),
    [
        ({}, True),
        ({"beat": 0.0}, True),  # on this host the process counts, not its beat: it may have been suspended
        ({"process": "another boot:1"}, False),  # the number belongs to another process by now
        ({"process": ""}, False),
        ({"pid": 2**31 - 1}, False),
        ({"pid": 2**31 - 1, "process": ""}, False),  # nothing is not like nothing
    ],
)
def test_a_lock_of_this_host_holds_as_long_as_its_very_process(tmp_path, changes, alive):
    leave_lock(tmp_path, sign(**changes))
    if alive:
        with pytest.raises(DatasetLockedError):
            take(tmp_path)
    else:
        assert take(tmp_path) == ["00000001.json"]


@pytest.mark.parametrize(
    ("silent_s", "alive"), [(0, True), (DEAD_AFTER_S - 5, True), (DEAD_AFTER_S + 1, False), (1e9, False)]
)
def test_a_lock_of_another_host_holds_until_it_has_been_silent_for_long(tmp_path, silent_s, alive):
    # Its process number means nothing here, even where a process of that number and start lives.
    leave_lock(tmp_path, sign(host=ELSEWHERE, machine="another boot", beat=time.time() - silent_s))
    if alive:
        with pytest.raises(DatasetLockedError, match=f"r-first on {ELSEWHERE}"):
            take(tmp_path)
    else:
        assert take(tmp_path) == ["00000001.json"]


def test_silence_means_several_missed_beats():
    assert DEAD_AFTER_S >= 3 * BEAT_EVERY_S


def test_the_highest_number_holds_and_the_dead_below_it_are_cleared_away(tmp_path):
    leave_lock(tmp_path, sign(process="dead"), 3)
    leave_lock(tmp_path, sign(), 4)
    with pytest.raises(DatasetLockedError):
        take(tmp_path)
    leave_lock(tmp_path, sign(process="dead"), 4)
    assert take(tmp_path) == ["00000005.json"]
    assert lock_files(tmp_path) == []


@pytest.mark.parametrize("dead", [False, True], ids=["none before", "a dead one before"])
def test_of_many_that_race_exactly_one_wins(tmp_path, dead):
    if dead:
        leave_lock(tmp_path, sign(process="dead"), 7)
    racers = 8
    start, tried = threading.Barrier(racers, timeout=60), threading.Barrier(racers, timeout=60)
    results: list[str] = []

    def race(number: int) -> None:
        start.wait()
        try:
            with locked(Layout(str(tmp_path)), f"r-{number}", Storage()):
                results.append("won")
                tried.wait()  # held until every other one has tried
        except DatasetLockedError:
            results.append("refused")
            tried.wait()

    threads = [threading.Thread(target=race, args=(number,)) for number in range(racers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["refused"] * (racers - 1) + ["won"]
    assert lock_files(tmp_path) == []


def test_two_that_find_the_same_dead_lock_cannot_both_follow_it(tmp_path, monkeypatch):
    leave_lock(tmp_path, sign(process="dead"))
    original = Storage.create

    def overtaken(self: Storage, uri: str, data: bytes) -> bool:
        monkeypatch.setattr(Storage, "create", original)
        leave_lock(tmp_path, sign(run_id="r-faster"), 1)  # between this one's look and its own lock
        return original(self, uri, data)

    monkeypatch.setattr(Storage, "create", overtaken)
    with pytest.raises(DatasetLockedError, match="r-faster"):
        take(tmp_path)


def test_the_beat_renews_the_sign_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(locking, "BEAT_EVERY_S", 0.001)
    renewed = threading.Event()
    original = Storage.replace

    def replace(self: Storage, uri: str, data: bytes) -> None:
        original(self, uri, data)
        renewed.set()

    monkeypatch.setattr(Storage, "replace", replace)
    with locked(Layout(str(tmp_path)), "r-first", Storage()):
        path = leave_lock(tmp_path, sign(beat=0.0, run_id="r-nobody"))
        renewed.clear()
        assert renewed.wait(30)
        assert json.loads(path.read_bytes())["beat"] > time.time() - 3600
        assert json.loads(path.read_bytes())["run_id"] == "r-first"
    assert lock_files(tmp_path) == [], "no beat comes after the end"


def test_a_missed_beat_does_not_end_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(locking, "BEAT_EVERY_S", 0.001)
    beats = threading.Semaphore(0)

    def refuse(self: Storage, uri: str, data: bytes) -> None:
        beats.release()
        raise OSError("the store is away for a moment")

    monkeypatch.setattr(Storage, "replace", refuse)
    with locked(Layout(str(tmp_path)), "r-first", Storage()):
        assert all(beats.acquire(timeout=30) for _ in range(3)), "it tries again after it has failed"


@pytest.mark.parametrize("content", [b"", b'{"run_id": "r-fi', b"\xff\xfe", b"{}", b"[]", b"null", b'{"host": 1}'])
def test_a_damaged_lock_is_of_a_machine_that_crashed_and_is_taken_over(tmp_path, content):
    leave_lock(tmp_path, content)
    assert take(tmp_path) == ["00000001.json"]
    assert lock_files(tmp_path) == []


def test_a_lock_that_was_never_put_in_place_holds_nothing(tmp_path):
    (tmp_path / "_locks").mkdir()
    (tmp_path / "_locks" / ".00000000.json.0123.tmp").write_bytes(b'{"run_id"')
    assert "00000000.json" in take(tmp_path)
