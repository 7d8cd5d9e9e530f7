"""One run at a time: a lock with a sign of life.

A lock is a numbered file that is created only if absent; the highest number holds. Whoever finds the holder dead
creates the next number, which only one can. What remains: a holder that was stopped for longer than `DEAD_AFTER_S`
and wakes up does not know that it was followed until its next sign of life. Its commits are still harmless: a part's
name is free only once, and a published run takes no more parts.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from beam_pipeline.dataset.layout import Layout
from beam_pipeline.errors import ConfigurationError, DatasetLockedError
from beam_pipeline.storage import Storage
from beam_pipeline.uris import join, name_of

BEAT_EVERY_S = 10.0
# Six missed beats: a machine under load, or a store that answers slowly, is not dead.
DEAD_AFTER_S = 60.0
_FIELDS = frozenset({"run_id", "host", "pid", "machine", "process", "beat", "beat_at"})


@contextlib.contextmanager
def locked(layout: Layout, run_id: str, storage: Storage) -> Iterator[None]:
    """Holds a dataset for one run.

    Raises:
      DatasetLockedError: where another run is at work, with its id, host and last sign of life.
      ConfigurationError: where the output cannot be written.
    """
    uri = _acquire(layout, run_id, storage)
    stop = threading.Event()
    beat = threading.Thread(target=_beat, args=(uri, run_id, storage, stop), name="lock", daemon=True)
    beat.start()
    try:
        yield
    finally:
        stop.set()
        beat.join()
        storage.delete(uri)


def _acquire(layout: Layout, run_id: str, storage: Storage) -> str:
    held = [info.uri for info in storage.list(layout.locks) if name_of(info.uri).endswith(".json")]
    number = 0
    if held:
        holder = _read(held[-1], storage)
        if holder is not None and _alive(holder):
            raise DatasetLockedError(_refusal(layout, holder))
        number = int(name_of(held[-1]).removesuffix(".json")) + 1
    uri = join(layout.locks, f"{number:08d}.json")
    try:
        won = storage.create(uri, _sign(run_id))
    except OSError as error:
        raise ConfigurationError(f"the output {layout.root!r} cannot be written: {error.strerror or error}") from error
    if not won:
        raise DatasetLockedError(_refusal(layout, _read(uri, storage) or {}))
    for dead in held:
        storage.delete(dead)
    return uri


def _beat(uri: str, run_id: str, storage: Storage, stop: threading.Event) -> None:
    while not stop.wait(BEAT_EVERY_S):
        try:
            storage.replace(uri, _sign(run_id))
        except Exception as error:  # noqa: BLE001  # each store has errors of its own; the next beat is near
            logging.getLogger(__name__).warning("a sign of life could not be written: %s", type(error).__name__)


def _sign(run_id: str) -> bytes:
    now = time.time()
    document = {
        "run_id": run_id,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "machine": _machine(),
        "process": _process_identity(os.getpid()),
        "beat": now,
        "beat_at": datetime.datetime.fromtimestamp(now, datetime.UTC).isoformat(timespec="seconds"),
    }
    return json.dumps(document).encode()


def _read(uri: str, storage: Storage) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(storage.read(uri))
    except FileNotFoundError:
        return None  # released this moment
    except ValueError:
        return None  # a living holder writes it in one step and anew with each beat: its machine crashed
    return found if isinstance(found, dict) and found.keys() >= _FIELDS else None


def _alive(holder: dict[str, Any]) -> bool:
    if holder["machine"] == _machine():
        # There is no need to wait: the process is there or it is not.
        return _process_identity(holder["pid"]) == holder["process"] != ""
    return time.time() - holder["beat"] < DEAD_AFTER_S


def _machine() -> str:
    """What sees the same processes: this boot of this machine, and in it this container.

    A host's name would not do: several machines may be called `localhost`, and containers share their host's.
    """
    try:
        with open("/proc/sys/kernel/random/boot_id") as boot:
            return f"{boot.read().strip()}:{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _process_identity(pid: int) -> str:
    """The start time of a process: its number alone may belong to another one by now."""
    try:
        with open(f"/proc/{pid}/stat") as status:
            # Counted behind the command's closing bracket, since a command may contain spaces: field 3 is the state,
            # field 22 the start. A zombie was killed, and waits for a parent that may never ask for it.
            fields = status.read().rpartition(")")[2].split()
            return "" if fields[0] in "ZX" else fields[19]
    except (FileNotFoundError, ProcessLookupError):
        return "" if os.path.isdir("/proc/self") else _without_proc(pid)


def _without_proc(pid: int) -> str:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        return str(pid)
    return str(pid)


def _refusal(layout: Layout, holder: dict[str, Any]) -> str:
    return (
        f"another run is at work on {layout.root!r}: {holder.get('run_id', 'just started')} on "
        f"{holder.get('host', 'another machine')} (process {holder.get('pid', '?')}), "
        f"last sign of life {holder.get('beat_at', 'this moment')}"
    )
