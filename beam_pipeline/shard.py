"""One shard from its work list to its committed part: the unit of work, of retry and of commit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from beam_pipeline.dataset import parts
from beam_pipeline.dataset.layout import Layout
from beam_pipeline.dataset.plan import Plan, WorkList, read_work_list
from beam_pipeline.embedder import Embedder
from beam_pipeline.errors import DatasetError
from beam_pipeline.references import CarriedColumn
from beam_pipeline.results import Embedded
from beam_pipeline.spec import ResolvedSpec
from beam_pipeline.storage import Storage


@dataclass(frozen=True)
class ShardResult:
    """What became of one shard.

    Args:
      footer: of the part that is committed now.
      ours: whether this call has computed and committed it; False where it was there already.
    """

    footer: parts.Footer
    ours: bool


def embed_shard(
    layout: Layout,
    plan: Plan,
    work: WorkList,
    resolved: ResolvedSpec,
    carried: Sequence[CarriedColumn],
    storage: Storage,
    embedder: Embedder,
    on_batch: Callable[[Embedded], None],
) -> ShardResult:
    """Embeds a work list into a part, unless the part is there already.

    Args:
      layout: of the dataset.
      plan: of the run.
      work: the shard.
      resolved: the spec.
      carried: the carried columns with their types.
      storage: the way to files.
      embedder: what turns its references into rows.
      on_batch: told of each batch as it is done.

    Raises:
      DatasetError: where the run is published already, so that this call comes too late.
    """
    name = parts.part_of(plan, work)
    committed = parts.read_footer(layout, plan.run_id, name, storage)
    if committed is not None:
        return ShardResult(committed, ours=False)
    references = read_work_list(layout, plan.run_id, work, carried, storage)
    uri = layout.part(plan.run_id, name)
    with storage.temporary(uri) as path:
        with parts.open_part(path, embedder.schema, carried) as writer:
            for embedded in embedder.embed(references):
                writer.write(embedded)
                on_batch(embedded)
            writer.close(parts.part_metadata(plan, work, resolved, writer, parts.new_attempt()))
        if storage.exists(layout.manifest(plan.run_id)):
            raise DatasetError(f"run {plan.run_id!r} is published already; shard {work.shard} comes too late")
        ours = storage.commit(path, uri)
    footer = parts.read_footer(layout, plan.run_id, name, storage)
    if footer is None:
        raise DatasetError(f"{uri!r} was committed and is gone")
    return ShardResult(footer, ours)
