"""`beam-embed files DIR`: the published parts, one path a line, for tools that take a list of files."""

from __future__ import annotations

import argparse
from typing import Any

from beam_pipeline.cli.values import pair


def add_parser(subparsers: Any) -> None:
    """Declares the subcommand."""
    parser = subparsers.add_parser("files", help="list the published parts", description=__doc__, allow_abbrev=False)
    parser.add_argument("dataset", metavar="DIR", help="the output folder of embed")
    parser.add_argument("--storage-option", action="append", type=pair, default=[], metavar="KEY=VALUE")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the paths."""
    from beam_pipeline.dataset.reading import open_dataset

    for path in open_dataset(args.dataset, dict(args.storage_option)).files():
        print(path)
    return 0
