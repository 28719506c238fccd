"""Anything a photo can come as → one upright RGB array."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import hashlib
import importlib
import io
import operator
import os
import stat
import sys
import types
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from facespace.defaults import MAX_PIXELS, MAX_PIXELS_VARIABLE
from facespace.errors import ImageError
from facespace.io.file_kinds import START, is_motion_jpeg, photo_format, raw_format, stray_bytes, video_start
from facespace.io.jpeg2000 import claimed_size
from facespace.io.jpeg_limits import check_jpeg
from facespace.io.png_limits import check_png
from facespace.io.ppm_limits import check_ppm
from facespace.io.prefetch import wait_for_room
from facespace.io.raw_photos import NOT_DEVELOPED, full_picture

MAX_PARTS = 100_000  # strips or tiles of a TIFF; one row a strip is 17,000, and each costs a decoder
MAX_RECORD = 2**30  # bytes; no image is longer, and a damaged length takes no memory

RGB = npt.NDArray[np.uint8]
Path = str | os.PathLike[str] | os.PathLike[bytes]
Source = Path | bytes | bytearray | memoryview | BinaryIO | Image.Image | npt.NDArray[Any]

# Pillow's names; its other decoders (EPS, PDF, FITS, …) are never asked.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000")
_VIDEO = "a video, not a photo; facespace identify and classify predict name people in videos"
_APPLE_DOUBLE = b"\0\x05\x16\x07"
_STRIP = 2**20  # pixels that are converted at once, so that a large photo is in memory twice at most
_BLOCK = 2**26  # bytes
# What a file asks for beside its pixels is looked at before Pillow sees it.
_CHECKS = {"JPEG": check_jpeg, "PNG": check_png, "PPM": check_ppm}


class DamagedImageWarning(UserWarning):
    """A photo was read although something in its file is not as it should be."""


def pixel_limit(default: int = MAX_PIXELS) -> int:
    """How many pixels a picture may have: what the variable `FACESPACE_MAX_PIXELS` says, else the default.

    Raises `ValueError` when the variable holds no positive whole number.

    >>> pixel_limit() == MAX_PIXELS or MAX_PIXELS_VARIABLE in os.environ
    True
    """
    text = os.environ.get(MAX_PIXELS_VARIABLE, "").strip()
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and int(text[:20]) > 0):
        raise ValueError(f"{MAX_PIXELS_VARIABLE} must be a number of pixels such as {MAX_PIXELS}, got {text[:40]!r}")
    return int(text[:20])


def read(source: Source, *, max_pixels: int | None = None) -> RGB:
    """A photo as a new upright (H,W,3) uint8 RGB array, C-contiguous, from a path, bytes, file, PIL image or array.

    EXIF orientation is applied and transparency laid over white. Of 16 bits the high byte is kept; where all values of gray
    have 8, 10, 12 or 14 bits, as those of scientific cameras, the highest 8 of these. Floats are in [0, 1] or, when any is
    above 1, in [0, 255]. Of several frames the first counts, of a file object all of it. A JPEG that lacks its end mark
    alone, or has a few stray bytes in front, is read with a `DamagedImageWarning`.
    An array is (H,W), (H,W,1), (H,W,2) gray and alpha, (H,W,3) or (H,W,4), of uint8, uint16, bool or float.

    Raises `ImageError` when it is no readable image or has more than `max_pixels` (asked before it is decoded; by default
    `pixel_limit()`, 250 million), and `TypeError` when `source` is nothing of the above.

    >>> read(np.array([[0.0, 1.0]])).tolist()
    [[[0, 0, 0], [255, 255, 255]]]
    """
    max_pixels = pixel_limit() if max_pixels is None else operator.index(max_pixels)
    if isinstance(source, np.ndarray):
        return _read_array(source, max_pixels)
    if isinstance(source, Image.Image):
        with _decoding("<PIL image>", max_pixels, "image"):
            return _read_pil(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _read_stream(io.BytesIO(source), "<bytes>", max_pixels)[0]
    if isinstance(source, (str, os.PathLike)):
        return _read_path(os.fsdecode(source), max_pixels)[0]
    if callable(getattr(source, "read", None)):
        return _read_file(source, max_pixels)
    got = type(source).__name__
    if source is None:
        got = "None, which is what some libraries give for a file they cannot read"
    raise TypeError(f"wanted a path, bytes, a binary file, a PIL image or a numpy array; got {got}")


def read_reduced(
    source: Path | bytes, least_scale: Callable[[int, int], float], *, max_pixels: int | None = None
) -> tuple[RGB, int]:
    """A photo as `read` gives it, or a JPEG at 1/n of its size, and n: 1, 2, 4 or 8.

    `least_scale` gives, for the height and width of the stored picture, the scale below which it must not fall. A JPEG's
    blocks of 8x8 pixels are decoded to 4x4, 2x2 or one pixel, which takes half of the time and 1/n² of the memory. Pixel
    (x, y) stands for the n x n pixels from (n·x, n·y) on. Errors and warnings are those of `read`.

    >>> from facespace.io.pictures import encode
    >>> photo = encode(Image.new("RGB", (400, 300)), "JPEG")
    >>> pixels, n = read_reduced(photo, lambda height, width: 100 / height)
    >>> pixels.shape, n
    ((150, 200, 3), 2)
    """
    max_pixels = pixel_limit() if max_pixels is None else operator.index(max_pixels)
    if isinstance(source, bytes):
        return _read_stream(io.BytesIO(source), "<bytes>", max_pixels, least_scale)
    return _read_path(os.fsdecode(source), max_pixels, least_scale)


def as_rgb(image: Source) -> RGB:
    """The image as (H,W,3) uint8 RGB: such an array as it is, without a copy, and everything else by `read`.

    Raises `ImageError` and `TypeError` like it, and `ValueError` for an array that is no image.

    >>> as_rgb(np.array([[0, 255]], np.uint8)).shape
    (1, 2, 3)
    >>> as_rgb(None)
    Traceback (most recent call last):
        ...
    TypeError: wanted a path, bytes, a binary file, a PIL image or a numpy array; got None, which is what some libraries give for a file they cannot read
    """
    if isinstance(image, np.ndarray) and image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8:
        return image
    if not isinstance(image, np.ndarray):
        return read(image)
    try:
        return read(image)
    except ImageError:
        raise ValueError(
            f"an image must be (H, W, 3) uint8 RGB, or gray, with alpha, of floats in [0, 1]; got {image.dtype} of shape "
            f"{image.shape}"
        ) from None


def are_several(images: object) -> bool:
    """Whether these may be several images: something to iterate over that is not one path, one array or one file's bytes.

    >>> are_several(["a.jpg"]), are_several("a.jpg"), are_several(np.zeros((4, 4, 3), np.uint8))
    (True, False, False)
    """
    if isinstance(images, (str, bytes, os.PathLike)) or (isinstance(images, np.ndarray) and images.ndim != 4):
        return False
    return isinstance(images, Iterable)


def _whole_size(*_: int) -> float:
    return 1.0


def _read_path(path: str, max_pixels: int, least_scale: Callable[[int, int], float] = _whole_size) -> tuple[RGB, int]:
    try:
        status = os.stat(path)  # before opening: opening a fifo waits for its writer
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(path, "a folder, not an image")
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(path, "not a regular file")
        with open(path, "rb") as stream:
            return _read_stream(stream, path, max_pixels, least_scale)
    except (OSError, ValueError) as error:  # ValueError: a name no file can have
        missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
        raise ImageError(path, "no such file" if missing else f"cannot be opened ({_text(error)})") from error


def _read_file(file: BinaryIO, max_pixels: int) -> RGB:
    name = getattr(file, "name", None)
    name = os.fsdecode(name) if isinstance(name, (str, bytes)) else "<file>"
    try:
        if getattr(file, "seekable", bool)():
            file.seek(0)
        data = file.read()
    except (OSError, ValueError, MemoryError) as error:
        raise ImageError(name, f"cannot be read ({_text(error)})") from error
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"a file object must be binary; its read() gave {type(data).__name__}")
    return _read_stream(io.BytesIO(data), name, max_pixels)[0]


def _read_stream(
    stream: BinaryIO, name: str, max_pixels: int, least_scale: Callable[[int, int], float] = _whole_size
) -> tuple[RGB, int]:
    """The pixels at 1/n of the size, and n: 1 for all but JPEGs."""
    start = stream.read(START)
    if not start:
        raise ImageError(name, "the file is empty")
    image_format = _recognise(start, name)
    if image_format == "JPEG" and (stray := stray_bytes(start)):
        least_scale = _whole_size  # who reads it a second time would be warned a second time
        stream.seek(stray)
        stream = io.BytesIO(stream.read(MAX_RECORD))
        _warn(name, f"skipped {stray} stray byte{'s' if stray > 1 else ''} before the JPEG")
    if image_format == "JPEG" and is_motion_jpeg(stream, name):
        raise ImageError(name, _VIDEO)
    stream, image_format, turn = _full_picture(stream, image_format, name)
    stream.seek(0)
    with _decoding(name, max_pixels, f"{image_format} file"):
        if image_format == "HEIC":
            return _read_heic(stream), 1
        if image_format in _CHECKS and (reason := _CHECKS[image_format](stream)):
            raise _UnusableError(reason)
        if image_format == "JPEG2000":
            _check_size(claimed_size(stream))
        stream.seek(0)
        whole, n = True, 1
        try:
            with _openers()[image_format][0](stream, "") as image:
                if image_format == "JPEG":
                    n = _reduce(image, least_scale, turn)
                pixels = _read_pil(image, turn)
        except OSError as error:
            if image_format != "JPEG" or "truncated" not in str(error):
                raise
            mended, whole, n = _without_end_mark(stream, turn), False, 1
            if mended is None:
                raise
            pixels = mended
    if not whole:
        _warn(name, "the JPEG lacks its end mark; nothing else is missing")
    return pixels, n


def _reduce(image: Image.Image, least_scale: Callable[[int, int], float], turn: int) -> int:
    """Have an opened JPEG decoded at 1/n of its size, and give n; `turn` is its orientation if it has none itself."""
    _check_size(image.size)
    width, height = image.size
    scale = least_scale(height, width)
    n = next((n for n in (8, 4, 2) if scale <= 1 / n and min(width, height) >= n), 1)
    # A block that is cut by the right or lower border would come first in a turned photo, and shift all others.
    if (width % n or height % n) and _orientation(image, turn) != 1:
        return 1
    reduced = n > 1 and image.mode in ("RGB", "L") and image.draft(image.mode, (width // n, height // n)) is not None
    if reduced and image.info.get("progressive"):
        wait_for_room(width * height)  # its decoder keeps the coefficients of the full picture
    return n if reduced else 1


def _without_end_mark(stream: BinaryIO, turn: int) -> RGB | None:
    """The pixels of a JPEG whose end mark is all that is missing, else None.

    A decoder that meets the end mark too early makes up the rest, and does not say so. So the file is also read with other
    bytes before the mark: of a whole picture they are superfluous, of one cut short they would be its next pixels.
    """
    stream.seek(0)
    data = stream.read(MAX_RECORD)
    data = data.removesuffix(b"\xff")  # the first half of the mark
    whole, digests = None, set()
    for more in (b"", b"\x5a\xa5\x3c\xc3" * 16):
        with _openers()["JPEG"][0](io.BytesIO(data + more + b"\xff\xd9"), "") as image:
            whole = None  # two large pictures beside the decoder's would be one too many
            whole = _read_pil(image, turn)
        digests.add(hashlib.blake2b(whole.data).digest())
    return whole if len(digests) == 1 else None


def _warn(name: str, what: str) -> None:
    warnings.warn(f"{name}: {what}", DamagedImageWarning, stacklevel=2)


def _read_heic(stream: BinaryIO) -> RGB:
    try:
        pi_heif = importlib.import_module("pi_heif")
    except ImportError as error:
        raise _UnusableError("a HEIC photo needs the extra heif: pip install 'facespace[heif]'") from error
    heif = pi_heif.open_heif(stream)
    _check_size(heif.size)
    wait_for_room(heif.size[0] * heif.size[1])
    return _rgb(heif.to_pillow())  # upright already


def _full_picture(stream: BinaryIO, image_format: str, name: str) -> tuple[BinaryIO, str, int]:
    """What to decode, its format, and its EXIF orientation if it has none itself: not always the first picture of a TIFF."""
    if image_format != "TIFF":
        return stream, image_format, 1
    try:
        full = full_picture(stream)
    except ValueError as error:
        raise ImageError(name, str(error)) from None
    return (stream, image_format, 1) if full is None else (io.BytesIO(full.data), full.format, full.turn)


def _read_pil(image: Image.Image, turn: int = 1) -> RGB:
    _check_size(image.size)
    n_parts = len(getattr(image, "tile", ()))
    if n_parts > MAX_PARTS:
        raise _UnusableError(f"{n_parts:,} strips or tiles; the limit is {MAX_PARTS:,}")
    wait_for_room(image.width * image.height)
    image.load()
    # Only now, as a TIFF turns itself when it is loaded, and a PNG may have its EXIF data behind the pixels.
    return _rgb(image, _orientation(image, turn))


def _orientation(image: Image.Image, default: int = 1) -> int:
    """How EXIF says that an image is to be turned, from 1, not at all, to 8."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, default))
    except Exception:  # whatever is wrong with the EXIF data, the pixels may be good
        return 1


