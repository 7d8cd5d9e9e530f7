"""`beam-embed layers --model NAME`: every layer that `--layer` can ask for."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict
from typing import Any

from beam_pipeline.cli import model_flags, quiet

BYTES_OF_FLOAT32 = 4


def add_parser(subparsers: Any) -> None:
    """Declares the subcommand."""
    parser = subparsers.add_parser("layers", help="list the layers of a model", description=__doc__, allow_abbrev=False)
    model_flags.add_network_flags(parser)
    parser.add_argument(
        "--weights", default="imagenet", help="as for embed: some networks differ by it (default: imagenet)"
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Builds the model without weights and prints its layers."""
    spec = model_flags.spec_from(args)
    quiet.import_tensorflow()
    from beam_pipeline.model import list_layers

    layers = list_layers(spec)
    sizes = [BYTES_OF_FLOAT32 * math.prod(layer.shape) for layer in layers]
    if args.json:
        rows = [asdict(layer) | {"bytes": size} for layer, size in zip(layers, sizes, strict=True)]
        print(json.dumps(rows, indent=1))
        return 0
    width = max(len(layer.name) for layer in layers)
    kind = max(len(layer.type) for layer in layers)
    print(f"{'INDEX':>5}  {'NAME':<{width}}  {'TYPE':<{kind}}  {'OUTPUT SHAPE':<18}{'BYTES A PICTURE':>16}")
    for layer, size in zip(layers, sizes, strict=True):
        shape = "x".join(map(str, layer.shape))
        print(f"{layer.index:>5}  {layer.name:<{width}}  {layer.type:<{kind}}  {shape:<18}{size:>16,}")
    height, breadth = spec.image.target_size
    print(f"\n{spec.model} at {height}x{breadth}; bytes are those of the whole output as float32, before compression.")
    return 0
