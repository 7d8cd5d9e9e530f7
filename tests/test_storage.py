"""A file appears whole and once, whoever writes it; listings, patterns and options mean the same on every store."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_pipeline.errors import ConfigurationError, StoreError
from beam_pipeline.storage import FileInfo, Storage, has_glob

WRITERS = 8


@pytest.fixture(params=["local", "memory"])
def root(request, tmp_path) -> Iterator[str]:
    """An empty folder, of this machine or of fsspec's in-memory store."""
    if request.param == "local":
        yield str(tmp_path)
        return
    # With three slashes, as listings of this store name their files.
    folder = f"memory:///{uuid.uuid4().hex}"
    yield folder
    Storage().delete_folder(folder)


def make_files(root: str, *names: str) -> None:
    for name in names:
        assert Storage().create(f"{root}/{name}", name.encode())


def names_of(infos: Iterator[FileInfo] | list[FileInfo], root: str) -> list[str]:
    uris = [info.uri for info in infos]
    assert all(uri.startswith(root + "/") for uri in uris)
    return [uri.removeprefix(root + "/") for uri in uris]


# The commit


def race(job, count: int = WRITERS) -> list:
    """Runs `job(number)` in threads that start together."""
    barrier = threading.Barrier(count)

    def start(number: int) -> object:
        barrier.wait()
        return job(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(start, range(count)))


def test_of_many_threads_the_first_writer_wins_and_the_file_is_its_own(tmp_path):
    for attempt in range(20):
        path = tmp_path / f"{attempt}.json"
        won = race(lambda number, path=path: Storage().create(str(path), bytes([number]) * 10_000))
        assert won.count(True) == 1
        assert path.read_bytes() == bytes([won.index(True)]) * 10_000
    assert sorted(os.listdir(tmp_path)) == sorted(f"{attempt}.json" for attempt in range(20))


PROCESS = """
import pathlib, sys, time
from beam_pipeline.storage import Storage
folder, number = pathlib.Path(sys.argv[1]), int(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
print(*[int(Storage().create(str(folder / f"{n}.parquet"), bytes([number]) * 100_000)) for n in range(30)])
"""


