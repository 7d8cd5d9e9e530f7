"""Bytes of a picture -> `uint8[H, W, 3]`, exactly as `keras.utils.load_img` does it, without importing Keras.

It does no I/O. The one thing done otherwise than in Keras is 16-bit grey; see `ImagePolicy.gray16`.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from beam_pipeline.errors import ImageFailure
from beam_pipeline.spec import ImagePolicy, Limits

# Keras's table of names, `PIL_INTERPOLATION_METHODS` in keras/src/utils/image_utils.py.
RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "hamming": Image.Resampling.HAMMING,
    "box": Image.Resampling.BOX,
    "lanczos": Image.Resampling.LANCZOS,
}
# Pillow opens EPS by running Ghostscript on it: a program started by somebody else's file.
REFUSED_FORMATS = frozenset({"EPS"})
# What Pillow's decoders raise for broken files. OSError covers truncation; the others were seen with mutated files,
# AssertionError too: of a PNG that has transparency and lacks the palette that it is of.
DECODER_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    IndexError,
    KeyError,
    OverflowError,
    EOFError,
    ZeroDivisionError,
    RuntimeError,
    NotImplementedError,
    AttributeError,
    AssertionError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True)
class DecodedImage:
    """A picture ready for the model.

    Args:
      pixels: `uint8[H, W, 3]`, RGB, 0 to 255, of the policy's target size.
      width: width in pixels as stored in the file, before any turning or resizing.
      height: height in pixels, likewise.
      format: Pillow's name of the format, such as `JPEG`.
    """

    pixels: np.ndarray
    width: int
    height: int
    format: str


def prepare_decoder() -> None:
    """Makes Pillow ready in this process; called once before pictures are decoded.

    Pillow's own limit on pixels is a process-wide warning. Ours is checked for each picture and names it.
    """
    Image.MAX_IMAGE_PIXELS = None
    Image.init()
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return  # the extra `heif` is not installed: such files are "not an image", and the failure row says so
    register_heif_opener()


def decode(data: bytes, policy: ImagePolicy, limits: Limits) -> DecodedImage:
    """Decodes one picture.

    Args:
      data: the encoded picture.
      policy: how it becomes pixels.
      limits: the number of pixels above which it is refused, before they are decoded.

    Raises:
      ImageFailure: with stage `decode`, and the kind `empty`, `not_an_image`, `too_many_pixels` or `corrupt`.
    """
    if not data:
        raise ImageFailure("decode", "empty", "the file has no bytes")
    try:
        with Image.open(io.BytesIO(data), formats=_formats()) as image:
            width, height = image.size
            if width * height > limits.max_pixels:
                message = f"{width}x{height} pixels are more than max_pixels={limits.max_pixels}"
                raise ImageFailure("decode", "too_many_pixels", message)
            name = image.format or ""
            return DecodedImage(_pixels(image, policy), width, height, name)
    except UnidentifiedImageError as error:
        raise ImageFailure("decode", "not_an_image", _not_an_image(data)) from error
    except MemoryError as error:
        raise ImageFailure("decode", "too_many_pixels", "the picture does not fit into memory") from error
    except DECODER_ERRORS as error:
        message = f"cannot be decoded: {type(error).__name__}: {error}"
        raise ImageFailure("decode", "corrupt", message) from error


def _formats() -> list[str]:
    return [name for name in Image.OPEN if name not in REFUSED_FORMATS]


def _not_an_image(data: bytes) -> str:
    return f"no known picture format; the {len(data)} bytes begin with {data[:8].hex(' ')}"


def _pixels(image: Image.Image, policy: ImagePolicy) -> np.ndarray:
    source: Image.Image = image
    if policy.exif_orientation:
        source = ImageOps.exif_transpose(source)
    source = _rgb(source, policy.gray16)
    height, width = policy.target_size
    if source.size != (width, height):
        box = _centre_box(source.size, policy) if policy.keep_aspect_ratio else None
        source = source.resize((width, height), RESAMPLING[policy.interpolation], box=box)
    return np.asarray(source, dtype=np.uint8)


def _rgb(image: Image.Image, gray16: str) -> Image.Image:
    if image.mode == "RGB":
        return image
    if gray16 == "scale" and image.mode.startswith("I;16"):
        # The upper byte, which is also what Pillow keeps of 16-bit colour. Converting directly would clip to 255.
        gray = (np.asarray(image) >> 8).astype(np.uint8)
        image = Image.fromarray(gray)
    return image.convert("RGB")


def _centre_box(size: tuple[int, int], policy: ImagePolicy) -> tuple[int, int, int, int]:
    """The largest centred box of the target's proportions, with load_img's own integer arithmetic."""
    width, height = size
    target_height, target_width = policy.target_size
    crop_height = min(height, (width * target_height) // target_width)
    crop_width = min(width, (height * target_width) // target_height)
    top, left = (height - crop_height) // 2, (width - crop_width) // 2
    return left, top, left + crop_width, top + crop_height
