"""What a job shows on the screen: what will be done, how far it is, and a summary whose numbers reconcile."""

from __future__ import annotations

import collections
import sys
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from beam_pipeline.cli.values import human_bytes, human_count, human_time
from beam_pipeline.dataset.plan import Plan, read_plan
from beam_pipeline.errors import DatasetError
from beam_pipeline.job import Job
from beam_pipeline.launcher import Finished, Observer
from beam_pipeline.progress import TALLY
from beam_pipeline.spec import EmbeddingSpec

# zstd on vectors of photographs: 0.91 of their raw size.
COMPRESSION = 0.91
PLAIN_LINE_EVERY_S = 10.0
LOOK_EVERY_S = 0.2
# The speed shown is that of the last half minute: long enough to be steady, short enough to show a change.
SPEED_OVER_S = 30.0


class Display:
    """Shows one job. A context manager: a thread draws the progress while it is open."""

    def __init__(self, spec: EmbeddingSpec) -> None:
        self._spec = spec
        self._console = Console(highlight=False, soft_wrap=True)
        self._job: Job | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def observer(self) -> Observer:
        """What the launcher tells."""
        return Observer(ready=self._ready, adopted=self._adopted, resumed=self._resumed)

    def __enter__(self) -> Display:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    # What the launcher tells

    def _adopted(self, manifest: Mapping[str, Any]) -> None:
        embedded = manifest["counts"]["embedded"]
        self._say(f"run {manifest['run_id']} was interrupted; its {embedded:,} finished embeddings are published now")

    def _resumed(self, plan: Plan) -> None:
        self._say(f"run {plan.run_id} goes on by its plan of {plan.counts.read:,} rows; the inputs are not read again")

    def _ready(self, job: Job) -> None:
        self._job = job
        spec, size = self._spec, "x".join(map(str, self._spec.image.target_size))
        self._say(
            f"model    {spec.model} at {size}, weights {job.settings['weights']} {job.resolved.weights.digest[:19]}"
        )
        for name, shape in job.resolved.shapes:
            kind = "vector" if len(shape) == 1 else "map"
            self._say(f"column   {name}: a {kind} of {'x'.join(map(str, shape))} {spec.dtype}")
        if spec.dtype == "float16":
            self._say("note     no Spark can read float16 columns; DuckDB, Polars and pyarrow can")
        self._say(f"output   {job.layout.root}, run {job.run_id}")
        self._thread = threading.Thread(target=self._follow, args=(job,), name="display", daemon=True)
        self._thread.start()

    # While it runs

    def _follow(self, job: Job) -> None:
        plan = self._wait_for_plan(job)
        if plan is None:
            return
        self._say(_intention(plan, job))
        if not plan.counts.new:
            return
        follow = self._draw_bar if self._console.is_terminal else self._print_lines
        follow(plan)

    def _wait_for_plan(self, job: Job) -> Plan | None:
        storage = job.storage()
        while True:
            stopped = self._stop.is_set()  # asked before the look, so that a short job's plan is shown too
            try:
                plan = read_plan(job.layout, job.run_id, storage)
            except DatasetError:
                return None  # the job itself says so
            if plan is not None or stopped:
                return plan
            self._stop.wait(LOOK_EVERY_S)

    def _draw_bar(self, plan: Plan) -> None:
        meter = _Meter(plan)
        columns: list[str | ProgressColumn] = [BarColumn(), TextColumn("{task.percentage:>3.0f}%"), _Line(meter)]
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task("", total=plan.counts.new)
            while not self._stop.wait(LOOK_EVERY_S):
                progress.update(task, completed=meter.look())
            progress.update(task, completed=meter.look())

    def _print_lines(self, plan: Plan) -> None:
        meter = _Meter(plan)
        printed = time.monotonic()
        while not self._stop.wait(LOOK_EVERY_S):
            meter.look()
            if time.monotonic() - printed >= PLAIN_LINE_EVERY_S:
                self._say(meter.line())
                printed = time.monotonic()

    # At the end

    def summary(self, finished: Finished) -> None:
        """Prints what became of every row of the input."""
        manifest, counts = finished.manifest, finished.manifest["counts"]
        if finished.already_published:
            self._say(f"run {manifest['run_id']} is published already; nothing was done")
        if self._job is not None:
            tally = TALLY.read()
            done = tally.embedded + tally.failed - tally.found
            speed = f", {done / finished.seconds:.1f} img/s" if done > 0 else ""
            self._say(f"run {manifest['run_id']} {manifest['status']} after {human_time(finished.seconds)}{speed}")
        reasons = ", ".join(
            f"{count:,} {name.replace('_', ' ')}" for name, count in manifest["skipped"].items() if count
        )
        conflicting = f"{counts['conflicting']:,} conflicting" if counts["conflicting"] else ""
        rows = (
            ("read", "read", ""),
            ("embedded", "embedded", ""),
            ("failed", "failed", self._failures(manifest)),
            ("skipped", "skipped", reasons),
            ("duplicates", "duplicates", conflicting),
        )
        for label, key, note in rows:
            self._say(f"  {label:<11}{counts[key]:>11,}{'   ' + note if note else ''}")

    def _failures(self, manifest: Mapping[str, Any]) -> str:
        failures = manifest["failures"]
        if not failures["file"]:
            return ""
        return (
            ", ".join(f"{count:,} {kind}" for kind, count in failures["kinds"].items()) + f"   see {failures['file']}"
        )

    def interrupted(self) -> None:
        """Prints what an interrupted job leaves, and how to go on."""
        self._say("interrupted; the parts that are finished are kept: run the same command again to go on")

    def failed(self, error: BaseException) -> None:
        """Prints why the job failed."""
        text = str(error).strip()
        reason = next((line for line in reversed(text.splitlines()) if line.strip()), type(error).__name__)
        print(f"beam-embed: the job failed: {reason}\n  --verbose shows where", file=sys.stderr)

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False)


class _Meter:
    """Done, failed, speed and time left, from the counts of this process."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._seen: collections.deque[tuple[float, int]] = collections.deque([(time.monotonic(), 0)])

    def look(self) -> int:
        now, tally = time.monotonic(), TALLY.read()
        done = tally.embedded + tally.failed
        self._seen.append((now, done))
        while len(self._seen) > 2 and now - self._seen[0][0] > SPEED_OVER_S:
            self._seen.popleft()
        return done

    def line(self) -> str:
        tally, counts = TALLY.read(), self._plan.counts
        done = tally.embedded + tally.failed
        (then, before), (now, after) = self._seen[0], self._seen[-1]
        speed = (after - before) / (now - then) if now > then else 0.0
        left = human_time((counts.new - done) / speed) if speed else "unknown"
        skipped = counts.already_embedded + counts.already_failed + counts.over_limit
        numbers = f"{done:,}/{counts.new:,} done, {tally.failed:,} failed, {skipped:,} skipped"
        return f"{numbers}, {speed:.1f} img/s, {left} left"


class _Line(ProgressColumn):
    def __init__(self, meter: _Meter) -> None:
        super().__init__()
        self._meter = meter

    def render(self, task: Task) -> Text:
        return Text(self._meter.line())


def _intention(plan: Plan, job: Job) -> str:
    counts = plan.counts
    if not counts.new:
        return f"input    {human_count(counts.read, 'row')}, nothing new to embed"
    size = human_bytes(counts.new * job.resolved.vector_bytes * COMPRESSION)
    pictures, shards = human_count(counts.new, "new picture"), human_count(len(plan.work), "shard")
    return f"input    {human_count(counts.read, 'row')}, {pictures} in {shards}, about {size} on disk"
