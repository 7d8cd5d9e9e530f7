"""A picture's pixels equal those of `keras.utils.load_img` byte for byte, and whatever a file holds, it fails alone."""

from __future__ import annotations

import functools
import gzip
import io
import itertools
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, PngImagePlugin

from beam_pipeline.errors import ImageFailure
from beam_pipeline.images import DecodedImage, decode, prepare_decoder
from beam_pipeline.spec import INTERPOLATIONS, ImagePolicy, Limits

ORIENTATION = 0x0112
TAGS = range(1, 9)


# Pillow advises RGBA where a palette has transparency; load_img makes RGB of it.
pytestmark = pytest.mark.filterwarnings("ignore:Palette images with Transparency:UserWarning")


@pytest.fixture(autouse=True)
def _prepared() -> None:
    prepare_decoder()


def plain_keras(data: bytes, policy: ImagePolicy) -> np.ndarray:
    """What plain Keras code gives for the same bytes."""
    from keras.utils import load_img

    image = load_img(
        io.BytesIO(data),
        target_size=policy.target_size,
        interpolation=policy.interpolation,
        keep_aspect_ratio=policy.keep_aspect_ratio,
    )
    return np.asarray(image)


def decoded(data: bytes, policy: ImagePolicy | None = None, limits: Limits | None = None) -> DecodedImage:
    return decode(data, policy or ImagePolicy((32, 32)), limits or Limits())


def failure(data: bytes, policy: ImagePolicy | None = None, limits: Limits | None = None) -> ImageFailure:
    with pytest.raises(ImageFailure) as raised:
        decoded(data, policy, limits)
    assert raised.value.stage == "decode"
    assert raised.value.retryable is False
    return raised.value


def same_as_keras(data: bytes, policy: ImagePolicy) -> None:
    found = decoded(data, policy).pixels
    assert found.dtype == np.uint8
    assert found.shape == (*policy.target_size, 3)
    np.testing.assert_array_equal(found, plain_keras(data, policy))


