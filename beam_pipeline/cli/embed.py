"""`beam-embed embed`: the job."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from typing import Any

from beam_pipeline.cli import exit_codes, model_flags, quiet
from beam_pipeline.cli.display import Display
from beam_pipeline.cli.values import byte_count, duration, names, pair
from beam_pipeline.errors import BeamEmbedError, ConfigurationError
from beam_pipeline.job import RETRY_FAILED, Work
from beam_pipeline.spec import EmbeddingSpec, Limits


def add_parser(subparsers: Any) -> None:
    """Declares the subcommand."""
    parser = subparsers.add_parser(
        "embed",
        help="embed a corpus of images",
        description="Embeds a corpus of images into a dataset of Parquet files. Run again, it embeds only what is new.",
        epilog="Options that are not listed here are Beam's and are passed on to it.",
        allow_abbrev=False,
    )
    _add_input_flags(parser)
    model_flags.add_network_flags(parser)
    model_flags.add_vector_flags(parser)
    _add_work_flags(parser)
    parser.set_defaults(run=run, known_flags=[flag for action in parser._actions for flag in action.option_strings])


def _add_input_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("input and output")
    group.add_argument(
        "--input",
        action="append",
        required=True,
        metavar="SRC",
        help="a glob (** too), a folder, a picture, or a list: .txt, .csv, .jsonl (also .gz), .parquet; repeatable",
    )
    group.add_argument("--output", required=True, metavar="DIR", help="the folder of the dataset, a path or URI")
    group.add_argument("--uri-column", default="uri", metavar="NAME", help="the lists' column of URIs (default: uri)")
    group.add_argument(
        "--keep-columns",
        action="extend",
        type=names,
        default=[],
        metavar="NAME[:TYPE],…",
        help="columns to carry through, such as id:int64,label",
    )
    group.add_argument("--id-column", metavar="NAME", help="a column that identifies a picture, where URIs change")
    group.add_argument(
        "--storage-option",
        action="append",
        type=pair,
        default=[],
        metavar="KEY=VALUE",
        help="for remote file systems, as fsspec names it; s3.KEY=VALUE for one scheme alone; repeatable",
    )


def _add_work_flags(parser: argparse.ArgumentParser) -> None:
    work, limits = Work(), Limits()
    group = parser.add_argument_group("work")
    group.add_argument(
        "--batch-size",
        type=int,
        default=work.batch_size,
        help="pictures in one call of the model (default: %(default)s)",
    )
    group.add_argument(
        "--images-per-shard",
        type=int,
        default=work.images_per_shard,
        help="pictures in one Parquet part, on average (default: %(default)s)",
    )
    group.add_argument(
        "--run-id", metavar="ID", help="name of the run; a published one is not run again (default: the time)"
    )
    group.add_argument(
        "--retry-failed",
        choices=RETRY_FAILED,
        default=work.retry_failed,
        help="which earlier failures are tried again (default: %(default)s)",
    )
    group.add_argument(
        "--max-failure-ratio",
        type=float,
        default=work.max_failure_ratio,
        metavar="SHARE",
        help="of pictures tried for the first time; above it the exit code is 3 (default: %(default)s)",
    )
    group.add_argument("--limit", type=int, metavar="N", help="at most N new pictures in this run")
    group.add_argument("--stop-after", type=duration, metavar="TIME", help="begin no shard after 90s, 30m or 6h")
    group.add_argument("--max-image-bytes", type=byte_count, default=limits.max_image_bytes, metavar="BYTES")
    group.add_argument("--max-pixels", type=int, default=limits.max_pixels, metavar="N", help="width times height")
    group.add_argument("--runner", default="FnApiRunner", help="a Beam runner (default: FnApiRunner, in this process)")
    group.add_argument("--verbose", action="store_true", help="show what TensorFlow and Beam say, and tracebacks")


def run(args: argparse.Namespace) -> int:
    """Runs the job and shows how it goes."""
    spec = model_flags.spec_from(args)
    work = Work(
        batch_size=args.batch_size,
        images_per_shard=args.images_per_shard,
        retry_failed=args.retry_failed,
        limit=args.limit,
        stop_after_s=args.stop_after,
        max_failure_ratio=args.max_failure_ratio,
    )
    limits = Limits(args.max_image_bytes, args.max_pixels)
    _check_rest(args.rest, args.known_flags)
    return embed_and_show(
        spec,
        work,
        verbose=args.verbose,
        inputs=args.input,
        output=args.output,
        uri_column=args.uri_column,
        keep_columns=args.keep_columns,
        id_column=args.id_column,
        run_id=args.run_id,
        limits=limits,
        storage_options=dict(args.storage_option),
        runner=args.runner,
        beam_options=args.rest,
    )


def embed_and_show(spec: EmbeddingSpec, work: Work, *, verbose: bool, **job: Any) -> int:
    """Runs a job with its progress on the screen.

    Args:
      spec: what is computed.
      work: how it is done.
      verbose: let errors that are not ours come with their traceback.
      **job: the other arguments of `beam_pipeline.embed`.

    Returns:
      The exit code.
    """
    quiet.import_tensorflow()
    from beam_pipeline.launcher import embed

    if not verbose:
        quiet.silence()  # again: importing Beam sets up logging of its own
    display = Display(spec)
    try:
        with display:
            finished = embed(spec=spec, work=work, observer=display.observer(), **job)
    except (Exception, KeyboardInterrupt) as error:
        if _is_interrupt(error):
            display.interrupted()
            sys.stdout.flush()
            # The runner's threads would go on to the end of their shard; a kill costs no more than this does.
            os._exit(exit_codes.INTERRUPTED)
        if verbose or isinstance(error, BeamEmbedError):
            raise
        display.failed(error)
        return exit_codes.FAILED
    display.summary(finished)
    if finished.already_published:  # a scheduler's retry is to end, whatever the run was like
        return exit_codes.DONE
    if finished.failure_ratio <= work.max_failure_ratio:
        return exit_codes.DONE
    print(
        f"beam-embed: {finished.failure_ratio:.0%} of the pictures tried for the first time failed, more than "
        f"--max-failure-ratio {work.max_failure_ratio} allows; the run is published all the same",
        file=sys.stderr,
    )
    return exit_codes.TOO_MANY_FAILURES


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether Ctrl-C is at the bottom of an error: Beam wraps what is raised in a step into errors of its own."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _check_rest(rest: list[str], known_flags: list[str]) -> None:
    """Refuses what is neither ours nor could be Beam's; Beam itself would pass over it in silence."""
    if rest and not rest[0].startswith("--"):
        hint = "; quote a pattern, so that the shell leaves it alone" if os.path.exists(rest[0]) else ""
        raise ConfigurationError(f"unexpected argument {rest[0]!r}{hint}")
    for flag in (text.partition("=")[0] for text in rest if text.startswith("--")):
        close = difflib.get_close_matches(flag, known_flags, n=1, cutoff=0.8)
        if close:
            raise ConfigurationError(f"unknown option {flag}; did you mean {close[0]}?")