def _read_array(array: npt.NDArray[Any], max_pixels: int) -> RGB:
    depth = array.shape[2] if array.ndim == 3 else 1
    known = array.dtype.kind in "bf" or array.dtype.kind + str(array.dtype.itemsize) in ("u1", "u2")
    with _decoding("<array>", max_pixels, "array"):
        if array.ndim not in (2, 3) or depth not in (1, 2, 3, 4) or not known:
            wanted = "(H,W), (H,W,1), (H,W,2), (H,W,3) or (H,W,4) of uint8, uint16, bool or float"
            raise _UnusableError(f"wanted {wanted}; got {array.shape} of {array.dtype}")
        _check_size((array.shape[1], array.shape[0]))
        array = np.asarray(array)
        rgb = np.empty((*array.shape[:2], 3), np.uint8)
        bounds = (0, 255) if array.dtype.itemsize == 1 else _bounds(array[rows] for rows in _strips(rgb))
        for rows in _strips(rgb):
            pixels = _eight_bits(array[rows], bounds)
            if depth == 3:
                rgb[rows] = pixels
            else:
                rgb[rows] = _strip_rgb(Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels), bounds)
        return rgb


def _rgb(image: Image.Image, turn: int = 1) -> RGB:
    """The pixels (H,W,3) of a loaded image of any mode, turned as EXIF's orientation says.

    They are converted strip by strip, each into its place: beside the image and the result nothing large is in memory.
    """
    across = turn in (5, 6, 7, 8)
    rgb = np.empty((*(image.size if across else image.size[::-1]), 3), np.uint8)
    stored = rgb[:: -1 if turn in (3, 4, 7, 8) else 1, :: -1 if turn in (2, 3, 6, 7) else 1]
    stored = stored.swapaxes(0, 1) if across else stored  # where each pixel of the image has its place

    def strip(rows: slice) -> Image.Image:
        return image if rows == slice(0, image.height) else image.crop((0, rows.start, image.width, rows.stop))

    wide = _has_wide_values(image)
    bounds = _bounds(np.asarray(strip(rows)) for rows in _strips(stored)) if wide else (0, 255)
    for rows in _strips(stored):
        stored[rows] = _strip_rgb(strip(rows), bounds)
    return rgb


