"""The flags that make a spec, shared by the subcommands that take one."""

from __future__ import annotations

import argparse

from beam_pipeline.cli.values import pair, size
from beam_pipeline.spec import DTYPES, GRAY16, INTERPOLATIONS, POOLINGS, EmbeddingSpec


def add_network_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that choose a network."""
    group = parser.add_argument_group("model")
    group.add_argument("--model", required=True, metavar="NAME", help="an application; 'beam-embed models' lists them")
    group.add_argument(
        "--model-arg",
        action="append",
        type=pair,
        default=[],
        metavar="KEY=VALUE",
        help="an argument of its constructor, such as alpha=0.25; repeatable",
    )
    group.add_argument("--include-top", action="store_true", help="build the classifier on top too")
    group.add_argument(
        "--pooling",
        choices=POOLINGS,
        help="of the column 'embedding', the features under the classifier (default: avg; with --layer no such column)",
    )
    group.add_argument(
        "--target-size", type=size, metavar="HxW", help="pixels, one number for both (default: the application's own)"
    )


def add_vector_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that choose weights, outputs, and how pictures become pixels."""
    group = parser.add_argument_group("weights and outputs")
    group.add_argument(
        "--weights",
        default="imagenet",
        metavar="SOURCE",
        help="'imagenet', a .weights.h5 or .h5 file, or 'random:SEED' (default: imagenet)",
    )
    group.add_argument(
        "--layer",
        action="append",
        default=[],
        metavar="NAME[:POOLING]",
        help="a layer by name or index as a column of its own, with avg, max, none or flatten; repeatable",
    )
    group.add_argument("--dtype", choices=DTYPES, default="float32", help="of the stored vectors (default: float32)")
    group.add_argument("--normalize", action="store_true", help="divide each vector by its Euclidean length")
    group = parser.add_argument_group("pictures")
    group.add_argument(
        "--interpolation", choices=INTERPOLATIONS, default="nearest", help="default: nearest, as in Keras"
    )
    group.add_argument("--keep-aspect-ratio", action="store_true", help="crop the centre instead of squeezing")
    group.add_argument("--exif-orientation", action="store_true", help="turn pictures upright first")
    group.add_argument(
        "--gray16",
        choices=GRAY16,
        default="scale",
        help="16-bit grey: scale to 8 bits, or clip as Keras does (default: scale)",
    )


def spec_from(args: argparse.Namespace) -> EmbeddingSpec:
    """The spec that the flags of a subcommand describe; those it does not have stay at their defaults.

    Raises:
      ConfigurationError: for what cannot work.
    """
    optional = ("weights", "dtype", "normalize", "interpolation", "keep_aspect_ratio", "exif_orientation", "gray16")
    given = {name: getattr(args, name) for name in optional if hasattr(args, name)}
    return EmbeddingSpec(
        model=args.model,
        model_args=dict(args.model_arg),
        include_top=args.include_top,
        pooling=args.pooling,
        target_size=args.target_size,
        layers=tuple(getattr(args, "layer", ())),
        **given,
    )