def test_of_several_processes_the_first_writer_wins_and_the_file_is_its_own(tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(tmp_path), str(number)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for number in range(3)
    ]
    for process in processes:
        assert process.stdout.readline() == b"ready\n"
    for process in processes:
        process.stdin.write(b"\n")
        process.stdin.flush()
    won = [process.communicate()[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    for number, results in enumerate(zip(*won, strict=True)):
        assert results.count(b"1") == 1
        assert (tmp_path / f"{number}.parquet").read_bytes() == bytes([results.index(b"1")]) * 100_000
    assert len(os.listdir(tmp_path)) == 30


def test_no_reader_ever_sees_a_part_of_a_file_or_a_temporary_one(tmp_path):
    content = os.urandom(2_000_000)
    seen: set[str] = set()
    broken: list[str] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            for path in tmp_path.glob("*.parquet"):
                seen.add(path.name)
                if path.read_bytes() != content:
                    broken.append(path.name)

    watcher = threading.Thread(target=watch)
    watcher.start()
    finals = [f"part-{number}.parquet" for number in range(12)]
    try:
        for name in finals:
            race(lambda _, name=name: Storage().create(str(tmp_path / name), content), count=3)
    finally:
        done.set()
        watcher.join()
    assert broken == []
    assert seen <= set(finals)
    assert {path.name for path in tmp_path.glob("*.parquet")} == set(finals)


def test_a_temporary_file_lies_beside_its_final_name_and_no_reader_takes_it_for_data(tmp_path):
    final = tmp_path / "deep" / "part.parquet"
    with Storage().temporary(str(final)) as path:
        assert os.path.dirname(path) == str(final.parent), "a link cannot cross devices"
        name = os.path.basename(path)
        assert name.startswith(".")
        assert name.endswith(".tmp")
        Path(path).write_bytes(b"half")
        assert list(final.parent.glob("*.parquet")) == []
        assert list(Storage().walk(str(tmp_path))) == []
    assert os.listdir(final.parent) == []


def test_two_temporary_files_of_one_final_name_are_two(root):
    with Storage().temporary(f"{root}/a") as one, Storage().temporary(f"{root}/a") as other:
        assert one != other


@pytest.mark.parametrize("written", [True, False])
def test_nothing_is_left_after_an_exception(root, written):
    paths = []

    def tear() -> None:
        with Storage().temporary(f"{root}/a/part.parquet") as path:
            paths.append(path)
            if written:
                Path(path).write_bytes(b"half")
            raise RuntimeError("torn")

    with pytest.raises(RuntimeError, match="torn"):
        tear()
    assert not os.path.exists(paths[0])
    assert list(Storage().walk(root)) == []
    assert Storage().list(f"{root}/a") == []


def test_a_file_written_to_a_temporary_path_is_committed_whole(root):
    with Storage().temporary(f"{root}/a.parquet") as path:
        pq.write_table(pa.table({"x": [1, 2, 3]}), path)
        assert Storage().commit(path, f"{root}/a.parquet") is True
        assert Storage().commit(path, f"{root}/a.parquet") is False
    fs, inside = Storage().arrow(f"{root}/a.parquet")
    assert pq.read_table(inside, filesystem=fs)["x"].to_pylist() == [1, 2, 3]


def test_a_committed_file_is_not_changed_by_what_becomes_of_the_temporary_one(tmp_path):
    with Storage().temporary(str(tmp_path / "a")) as path:
        Path(path).write_bytes(b"whole")
        Storage().commit(path, str(tmp_path / "a"))
    assert (tmp_path / "a").read_bytes() == b"whole"
    assert (tmp_path / "a").stat().st_nlink == 1


class StoreWithoutCondition:
    """A file system whose put knows no `mode`, as older ones have it."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def exists(self, path: str) -> bool:
        return path in self.files

    def put_file(self, local: str, path: str) -> None:
        self.files[path] = Path(local).read_bytes()


def test_a_store_whose_put_knows_no_condition_is_asked_first(monkeypatch):
    store = StoreWithoutCondition()
    monkeypatch.setattr(Storage, "filesystem", lambda self, uri: (store, uri))
    assert Storage().create("old://b/a", b"first") is True
    assert Storage().create("old://b/a", b"second") is False
    assert store.files == {"old://b/a": b"first"}


# Reading and writing


def test_a_created_file_stays_as_it_is_and_a_replaced_one_does_not(root):
    storage = Storage()
    assert storage.create(f"{root}/deep/a", b"first") is True
    assert storage.create(f"{root}/deep/a", b"second") is False
    assert storage.read(f"{root}/deep/a") == b"first"
    storage.replace(f"{root}/deep/a", b"third")
    storage.replace(f"{root}/new/b", b"fourth")
    assert (storage.read(f"{root}/deep/a"), storage.read(f"{root}/new/b")) == (b"third", b"fourth")
    assert names_of(storage.walk(root), root) == ["deep/a", "new/b"]


def test_a_download_is_the_whole_file(root, tmp_path):
    content = bytes(range(256)) * 5000
    assert Storage().create(f"{root}/a.h5", content)
    Storage().download(f"{root}/a.h5", str(tmp_path / "copy"))
    assert (tmp_path / "copy").read_bytes() == content
    with pytest.raises(FileNotFoundError):
        Storage().download(f"{root}/none.h5", str(tmp_path / "copy"))


def test_a_failed_replacement_leaves_the_old_file(tmp_path, monkeypatch):
    storage = Storage()
    storage.create(str(tmp_path / "a"), b"old")

    def refuse(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        storage.replace(str(tmp_path / "a"), b"new")
    assert os.listdir(tmp_path) == ["a"]
    assert storage.read(str(tmp_path / "a")) == b"old"


def test_existence_and_folders_are_told_apart(root):
    storage = Storage()
    make_files(root, "a/b.png")
    found = {name: (storage.exists(f"{root}/{name}"), storage.is_folder(f"{root}/{name}")) for name in ("a", "a/b.png")}
    assert found == {"a": (True, True), "a/b.png": (True, False)}
    assert not storage.exists(f"{root}/none")
    assert not storage.is_folder(f"{root}/none")
    with pytest.raises(FileNotFoundError):
        storage.open(f"{root}/none")


def test_deleting_what_is_not_there_is_no_error(root):
    storage = Storage()
    make_files(root, "a/b", "a/c", "d")
    storage.delete(f"{root}/a/b")
    storage.delete(f"{root}/a/b")
    assert sorted(names_of(storage.walk(root), root)) == ["a/c", "d"]
    storage.delete_folder(f"{root}/a")
    storage.delete_folder(f"{root}/a")
    assert names_of(storage.walk(root), root) == ["d"]


def test_file_uris_and_paths_name_the_same_file(tmp_path):
    storage = Storage()
    uri = f"file://{tmp_path}/a%20b.png"
    assert storage.create(uri, b"x") is True
    assert (tmp_path / "a b.png").read_bytes() == b"x"
    assert storage.create(str(tmp_path / "a b.png"), b"y") is False
    assert (storage.exists(uri), storage.read(uri)) == (True, b"x")
    assert [info.uri for info in storage.glob(f"file://{tmp_path}/*.png")] == [str(tmp_path / "a b.png")]
    storage.delete(uri)
    assert os.listdir(tmp_path) == []


# Listings

TREE = ["a.png", "b/c.png", "b/d/e.png", "b/f.txt", "g.png", ".hidden/h.png", "b/.i.png", ".j.png"]


def test_a_walk_finds_every_file_but_hidden_ones_folder_by_folder(root):
    make_files(root, *TREE)
    names = names_of(Storage().walk(root), root)
    assert sorted(names) == ["a.png", "b/c.png", "b/d/e.png", "b/f.txt", "g.png"]
    for folder in ("", "b/"):
        of_folder = [name for name in names if name.startswith(folder) and "/" not in name.removeprefix(folder)]
        assert of_folder == sorted(of_folder)


def test_a_walk_has_the_same_order_whatever_order_the_files_came_in(tmp_path):
    make_files(str(tmp_path / "one"), *TREE)
    make_files(str(tmp_path / "two"), *reversed(TREE))
    one, two = (names_of(Storage().walk(str(folder)), str(folder)) for folder in (tmp_path / "one", tmp_path / "two"))
    assert one == two


def test_a_walk_of_a_folder_that_is_itself_hidden_finds_its_files(root):
    make_files(root, *TREE)
    assert names_of(Storage().walk(f"{root}/.hidden"), root) == [".hidden/h.png"]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.png", ["a.png", "g.png"]),
        ("**/*.png", ["a.png", "b/c.png", "b/d/e.png", "g.png"]),
        ("b/**/*.png", ["b/c.png", "b/d/e.png"]),
        ("b/*", ["b/c.png", "b/f.txt"]),
        ("*/[c-e].png", ["b/c.png"]),
        ("?.png", ["a.png", "g.png"]),
        ("*.jpg", []),
        ("none/*.png", []),
        (".*.png", [".j.png"]),
        ("b/.*", ["b/.i.png"]),
        (".hidden/*.png", [".hidden/h.png"]),
    ],
)
def test_a_pattern_finds_files_and_no_folders_and_hidden_ones_only_where_it_says_so(root, pattern, names):
    make_files(root, *TREE)
    assert names_of(Storage().glob(f"{root}/{pattern}"), root) == names


def test_a_listing_names_files_and_folders_in_order_and_is_empty_where_there_is_none(root):
    make_files(root, "b.png", "a/c.png", "a b.png")
    listed = Storage().list(root)
    assert names_of(listed, root) == ["a", "a b.png", "b.png"]
    assert {info.uri: info.size_bytes for info in listed}[f"{root}/b.png"] == len("b.png")
    assert Storage().list(f"{root}/none") == []


def test_a_listing_shows_what_another_client_has_just_written(root):
    storage = Storage()
    make_files(root, "a")
    assert names_of(storage.list(root), root) == ["a"]
    make_files(root, "b")
    assert names_of(storage.list(root), root) == ["a", "b"]


@pytest.mark.parametrize(
    ("uri", "is_pattern"),
    [
        ("/pictures/*.png", True),
        ("s3://bucket/**/*.png", True),
        ("/pictures/[ab].png", True),
        ("/pictures/a?.png", True),
        ("/pictures/a.png", False),
        ("s3://bucket/a b#%.png", False),
    ],
)
def test_a_pattern_has_a_wildcard(uri, is_pattern):
    assert has_glob(uri) is is_pattern


def test_a_name_that_exists_as_it_stands_is_no_pattern(tmp_path):
    path = tmp_path / "q?*[x].png"
    assert has_glob(str(path))
    path.touch()
    assert not has_glob(str(path))
    assert not has_glob(f"file://{tmp_path}/q?*[x].png")


# Stores and their options


def test_an_unknown_scheme_is_a_mistake_and_offers_the_nearest():
    with pytest.raises(ConfigurationError, match="unknown scheme 'memry'; did you mean 'memory'"):
        Storage().filesystem("memry://bucket/a")
    with pytest.raises(ConfigurationError, match="unknown scheme 'qqqqqq'; fsspec knows no such file system"):
        Storage().exists("qqqqqq://bucket/a")


@pytest.mark.parametrize(
    ("scheme", "options", "given"),
    [
        ("s3", {"key": 1}, {"key": 1}),
        ("gs", {"key": 1}, {"key": 1}),
        ("s3", {"s3.key": 1, "gs.key": 2}, {"key": 1}),
        ("gs", {"s3.key": 1, "gs.key": 2}, {"key": 2}),
        ("s3", {"key": 1, "s3.key": 2}, {"key": 2}),
        ("s3", {"s3.key": 2, "key": 1}, {"key": 2}),
        ("s3", {"s3a.key": 1}, {}),
        ("memory", {"key": 1}, {}),
        ("http", {"key": 1, "http.timeout": 2}, {"timeout": 2}),
        ("https", {"http.timeout": 2}, {}),
    ],
)
def test_an_option_reaches_every_object_store_or_the_one_that_it_names(monkeypatch, scheme, options, given):
    asked: list[dict] = []

    def opened(uri: str, **kwargs: object) -> tuple[None, str]:
        asked.append(kwargs)
        return None, uri

    monkeypatch.setattr("beam_pipeline.storage.url_to_fs", opened)
    Storage(options).filesystem(f"{scheme}://bucket/a")
    assert asked == [{"use_listings_cache": False, **given}]


def test_options_mean_nothing_to_files_of_this_machine(tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    assert Storage({"key": 1, "file.key": 2}).read(str(tmp_path / "a")) == b"x"


@pytest.mark.parametrize(
    ("scheme", "error", "message"),
    [
        ("s3", ImportError("no s3fs"), "s3:// needs a package that is not installed: pip install 'beam-embed[aws]'"),
        ("gs", ImportError("no gcsfs"), r"pip install 'beam-embed[gcp]'"),
        ("abfs", ImportError("no adlfs"), r"pip install 'beam-embed[azure]'"),
        ("sftp", ImportError("please install paramiko"), "not installed: please install paramiko"),
        ("s3", TypeError("unexpected keyword 'kee'"), "s3:// cannot be set up: unexpected keyword 'kee'"),
        ("s3", ValueError("no such region"), "s3:// cannot be set up: no such region"),
    ],
)  # fmt: skip
def test_a_store_that_cannot_be_set_up_says_what_to_do(monkeypatch, scheme, error, message):
    def refuse(uri: str, **_: object) -> None:
        raise error

    monkeypatch.setattr("beam_pipeline.storage.url_to_fs", refuse)
    with pytest.raises(StoreError) as raised:
        Storage().read(f"{scheme}://bucket/a")
    assert message in str(raised.value)
    assert raised.value.__cause__ is error


def test_a_file_that_cannot_be_linked_leaves_nothing_behind(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(PermissionError):
        Storage().create(str(tmp_path / "a"), b"x")
    assert os.listdir(tmp_path) == []


def test_a_temporary_file_that_is_gone_already_is_no_error(tmp_path):
    with Storage().temporary(str(tmp_path / "a")) as path, contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    assert os.listdir(tmp_path) == []
