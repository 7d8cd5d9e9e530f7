"""`beam-embed demo`: draws labelled pictures, embeds them, and shows what came out and how to read it.

Only the demo may go on with random weights where ImageNet's cannot be had, and it says so.
"""

from __future__ import annotations

import argparse
import csv
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from beam_pipeline.cli import quiet
from beam_pipeline.cli.embed import embed_and_show
from beam_pipeline.errors import WeightsError
from beam_pipeline.job import Work
from beam_pipeline.spec import EmbeddingSpec

# The smallest well-known network: 14 MB of weights, and some seconds for the demo's pictures on any machine.
MODEL = "MobileNetV2"
SIDE = 256
OF_EACH_KIND = 12
FORMATS = ("jpg", "png", "webp", "bmp", "gif")
SHOWN = 6


def add_parser(subparsers: Any) -> None:
    """Declares the subcommand."""
    parser = subparsers.add_parser(
        "demo", help="draw some pictures and embed them", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--output", default="demo", metavar="DIR", help="where pictures and dataset go (default: demo)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Draws, embeds, shows."""
    folder = Path(args.output).absolute()
    listing = draw(folder / "pictures")
    spec = _spec()
    dataset = folder / ("embeddings" if spec.weights == "imagenet" else "embeddings-random-weights")
    print(
        f"drawn    {OF_EACH_KIND * len(KINDS)} pictures of {len(KINDS)} kinds, and one broken file, in {listing.parent}"
    )
    code = embed_and_show(spec, Work(), verbose=False, inputs=str(listing), output=str(dataset), keep_columns=["label"])
    if code == 0:
        _show(dataset)
    return code


def _spec() -> EmbeddingSpec:
    quiet.import_tensorflow()
    from beam_pipeline.model import download_published

    spec = EmbeddingSpec(model=MODEL)
    try:
        download_published(spec, include_top=False)
    except WeightsError:
        print("no ImageNet weights can be had here, so the demo goes on with random weights, which know nothing")
        return EmbeddingSpec(model=MODEL, weights="random:1")
    return spec


def _show(dataset: Path) -> None:
    from beam_pipeline.dataset.reading import open_dataset

    table = open_dataset(str(dataset)).to_arrow().to_table(columns=["uri", "label"])
    labels = dict(zip(table.column("uri").to_pylist(), table.column("label").to_pylist(), strict=True))
    uris, vectors = open_dataset(str(dataset)).to_numpy()
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    likeness = unit @ unit.T
    np.fill_diagonal(likeness, -1)
    nearest = likeness.argmax(axis=1)
    same = sum(labels[uris[i]] == labels[uris[j]] for i, j in enumerate(nearest))
    print(f"\n{len(uris)} vectors of {vectors.shape[1]} numbers; some pictures and the one whose vector is nearest:")
    for i in range(0, len(uris), max(1, len(uris) // SHOWN)):
        print(f"  {Path(uris[i]).name:<18} {Path(uris[nearest[i]]).name:<18} cosine {likeness[i, nearest[i]]:.3f}")
    print(f"for {same} of {len(uris)} pictures the nearest is of the same kind\n")
    print("to read them:\n")
    print("  from beam_pipeline import open_dataset")
    print(f'  uris, vectors = open_dataset("{dataset}").to_numpy()')


def draw(folder: Path) -> Path:
    """Draws the pictures, the same ones every time, and a list of them with their labels.

    Returns:
      The path of the list, a CSV file with the columns `uri` and `label`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(0)
    rows = []
    for kind, paint in KINDS.items():
        for number in range(OF_EACH_KIND):
            name = f"{kind}-{number:02d}.{FORMATS[number % len(FORMATS)]}"
            image = Image.new("RGB", (SIDE, SIDE), _colour(rng, light=True))
            paint(ImageDraw.Draw(image), rng)
            image.save(folder / name)
            rows.append((name, kind))
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a picture after all")
    rows += [("broken.jpg", "broken"), rows[0]]  # a picture that fails, and one named twice
    with open(folder / "pictures.csv", "w", newline="") as handle:
        csv.writer(handle).writerows([("uri", "label"), *rows])
    return folder / "pictures.csv"


def _colour(rng: random.Random, *, light: bool) -> tuple[int, int, int]:
    low, high = (170, 255) if light else (0, 120)
    return rng.randint(low, high), rng.randint(low, high), rng.randint(low, high)


def _disc(canvas: ImageDraw.ImageDraw, rng: random.Random) -> None:
    x, y, r = rng.randint(80, 176), rng.randint(80, 176), rng.randint(40, 78)
    canvas.ellipse((x - r, y - r, x + r, y + r), fill=_colour(rng, light=False))


def _stripes(canvas: ImageDraw.ImageDraw, rng: random.Random) -> None:
    width, slant, colour = rng.randint(8, 20), rng.randint(-60, 60), _colour(rng, light=False)
    for x in range(-SIDE, 2 * SIDE, 2 * width):
        canvas.line((x, 0, x + slant, SIDE), fill=colour, width=width)


def _checkers(canvas: ImageDraw.ImageDraw, rng: random.Random) -> None:
    side, colour = rng.choice((16, 24, 32, 40)), _colour(rng, light=False)
    for row in range(0, SIDE, side):
        for column in range(0, SIDE, side):
            if (row + column) // side % 2:
                canvas.rectangle((column, row, column + side - 1, row + side - 1), fill=colour)


def _star(canvas: ImageDraw.ImageDraw, rng: random.Random) -> None:
    x, y, r, turn = rng.randint(100, 156), rng.randint(100, 156), rng.randint(60, 95), rng.random() * math.tau
    points = []
    for i in range(10):
        reach, angle = r if i % 2 else r * 0.4, turn + i * math.tau / 10
        points.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
    canvas.polygon(points, fill=_colour(rng, light=False))


KINDS: dict[str, Callable[[ImageDraw.ImageDraw, random.Random], None]] = {
    "disc": _disc,
    "stripes": _stripes,
    "checkers": _checkers,
    "star": _star,
}
