"""`beam-embed`: finds the subcommand, runs it, and turns what it raises into a message and an exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from beam_pipeline.cli import demo, embed, exit_codes, files, layers, models, quiet
from beam_pipeline.errors import BeamEmbedError, ConfigurationError
from beam_pipeline.version import VERSION

SUBCOMMANDS = (embed, models, layers, files, demo)


class _Parser(argparse.ArgumentParser):
    """Subcommands inherit it. Their usage has thirty lines, under which the mistake itself would be lost."""

    def error(self, message: str) -> NoReturn:
        self.exit(exit_codes.MISTAKE, f"beam-embed: {message}; '{self.prog} --help' shows what there is\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command."""
    parser = _Parser(
        prog="beam-embed",
        description="Turns a corpus of images into embeddings with pretrained Keras models, in batch, on Apache Beam.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"beam-embed {VERSION}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in SUBCOMMANDS:
        module.add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
      argv: without the program's name; by default the process's own.

    Returns:
      The exit code.
    """
    parser = build_parser()
    args, rest = parser.parse_known_args(_joined(sys.argv[1:] if argv is None else argv))
    if rest and args.command != "embed":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    args.rest = rest
    if not getattr(args, "verbose", False):
        quiet.silence()
    try:
        code: int = args.run(args)
        return code
    except ConfigurationError as error:
        return _complain(error, exit_codes.MISTAKE)
    except BeamEmbedError as error:
        return _complain(error, exit_codes.FAILED)
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        sys.stderr.close()
        return exit_codes.FAILED
    except KeyboardInterrupt:
        return exit_codes.INTERRUPTED


def _joined(argv: Sequence[str]) -> list[str]:
    """`--layer -1:avg` as `--layer=-1:avg`: argparse takes everything else that begins with a dash for a flag."""
    joined: list[str] = []
    for text in argv:
        if joined and joined[-1] == "--layer" and text[:1] == "-" and text[1:2].isdigit():
            joined[-1] += f"={text}"
        else:
            joined.append(text)
    return joined


def _complain(error: BeamEmbedError, code: int) -> int:
    print(f"beam-embed: {error}", file=sys.stderr)
    return code