def _strips(pixels: RGB) -> Iterator[slice]:
    """The rows of an image in parts of `_STRIP` pixels."""
    height, width = pixels.shape[:2]
    rows = max(1, _STRIP // width)
    return (slice(top, min(top + rows, height)) for top in range(0, height, rows))


def _has_wide_values(image: Image.Image) -> bool:
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _strip_rgb(image: Image.Image, bounds: tuple[Any, Any]) -> RGB:
    """The pixels (H,W,3) of a part of an image of any mode; `bounds` are the least and the largest value of the whole one."""
    if _has_wide_values(image):
        values = np.asarray(image)
        pixels = _eight_bits(values, bounds)
        if isinstance(transparent := image.info.get("transparency"), int):
            pixels = np.where(values == transparent, np.uint8(255), pixels)
        image = Image.fromarray(pixels)
    elif image.mode in ("1", "L", "P", "RGB", "LA", "La", "PA", "RGBA", "RGBa") and image.has_transparency_data:
        straight = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        image = Image.new("RGB", image.size, "white")
        image.paste(straight, mask=straight)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _bounds(parts: Iterable[npt.NDArray[Any]]) -> tuple[Any, Any]:
    """The least and the largest value of all parts; NaN where one has it."""
    low, high = zip(*((part.min(), part.max()) for part in parts), strict=True)
    return np.min(low), np.max(high)


def _eight_bits(values: npt.NDArray[Any], bounds: tuple[Any, Any]) -> RGB:
    """Pixel values as uint8, of an image with these least and largest ones; `_UnusableError` says which have no place there."""
    if values.dtype == np.uint8:
        return np.asarray(values, np.uint8)
    if values.dtype.kind == "b":
        return np.asarray(values * np.uint8(255), np.uint8)
    low, high = bounds
    if values.dtype.kind == "f":
        if not (low >= 0 and high <= 255):  # so written, NaN fails it too
            raise _UnusableError(f"floats must lie in [0, 1] or [0, 255]; they run from {low:g} to {high:g}")
        return np.rint(values * 255.0 if high <= 1 else values).astype(np.uint8)
    if low < 0 or high > 65535:
        raise _UnusableError(f"integers must lie in 0..65535; they run from {low} to {high}")
    bits = next(bits for bits in (8, 10, 12, 14, 16) if high < 1 << bits)
    return np.asarray(values >> (bits - 8), np.uint8)


def _recognise(start: bytes, name: str) -> str:
    """The format of a file by its first bytes."""
    image_format = photo_format(start)
    if image_format == "RAW":
        raise ImageError(name, f"a raw photo ({raw_format(start)}); {NOT_DEVELOPED}")
    if not image_format and video_start(start):
        raise ImageError(name, _VIDEO)
    if start.startswith(_APPLE_DOUBLE):
        raise ImageError(name, "what macOS notes about a file (AppleDouble), not the photo; give the file without ._")
    if not image_format or (image_format != "HEIC" and image_format not in _openers()):
        raise ImageError(
            name, "not an image facespace reads (JPEG, PNG, WebP, BMP, GIF, TIFF, PPM, AVIF, HEIC, JPEG 2000)"
        )
    return image_format


class _UnusableError(Exception):
    """The reason of an `ImageError`, raised inside `_decoding`, which knows the source."""


# The limit while this thread is inside `_decoding`, else None.
_limit: contextvars.ContextVar[int | None] = contextvars.ContextVar("_limit", default=None)


def _check_size(size: tuple[int, int]) -> None:
    if size[0] < 1 or size[1] < 1:
        raise _UnusableError(f"it has no pixels ({size[0]} x {size[1]})")
    limit = _limit.get()
    if limit is not None and size[0] * size[1] > limit:
        raise _UnusableError(
            f"{size[0] * size[1]:,} pixels ({size[0]} x {size[1]}); the limit is {limit:,}; raise max_pixels "
            f"(facespace --max-pixels N, or {MAX_PIXELS_VARIABLE}) to read it"
        )


@contextlib.contextmanager
def _decoding(name: str, max_pixels: int, what: str) -> Iterator[None]:
    """Inside, `_check_size` knows the limit, Pillow is silent, and every error becomes an `ImageError`."""
    _openers()
    token = _limit.set(max_pixels)
    try:
        yield
    except _UnusableError as error:
        raise ImageError(name, str(error)) from error
    except MemoryError as error:
        raise ImageError(name, "it does not fit into memory") from error
    except Exception as error:  # decoders raise anything on damaged data
        raise ImageError(name, f"a truncated, corrupt or unsupported {what} ({_text(error)})") from error
    finally:
        _limit.reset(token)


@functools.cache
def _openers() -> dict[str, tuple[Any, Any]]:
    """Pillow's decoders of our formats; the first call teaches Pillow to leave threads that are `_decoding` alone.

    Pillow's bomb check and its warnings know only process-wide switches (`MAX_IMAGE_PIXELS`, the warnings filters).
    Both are wrapped, to differ only for a thread inside `_decoding`; for every other they are what they were.
    """
    Image.init()
    pillow: Any = Image
    if "PILLOW_BLOCK_SIZE" not in os.environ:
        # Memory in blocks above 32 MiB goes back to the system at once; smaller ones, such as Pillow's of 16, the allocator
        # keeps for the thread that freed them, which of large photos adds up.
        pillow.core.set_block_size(_BLOCK)
    openers = {name: Image.OPEN[name] for name in _FORMATS if name in Image.OPEN}
    pillow_check = getattr(pillow, "_decompression_bomb_check", None)

    def check(size: tuple[int, int], **options: Any) -> None:
        if _limit.get() is not None:
            _check_size(size)
        elif pillow_check is not None:
            pillow_check(size, **options)

    def warn(message: Any, category: Any = None, stacklevel: int = 1, **options: Any) -> None:
        if _limit.get() is None:
            warnings.warn(message, category, stacklevel + 1, **options)

    if pillow_check is not None:  # a private name; without it Pillow's own limit holds too
        pillow._decompression_bomb_check = check
    quiet: Any = types.ModuleType("warnings")
    vars(quiet).update(vars(warnings), warn=warn)
    for factory, _ in openers.values():
        module: Any = sys.modules[factory.__module__]
        module.warnings = quiet
    return openers


def _text(error: BaseException) -> str:
    """What an error says, on one short line."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(said.split())[:200] or type(error).__name__


def decode(encoded: bytes, where: str) -> npt.NDArray[np.uint8]:
    """An encoded image as (H,W,3) uint8 RGB; `ImageError` names `where` it lay."""
    try:
        return read(encoded)
    except ImageError as error:
        raise ImageError(where, error.reason) from None