@functools.cache
def noise(width: int, height: int, channels: int = 3) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(width * 1000 + height).integers(0, 256, shape, dtype=np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    held = io.BytesIO()
    image.save(held, kind, **options)
    return held.getvalue()


def gray16(width: int, height: int) -> np.ndarray:
    """All of the range: an even ramp with noise in the lower byte."""
    upper = noise(width, height, 1).astype(np.uint16)
    return (upper << 8) | noise(height, width, 1).T


def _pictures(width: int, height: int) -> dict[str, bytes]:
    """One encoded picture for each of Pillow's modes that a file can bring."""
    rgb = Image.fromarray(noise(width, height))
    rgba = Image.fromarray(noise(width, height, 4))
    gray = rgb.convert("L")
    palette = rgb.convert("P", palette=Image.Palette.ADAPTIVE)
    ramp = noise(width, height, 1).astype(np.int32) * 3 - 200
    return {
        "1": encoded(rgb.convert("1"), "PNG"),
        "L": encoded(gray, "PNG"),
        "L with transparency": encoded(gray, "PNG", transparency=100),
        "LA": encoded(rgba.convert("LA"), "PNG"),
        "P": encoded(palette, "PNG"),
        "P with one transparent colour": encoded(palette, "PNG", transparency=3),
        "P with alpha": encoded(palette, "PNG", transparency=bytes(range(0, 250, 2))),
        "P in GIF": encoded(palette, "GIF"),
        "PA in GIF": encoded(palette, "GIF", transparency=3),
        "RGB": encoded(rgb, "PNG"),
        "RGB with transparency": encoded(rgb, "PNG", transparency=(1, 2, 3)),
        "RGB in JPEG": encoded(rgb, "JPEG"),
        "RGB in progressive JPEG": encoded(rgb, "JPEG", progressive=True),
        "L in JPEG": encoded(gray, "JPEG"),
        "RGB in WEBP": encoded(rgb, "WEBP"),
        "RGB in BMP": encoded(rgb, "BMP"),
        "RGBA": encoded(rgba, "PNG"),
        "RGBA in WEBP": encoded(rgba, "WEBP", lossless=True),
        "CMYK in JPEG": encoded(rgb.convert("CMYK"), "JPEG"),
        "CMYK in TIFF": encoded(rgb.convert("CMYK"), "TIFF"),
        "YCbCr in IM": encoded(rgb.convert("YCbCr"), "IM"),
        "YCbCr in TIFF": encoded(rgb.convert("YCbCr"), "TIFF", compression="tiff_lzw"),
        "LAB in TIFF": encoded(Image.fromarray(noise(width, height), "LAB"), "TIFF"),
        "I in TIFF": encoded(Image.fromarray(ramp), "TIFF"),
        "F in TIFF": encoded(Image.fromarray(ramp.astype(np.float32) / 2), "TIFF"),
        "I;16": encoded(Image.fromarray(gray16(width, height)), "PNG"),
        "I;16 in TIFF": encoded(Image.fromarray(gray16(width, height)), "TIFF"),
        "I;16B in TIFF": _big_endian_tiff(gray16(width, height)),
    }


def _big_endian_tiff(values: np.ndarray) -> bytes:
    """A TIFF that Pillow opens in mode `I;16B`; it writes none itself."""
    height, width = values.shape
    tags = [(256, width), (257, height), (258, 16), (259, 1), (262, 1), (273, 8), (277, 1), (278, height)]
    tags.append((279, values.size * 2))
    pixels = values.astype(">u2").tobytes()
    entries = b"".join(struct.pack(">HHII", tag, 4, 1, value) for tag, value in tags)
    return b"MM\0*" + struct.pack(">I", 8 + len(pixels)) + pixels + struct.pack(">H", len(tags)) + entries + bytes(4)


PICTURES = _pictures(37, 23)


def test_the_pictures_are_of_all_modes():
    found = set()
    for data in PICTURES.values():
        with Image.open(io.BytesIO(data)) as image:
            found.add(image.mode)
    assert found >= {"1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I", "F", "I;16", "I;16B"}


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("name", PICTURES)
def test_pixels_equal_those_of_keras_in_every_mode_and_interpolation(name, interpolation):
    for keep, size in itertools.product((False, True), ((32, 32), (40, 19), (23, 37), (7, 64))):
        same_as_keras(PICTURES[name], ImagePolicy(size, interpolation, keep, gray16="clip"))


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("width", [1, 2, 3, 31, 33, 301])
@pytest.mark.parametrize("height", [1, 2, 31, 200])
def test_pixels_equal_those_of_keras_at_odd_sizes(width, height, keep):
    data = encoded(Image.fromarray(noise(width, height)), "PNG")
    for interpolation in ("nearest", "bilinear", "lanczos"):
        same_as_keras(data, ImagePolicy((32, 32), interpolation, keep))


def test_one_pixel_fills_the_picture():
    data = encoded(Image.new("RGB", (1, 1), (10, 200, 30)), "PNG")
    for interpolation in INTERPOLATIONS:
        pixels = decoded(data, ImagePolicy((32, 48), interpolation)).pixels
        assert (pixels == (10, 200, 30)).all()
        assert pixels.shape == (32, 48, 3)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize(("width", "height"), [(1, 100), (100, 1), (1, 1), (3, 200)])
def test_a_picture_too_narrow_for_a_crop_is_what_keras_makes_of_it(width, height, interpolation):
    # Of one pixel of width, a box twice as wide as it is high has no height at all.
    data = encoded(Image.fromarray(noise(width, height)), "PNG")
    for size in ((32, 64), (64, 32), (32, 320)):
        same_as_keras(data, ImagePolicy(size, interpolation, keep_aspect_ratio=True))


def test_a_picture_of_the_target_size_is_not_resampled():
    data = encoded(Image.fromarray(noise(48, 32)), "PNG")
    for interpolation in INTERPOLATIONS:
        np.testing.assert_array_equal(decoded(data, ImagePolicy((32, 48), interpolation)).pixels, noise(48, 32))


def test_the_first_frame_of_an_animation_is_the_picture():
    frames = [Image.fromarray(noise(20, 20)), Image.fromarray(255 - noise(20, 20))]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        same_as_keras(encoded(frames[0], kind, save_all=True, append_images=frames[1:]), ImagePolicy((32, 32)))


def test_the_picture_says_what_it_was_before_it_was_turned_and_resized():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    data = encoded(Image.fromarray(noise(37, 23)), "JPEG", exif=exif)
    found = decoded(data, ImagePolicy((32, 32), exif_orientation=True))
    assert (found.width, found.height, found.format) == (37, 23, "JPEG")


# 16-bit grey


@pytest.mark.parametrize("name", ["I;16", "I;16 in TIFF", "I;16B in TIFF"])
def test_16_bit_grey_keeps_its_upper_byte(name):
    upper = (gray16(37, 23) >> 8).astype(np.uint8)
    found = decoded(PICTURES[name], ImagePolicy((23, 37))).pixels
    np.testing.assert_array_equal(found, np.repeat(upper[:, :, None], 3, axis=2))
    as_8_bit = encoded(Image.fromarray(upper), "PNG")
    for interpolation in INTERPOLATIONS:
        policy = ImagePolicy((32, 32), interpolation, keep_aspect_ratio=True)
        np.testing.assert_array_equal(decoded(PICTURES[name], policy).pixels, plain_keras(as_8_bit, policy))


def test_16_bit_grey_is_clipped_as_in_keras_only_where_asked_for():
    clipped = decoded(PICTURES["I;16"], ImagePolicy((23, 37), gray16="clip")).pixels
    np.testing.assert_array_equal(clipped[:, :, 0], gray16(37, 23).clip(0, 255))
    assert (clipped == 255).mean() > 0.9, "which leaves little of the picture"


@pytest.mark.parametrize("name", [name for name in PICTURES if not name.startswith("I;16")])
def test_what_becomes_of_16_bit_grey_concerns_nothing_else(name):
    scale, clip = (decoded(PICTURES[name], ImagePolicy((32, 32), gray16=one)).pixels for one in ("scale", "clip"))
    np.testing.assert_array_equal(scale, clip)


# Orientation


def turned(tag: int, kind: str = "PNG") -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = tag
    return encoded(Image.fromarray(noise(37, 23)), kind, exif=exif)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("tag", TAGS)
def test_a_picture_is_turned_upright_only_where_asked_for(tag, kind):
    data = turned(tag, kind)
    for size, keep in (((32, 32), False), ((37, 23), True)):
        same_as_keras(data, ImagePolicy(size, "bilinear", keep))
        with Image.open(io.BytesIO(data)) as image:
            upright = encoded(ImageOps.exif_transpose(image).convert("RGB"), "PNG", exif=b"")
        policy = ImagePolicy(size, "bilinear", keep, exif_orientation=True)
        np.testing.assert_array_equal(decoded(data, policy).pixels, plain_keras(upright, policy))


def test_a_turn_by_90_degrees_is_one():
    upright = decoded(turned(6), ImagePolicy((37, 23), exif_orientation=True)).pixels
    np.testing.assert_array_equal(upright, np.rot90(noise(37, 23), -1))


@pytest.mark.parametrize("tag", [0, 9, 77])
def test_an_orientation_that_means_nothing_turns_nothing(tag):
    found = decoded(turned(tag), ImagePolicy((23, 37), exif_orientation=True)).pixels
    np.testing.assert_array_equal(found, noise(37, 23))


# Real pictures


def files_of(data: Path, *folders: str) -> list[Path]:
    paths = [path for folder in folders for path in sorted((data / folder).iterdir())]
    return [path for path in paths if path.suffix.lower() in (".png", ".jpg", ".bmp")]


def test_every_png_of_the_suite_equals_keras_and_the_corrupt_ones_fail_as_there(data):
    corrupt = []
    paths = files_of(data, "pngsuite")
    assert len(paths) > 150
    for path in paths:
        content = path.read_bytes()
        try:
            same_as_keras(content, ImagePolicy((40, 50), "bilinear", gray16="clip"))
        except ImageFailure as error:
            corrupt.append((path.name, error.kind))
            with pytest.raises((OSError, SyntaxError, ValueError)):
                plain_keras(content, ImagePolicy((40, 50)))
    assert corrupt
    assert all(name.startswith("x") for name, _ in corrupt)
    assert {kind for _, kind in corrupt} == {"corrupt", "not_an_image"}


@pytest.mark.parametrize("keep", [False, True])
def test_every_photograph_equals_keras(data, keep):
    paths = files_of(data, "photos", "orientation")
    assert len(paths) > 25
    for path, interpolation in zip(paths, itertools.cycle(INTERPOLATIONS), strict=False):
        same_as_keras(path.read_bytes(), ImagePolicy((224, 299), interpolation, keep))


def test_every_camera_picture_equals_keras_and_the_truncated_one_fails_as_there(data):
    failed = []
    for path, interpolation in zip(files_of(data, "camera"), itertools.cycle(INTERPOLATIONS), strict=False):
        try:
            same_as_keras(path.read_bytes(), ImagePolicy((224, 224), interpolation))
        except ImageFailure as error:
            failed.append((path.name, error.kind))
            with pytest.raises(OSError, match="truncated"):
                plain_keras(path.read_bytes(), ImagePolicy((224, 224)))
    assert failed == [("User Comment Encoding.jpg", "corrupt")]


def test_real_pictures_of_all_orientations_come_out_upright(data):
    paths = files_of(data, "orientation")
    assert len(paths) == 18
    policy = ImagePolicy((60, 60), "bilinear", exif_orientation=True)
    for path in paths:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).resize((60, 60), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(decoded(path.read_bytes(), policy).pixels, np.asarray(upright))


def test_the_eight_orientations_show_one_picture(data):
    policy = ImagePolicy((64, 64), "box", exif_orientation=True)
    for name in ("Landscape", "Portrait"):
        views = [decoded((data / f"orientation/{name}_{tag}.jpg").read_bytes(), policy).pixels for tag in TAGS]
        for view in views[1:]:
            # They were compressed one by one, and a digit in each says which it is.
            assert np.abs(view.astype(int) - views[0]).mean() < 12


# What cannot be decoded

# Of what it makes of broken metadata.
PILLOW_WARNS = pytest.mark.filterwarnings("ignore::UserWarning")


def test_nothing_is_a_failure_of_its_own():
    found = failure(b"")
    assert (found.kind, found.message) == ("empty", "the file has no bytes")


@pytest.mark.parametrize(
    "data", [b"x", b"<html><body>404</body></html>", b"\0" * 100, b"\xff\xd8", b"uri,label\na.png,1\n", b"%PDF-1.7\n"]
)
def test_what_is_no_picture_says_how_it_begins(data):
    found = failure(data)
    assert found.kind == "not_an_image"
    assert found.message == f"no known picture format; the {len(data)} bytes begin with {data[:8].hex(' ')}"


def test_an_eps_is_refused_before_another_program_is_started_on_it():
    data = encoded(Image.fromarray(noise(20, 20)), "EPS")
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "EPS", "Pillow itself would open it"
    assert failure(data).kind == "not_an_image"


@PILLOW_WARNS
@pytest.mark.parametrize(
    "name", ["RGB", "RGB in JPEG", "RGB in progressive JPEG", "RGB in BMP", "RGB in WEBP", "F in TIFF"]
)
def test_a_truncated_picture_is_a_failure_wherever_it_ends(name):
    data = PICTURES[name]
    kinds = {failure(data[:length]).kind for length in range(1, len(data) - 60, max(1, len(data) // 40))}
    assert kinds <= {"corrupt", "not_an_image"}
    assert "corrupt" in kinds or name == "RGB in WEBP"


def test_a_corrupt_picture_says_what_the_decoder_said():
    data = PICTURES["RGB in JPEG"]
    assert failure(data[: len(data) // 2]).message.startswith("cannot be decoded: OSError: image file is truncated")


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded():
    data = PICTURES["RGB"]
    assert decoded(data, limits=Limits(max_pixels=37 * 23)).width == 37
    found = failure(data, limits=Limits(max_pixels=37 * 23 - 1))
    assert (found.kind, found.message) == ("too_many_pixels", "37x23 pixels are more than max_pixels=850")


def test_a_header_that_promises_too_much_costs_no_memory():
    chunk = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    png = bytearray(PICTURES["RGB"])
    png[12 : 12 + len(chunk)] = chunk
    png[29:33] = struct.pack(">I", PngImagePlugin._crc32(chunk))
    assert failure(bytes(png)).message == "60000x60000 pixels are more than max_pixels=89478485"


def png_of(colour_type: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of 2x2 pixels put together by hand, so that its checksums are right whatever it lacks."""
    header = struct.pack(">IIBBBBB", 2, 2, 8, colour_type, 0, 0, 0)
    everything = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    pieces = (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in everything
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(pieces)


def tiff_with(tag: int, kind: int) -> bytes:
    """A TIFF one of whose tags is of another type than it must be."""
    data = bytearray(_big_endian_tiff(gray16(3, 3)))
    place = data.index(struct.pack(">HHI", tag, 4, 1))
    data[place + 2 : place + 4] = struct.pack(">H", kind)
    return bytes(data)


def fits_of(compressed: bytes) -> bytes:
    """A FITS of 2x2 pixels that are compressed."""

    def cards(**values: str) -> bytes:
        lines = [f"{name:<8}= {value}".ljust(80).encode() for name, value in values.items()]
        return b"".join([*lines, b"END".ljust(80)]).ljust(2880)

    table = cards(
        XTENSION="'BINTABLE'", BITPIX="8", NAXIS="2", NAXIS1="8", NAXIS2="1", ZIMAGE="T", ZCMPTYPE="'GZIP_1  '",
        ZBITPIX="8", ZNAXIS="2", ZNAXIS1="2", ZNAXIS2="2",
    )  # fmt: skip
    return cards(SIMPLE="T", BITPIX="8", NAXIS="0") + table + bytes(8) + compressed + bytes(80)


def dds_of(flags: int) -> bytes:
    data = encoded(Image.fromarray(noise(9, 9)), "DDS")
    return data[:80] + struct.pack("<I", flags) + data[84:]


BROKEN = [
    ("a PNG with transparency and no palette", png_of(3, (b"tRNS", b"\0")), AssertionError),
    ("a PNG with a chunk that cannot be amid its pixels", png_of(2, (b"IDAT", b"x"), (b"\0\1\2\3", b"")), SyntaxError),
    ("a TIFF whose strips begin at a fraction", tiff_with(273, 5), TypeError),
    ("a TIFF whose height is a fraction", tiff_with(257, 5), ValueError),
    ("a FITS that is no deflate stream", fits_of(gzip.compress(b"")[:10] + b"\xff" * 90), zlib.error),
    ("a FITS that is no gzip", fits_of(bytes(90)), OSError),
    ("a DDS of no known layout", dds_of(0x180000), NotImplementedError),
    ("a QOI without its last pixels", encoded(Image.fromarray(noise(9, 9)), "QOI")[:-12], IndexError),
]


@pytest.mark.parametrize(("data", "error"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN])
def test_whatever_a_decoder_raises_is_a_corrupt_picture(data, error):
    found = failure(data)
    assert found.kind == "corrupt"
    assert isinstance(found.__cause__, error)
    assert found.message.startswith(f"cannot be decoded: {type(found.__cause__).__name__}: ")


@PILLOW_WARNS
def test_no_single_broken_byte_of_a_header_does_more_than_a_failure():
    causes = set()
    for _, data in MUTATED:
        for place in range(min(len(data), 130)):
            for value in (0, 255, data[place] ^ 128):
                found = outcome(data[:place] + bytes([value]) + data[place + 1 :], ImagePolicy((8, 9)), SMALL)
                causes.add(type(getattr(found, "__cause__", None)).__name__)
    assert causes >= {"NoneType", "OSError", "UnidentifiedImageError", "SyntaxError", "ValueError"}


SMALL = Limits(max_pixels=1 << 20)
MUTATED = [
    *((name, PICTURES[name]) for name in PICTURES if not name.startswith(("L", "1"))),
    *((f"turned in {kind}", turned(6, kind)) for kind in ("PNG", "JPEG", "WEBP", "TIFF")),
    ("LZW in TIFF", encoded(Image.fromarray(noise(37, 23)), "TIFF", compression="tiff_lzw")),
    ("deflate in TIFF", encoded(Image.fromarray(noise(37, 23)), "TIFF", compression="tiff_deflate")),
    (
        "two frames in GIF",
        encoded(Image.new("L", (9, 9)), "GIF", save_all=True, append_images=[Image.new("L", (9, 9), 9)]),
    ),
]
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["set", "flip", "cut", "insert", "end"]),
        st.one_of(st.integers(0, 80), st.integers(0, 4000)),  # headers are where decoders go astray
        st.integers(0, 255),
    ),
    min_size=1,
    max_size=8,
)


def edit(data: bytes, edits: list[tuple[str, int, int]]) -> bytes:
    out = bytearray(data)
    for action, where, value in edits:
        place = where % (len(out) + 1)
        if action == "set":
            out[place : place + 1] = bytes([value])
        elif action == "flip" and place < len(out):
            out[place] ^= 1 << value % 8
        elif action == "cut":
            del out[place : place + 1 + value % 8]
        elif action == "insert":
            out[place:place] = bytes([value]) * (1 + value % 3)
        elif action == "end" and value < 32:
            del out[place:]
    return bytes(out)


def outcome(data: bytes, policy: ImagePolicy, limits: Limits) -> DecodedImage | ImageFailure:
    try:
        return decode(data, policy, limits)
    except ImageFailure as failed:
        return failed


@PILLOW_WARNS
@settings(deadline=None, max_examples=600, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(MUTATED), EDITS, st.booleans(), st.booleans())
def test_whatever_bytes_a_file_holds_give_a_picture_or_a_failure_and_nothing_else(named, edits, upright, keep):
    found = outcome(edit(named[1], edits), ImagePolicy((8, 9), "bilinear", keep, upright), SMALL)
    if isinstance(found, ImageFailure):
        assert found.stage == "decode"
        assert found.kind in ("empty", "not_an_image", "too_many_pixels", "corrupt")
    else:
        assert (found.pixels.shape, found.pixels.dtype) == ((8, 9, 3), np.uint8)
        assert found.width * found.height <= 1 << 20
