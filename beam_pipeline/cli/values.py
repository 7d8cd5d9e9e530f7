"""Texts of the command line -> values: sizes, durations, `KEY=VALUE` pairs. Each raises argparse's own error."""

from __future__ import annotations

import argparse
import ast
import re
from typing import Any

_DURATION_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}
_BYTE_UNITS = {"": 1, "KB": 1000, "MB": 1000**2, "GB": 1000**3}


def pair(text: str) -> tuple[str, Any]:
    """`alpha=0.25` -> `("alpha", 0.25)`; numbers, true, false and none are values, everything else is text."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, received {text!r}")
    words = {"true": True, "false": False, "none": None, "null": None}
    if value.lower() in words:
        return key, words[value.lower()]
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


def size(text: str) -> tuple[int, int]:
    """`224` or `180x320`, height first -> a pair of pixels."""
    match = re.fullmatch(r"(\d+)(?:[x,](\d+))?", text)
    if match is None:
        raise argparse.ArgumentTypeError(
            f"expected pixels such as 224, or HEIGHTxWIDTH such as 180x320, received {text!r}"
        )
    height = int(match.group(1))
    return height, int(match.group(2) or height)


def duration(text: str) -> float:
    """`90`, `90s`, `30m` or `6h` -> seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected a duration such as 90s, 30m or 6h, received {text!r}")
    return float(match.group(1)) * _DURATION_UNITS[match.group(2)]


def byte_count(text: str) -> int:
    """`1000000` or `64MB` -> bytes."""
    match = re.fullmatch(r"(\d+)(|KB|MB|GB)", text.upper())
    if match is None:
        raise argparse.ArgumentTypeError(f"expected bytes such as 1000000 or 64MB, received {text!r}")
    return int(match.group(1)) * _BYTE_UNITS[match.group(2)]


def names(text: str) -> list[str]:
    """`id,label` -> `["id", "label"]`."""
    return [name.strip() for name in text.split(",") if name.strip()]


def human_count(count: int, thing: str) -> str:
    """`1 shard`, `1,200 shards`."""
    return f"{count:,} {thing}" + ("" if count == 1 else "s")


def human_bytes(count: float) -> str:
    """A number of bytes for a person."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def human_time(seconds: float) -> str:
    """A duration for a person."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, _ = divmod(int(seconds), 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
