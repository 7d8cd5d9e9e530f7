"""Where each file of a dataset lies. Names and paths alone; no file is opened."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass

from beam_pipeline.errors import ConfigurationError
from beam_pipeline.uris import join

# Keeps readers of Hive partitions from taking a date for a DATE.
RUN_PREFIX = "r-"
_RUN_ID = re.compile(r"r-[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Layout:
    """The paths of one dataset.

    Args:
      root: absolute path or URI of the output folder.
    """

    root: str

    @property
    def dataset_json(self) -> str:
        """What all runs agree on."""
        return join(self.root, "_dataset.json")

    @property
    def locks(self) -> str:
        """The folder of the lock of the run that is at work."""
        return join(self.root, "_locks")

    @property
    def weights(self) -> str:
        """Weights for workers, each under its digest."""
        return join(self.root, "_weights")

    @property
    def runs(self) -> str:
        """The folder with one folder for each run."""
        return join(self.root, "_runs")

    @property
    def embeddings(self) -> str:
        """The folder under which nothing but committed parts ends in `.parquet`."""
        return join(self.root, "embeddings")

    def run(self, run_id: str) -> str:
        """What a run writes down about itself."""
        return join(self.runs, run_id)

    def plan(self, run_id: str) -> str:
        """The work of a run, fixed before a picture is read."""
        return join(self.run(run_id), "plan.json")

    def work_list(self, run_id: str, name: str) -> str:
        """The image references of one shard."""
        return join(self.run(run_id), "work", name)

    def manifest(self, run_id: str) -> str:
        """Written last: with it a run is published."""
        return join(self.run(run_id), "manifest.json")

    def parts(self, run_id: str) -> str:
        """The folder of a run's parts."""
        return join(self.embeddings, f"run_id={run_id}")

    def part(self, run_id: str, name: str) -> str:
        """The embeddings of one shard."""
        return join(self.parts(run_id), name)

    def failures(self, run_id: str) -> str:
        """The failure rows of a run."""
        return join(self.root, relative_failures(run_id))


def relative_failures(run_id: str) -> str:
    """The failure rows of a run, from the dataset's folder."""
    return join("failures", f"run_id={run_id}", "part-00000.parquet")


def part_name(shard: int, shards: int) -> str:
    """`part-00007-of-00032.parquet`."""
    return f"part-{shard:05d}-of-{shards:05d}.parquet"


def run_id_from(text: str | None) -> str:
    """The id of a run: the given one with its prefix, or one made of the time.

    Raises:
      ConfigurationError: for an id that makes no good folder name.
    """
    if text is None:
        return RUN_PREFIX + datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H-%M-%S.%fZ")
    run_id = text if text.startswith(RUN_PREFIX) else RUN_PREFIX + text
    if not _RUN_ID.fullmatch(run_id):
        raise ConfigurationError(
            "a run id has up to 100 letters, digits, '.', '_' and '-', "
            f"and begins with a letter or digit; received {text!r}"
        )
    return run_id
