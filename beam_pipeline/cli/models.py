"""`beam-embed models`: all applications, from the table; nothing is built."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from beam_pipeline.applications import APPLICATIONS


def add_parser(subparsers: Any) -> None:
    """Declares the subcommand."""
    parser = subparsers.add_parser("models", help="list all 40 applications", description=__doc__, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the table."""
    if args.json:
        print(json.dumps([asdict(app) for app in APPLICATIONS.values()], indent=1))
        return 0
    print(f"{'MODEL':<19}{'INPUT':>6}{'SMALLEST':>10}{'VECTOR':>8}{'PARAMETERS':>13}{'WITH TOP':>13}  PREPROCESSING")
    for app in APPLICATIONS.values():
        print(
            f"{app.name:<19}{app.default_size:>6}{app.smallest_size:>10}{app.vector_size:>8}"
            f"{app.parameters:>13,}{app.parameters_with_top:>13,}  {app.preprocessing}"
        )
    print(
        "\nINPUT and SMALLEST are the sides of a square in pixels; VECTOR is the number of pooled features.\n"
        "PREPROCESSING: caffe (BGR, mean subtracted), tf (-1 to 1), torch (mean, deviation), model (inside the model)."
    )
    return 0
