"""Reads a photo from a path, bytes, a file, a PIL image or an array as one upright RGB array."""

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
from facespace.io.prefetch import wait_for_memory
from facespace.io.raw_photos import NOT_DEVELOPED, full_picture

MAX_PARTS = 100_000  # strips or tiles of a TIFF, each with its own decoder; one strip per row gives about 17,000
MAX_RECORD = 2**30  # bytes of an encoded image, so that a damaged length does not allocate memory

RGB = npt.NDArray[np.uint8]
Path = str | os.PathLike[str] | os.PathLike[bytes]
Source = Path | bytes | bytearray | memoryview | BinaryIO | Image.Image | npt.NDArray[Any]

# Pillow's names; its other decoders (EPS, PDF, FITS, …) are never used.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000")
_VIDEO = "a video, not a photo; facespace identify and classify predict name people in videos"
_APPLE_DOUBLE = b"\0\x05\x16\x07"
_STRIP = 2**20  # pixels converted at once, so that a large photo is in memory at most twice
_BLOCK = 2**26  # bytes
# Checks of the work that a file can cause besides its pixels, made before Pillow opens it.
_CHECKS = {"JPEG": check_jpeg, "PNG": check_png, "PPM": check_ppm}


class DamagedImageWarning(UserWarning):
    """A photo was read although its file is slightly damaged."""


def pixel_limit(default: int = MAX_PIXELS) -> int:
    """Return the maximum number of pixels of a picture: the environment variable `FACESPACE_MAX_PIXELS`, else the default.

    Raises `ValueError` if the variable is not a positive whole number.

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
    """Read a photo from a path, bytes, file, PIL image or array as a new (H,W,3) uint8 RGB array, upright and C-contiguous.

    EXIF orientation is applied, and transparent pixels are blended with white. Of 16-bit values the high byte is kept; if
    all gray values fit into 8, 10, 12 or 14 bits, as from scientific cameras, the highest 8 of these bits are kept.
    Floats are in [0, 1] or, if any is above 1, in [0, 255]. Only the first frame is read; a file object is read from its
    beginning. A JPEG that only lacks its end mark, or has a few stray bytes in front, is read with a
    `DamagedImageWarning`. An array is (H,W), (H,W,1), (H,W,2) gray and alpha, (H,W,3) or (H,W,4), of uint8, uint16, bool
    or float.

    Raises `ImageError` if it is not a readable image or has more than `max_pixels` (checked before decoding; by default
    `pixel_limit()`, 250 million), and `TypeError` if `source` is of any other type.

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
        got = "None, which some libraries return for a file they cannot read"
    raise TypeError(f"an image must be a path, bytes, a binary file, a PIL image or a NumPy array, got {got}")


def read_reduced(
    source: Path | bytes, least_scale: Callable[[int, int], float], *, max_pixels: int | None = None
) -> tuple[RGB, int]:
    """Read a photo like `read`, but a JPEG at 1/n of its size if allowed; return the pixels and n: 1, 2, 4 or 8.

    `least_scale` takes the height and width of the stored picture and returns the smallest allowed scale. The decoder
    turns each block of 8x8 pixels of a JPEG into 4x4, 2x2 or one pixel, which takes half of the time and 1/n² of the
    memory. Pixel (x, y) represents the n x n pixels from (n·x, n·y) on. Errors and warnings are those of `read`.

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
    """Return the image as (H,W,3) uint8 RGB: such an array without a copy, everything else by `read`.

    Raises `ImageError` and `TypeError` like `read`, and `ValueError` for an array that is not an image.

    >>> as_rgb(np.array([[0, 255]], np.uint8)).shape
    (1, 2, 3)
    >>> as_rgb(None)
    Traceback (most recent call last):
        ...
    TypeError: an image must be a path, bytes, a binary file, a PIL image or a NumPy array, got None, which some libraries return for a file they cannot read
    """
    if isinstance(image, np.ndarray) and image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8:
        return image
    if not isinstance(image, np.ndarray):
        return read(image)
    try:
        return read(image)
    except ImageError:
        raise ValueError(
            f"an image must be (H, W, 3) uint8 RGB, or gray, with alpha, or floats in [0, 1], got {image.dtype} of shape "
            f"{image.shape}"
        ) from None


def are_several(images: object) -> bool:
    """Return whether `images` may be several images: an iterable that is not one path, one array or one file's bytes.

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
    except (OSError, ValueError) as error:  # ValueError: an impossible file name
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
        raise TypeError(f"a file object must be binary, but its read() returned {type(data).__name__}")
    return _read_stream(io.BytesIO(data), name, max_pixels)[0]


def _read_stream(
    stream: BinaryIO, name: str, max_pixels: int, least_scale: Callable[[int, int], float] = _whole_size
) -> tuple[RGB, int]:
    """Return the pixels at 1/n of the size, and n; for all formats except JPEG n is 1."""
    start = stream.read(START)
    if not start:
        raise ImageError(name, "the file is empty")
    image_format = _recognise(start, name)
    if image_format == "JPEG" and (stray := stray_bytes(start)):
        least_scale = _whole_size  # a second reading at full size would warn a second time
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
    """Set an opened JPEG to be decoded at 1/n of its size, and return n; `turn` is the orientation if the file has none."""
    _check_size(image.size)
    width, height = image.size
    scale = least_scale(height, width)
    n = next((n for n in (8, 4, 2) if scale <= 1 / n and min(width, height) >= n), 1)
    # In a rotated photo, a block cut by the right or lower border could come first and shift all other blocks.
    if (width % n or height % n) and _orientation(image, turn) != 1:
        return 1
    reduced = n > 1 and image.mode in ("RGB", "L") and image.draft(image.mode, (width // n, height // n)) is not None
    if reduced and image.info.get("progressive"):
        wait_for_memory(width * height)  # its decoder keeps the coefficients of the full picture
    return n if reduced else 1


def _without_end_mark(stream: BinaryIO, turn: int) -> RGB | None:
    """Return the pixels of a JPEG that only lacks its end mark; None if more is missing.

    A decoder that meets the end mark too early invents the missing pixels without an error. So the file is also read with
    other bytes before the mark: in a complete picture they change nothing, in a truncated one they change the next
    pixels.
    """
    stream.seek(0)
    data = stream.read(MAX_RECORD)
    data = data.removesuffix(b"\xff")  # the first half of the mark
    whole, digests = None, set()
    for more in (b"", b"\x5a\xa5\x3c\xc3" * 16):
        with _openers()["JPEG"][0](io.BytesIO(data + more + b"\xff\xd9"), "") as image:
            whole = None  # free the first picture before decoding the second
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
    wait_for_memory(heif.size[0] * heif.size[1])
    return _rgb(heif.to_pillow())  # pi_heif has already applied the orientation


def _full_picture(stream: BinaryIO, image_format: str, name: str) -> tuple[BinaryIO, str, int]:
    """Return the stream to decode, its format and its default orientation; the first picture of a TIFF may be a small one."""
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
        raise _UnusableError(f"it must have at most {MAX_PARTS:,} strips or tiles, got {n_parts:,}")
    wait_for_memory(image.width * image.height)
    image.load()
    # Read the orientation only after loading: Pillow then has rotated a TIFF, and a PNG may have EXIF data after the
    # pixels.
    return _rgb(image, _orientation(image, turn))


def _orientation(image: Image.Image, default: int = 1) -> int:
    """Return the EXIF orientation of an image, from 1 (upright) to 8."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, default))
    except Exception:  # the pixels may be good even if the EXIF data are damaged
        return 1


def _read_array(array: npt.NDArray[Any], max_pixels: int) -> RGB:
    depth = array.shape[2] if array.ndim == 3 else 1
    known = array.dtype.kind in "bf" or array.dtype.kind + str(array.dtype.itemsize) in ("u1", "u2")
    with _decoding("<array>", max_pixels, "array"):
        if array.ndim not in (2, 3) or depth not in (1, 2, 3, 4) or not known:
            accepted = "(H,W), (H,W,1), (H,W,2), (H,W,3) or (H,W,4) of uint8, uint16, bool or float"
            raise _UnusableError(f"an image must be {accepted}, got {array.shape} of {array.dtype}")
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
    """Return the pixels (H,W,3) of a loaded image of any mode, rotated and mirrored by the EXIF orientation `turn`.

    They are converted strip by strip into the result, so that nothing else large is in memory.
    """
    across = turn in (5, 6, 7, 8)
    rgb = np.empty((*(image.size if across else image.size[::-1]), 3), np.uint8)
    stored = rgb[:: -1 if turn in (3, 4, 7, 8) else 1, :: -1 if turn in (2, 3, 6, 7) else 1]
    stored = stored.swapaxes(0, 1) if across else stored  # a view of the result in the image's stored orientation

    def strip(rows: slice) -> Image.Image:
        return image if rows == slice(0, image.height) else image.crop((0, rows.start, image.width, rows.stop))

    wide = _has_wide_values(image)
    bounds = _bounds(np.asarray(strip(rows)) for rows in _strips(stored)) if wide else (0, 255)
    for rows in _strips(stored):
        stored[rows] = _strip_rgb(strip(rows), bounds)
    return rgb


def _strips(pixels: RGB) -> Iterator[slice]:
    """Return the rows of an image in parts of about `_STRIP` pixels."""
    height, width = pixels.shape[:2]
    rows = max(1, _STRIP // width)
    return (slice(top, min(top + rows, height)) for top in range(0, height, rows))


def _has_wide_values(image: Image.Image) -> bool:
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _strip_rgb(image: Image.Image, bounds: tuple[Any, Any]) -> RGB:
    """Return the pixels (H,W,3) of a part of an image of any mode; `bounds` are the extreme values of the whole image."""
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
    """Return the smallest and the largest value of all parts; NaN if any value is NaN."""
    low, high = zip(*((part.min(), part.max()) for part in parts), strict=True)
    return np.min(low), np.max(high)


def _eight_bits(values: npt.NDArray[Any], bounds: tuple[Any, Any]) -> RGB:
    """Convert pixel values to uint8; `bounds` are the lowest and the highest value of the whole image.

    Raises `_UnusableError` for floats outside 0 to 255 and integers outside 0 to 65535.
    """
    if values.dtype == np.uint8:
        return np.asarray(values, np.uint8)
    if values.dtype.kind == "b":
        return np.asarray(values * np.uint8(255), np.uint8)
    low, high = bounds
    if values.dtype.kind == "f":
        if not (low >= 0 and high <= 255):  # written so that NaN fails too
            raise _UnusableError(f"floats must be in [0, 1] or [0, 255], got {low:g} to {high:g}")
        return np.rint(values * 255.0 if high <= 1 else values).astype(np.uint8)
    if low < 0 or high > 65535:
        raise _UnusableError(f"integers must be in 0..65535, got {low} to {high}")
    bits = next(bits for bits in (8, 10, 12, 14, 16) if high < 1 << bits)
    return np.asarray(values >> (bits - 8), np.uint8)


def _recognise(start: bytes, name: str) -> str:
    """Return the format of a file by its first bytes; raises `ImageError` if it is not a supported photo."""
    image_format = photo_format(start)
    if image_format == "RAW":
        raise ImageError(name, f"a raw photo ({raw_format(start)}); {NOT_DEVELOPED}")
    if not image_format and video_start(start):
        raise ImageError(name, _VIDEO)
    if start.startswith(_APPLE_DOUBLE):
        raise ImageError(name, "metadata of macOS (AppleDouble), not a photo; give the file without ._")
    if not image_format or (image_format != "HEIC" and image_format not in _openers()):
        raise ImageError(
            name, "not an image facespace reads (JPEG, PNG, WebP, BMP, GIF, TIFF, PPM, AVIF, HEIC, JPEG 2000)"
        )
    return image_format


class _UnusableError(Exception):
    """The reason for an `ImageError`; `_decoding` adds the name of the source."""


# The pixel limit while this thread is inside `_decoding`, else None.
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
    """Set the limit for `_check_size`, silence Pillow, and turn every error in the block into an `ImageError`."""
    _openers()
    token = _limit.set(max_pixels)
    try:
        yield
    except _UnusableError as error:
        raise ImageError(name, str(error)) from error
    except MemoryError as error:
        raise ImageError(name, "it does not fit into memory") from error
    except Exception as error:  # decoders may raise any exception on damaged data
        raise ImageError(name, f"a truncated, corrupt or unsupported {what} ({_text(error)})") from error
    finally:
        _limit.reset(token)


@functools.cache
def _openers() -> dict[str, tuple[Any, Any]]:
    """Return Pillow's decoders of our formats; the first call replaces Pillow's checks for threads inside `_decoding`.

    Pillow's check for decompression bombs and its warnings have only process-wide switches (`MAX_IMAGE_PIXELS`, the
    warnings filters). Both are wrapped, and behave differently only for a thread inside `_decoding`.
    """
    Image.init()
    pillow: Any = Image
    if "PILLOW_BLOCK_SIZE" not in os.environ:
        # The allocator returns blocks above 32 MiB to the system at once, but keeps smaller blocks, such as Pillow's 16
        # MiB, for the thread that freed them, which adds up with large photos.
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

    if pillow_check is not None:  # a private name of Pillow; if it is missing, Pillow's own limit applies too
        pillow._decompression_bomb_check = check
    quiet: Any = types.ModuleType("warnings")
    vars(quiet).update(vars(warnings), warn=warn)
    for factory, _ in openers.values():
        module: Any = sys.modules[factory.__module__]
        module.warnings = quiet
    return openers


def _text(error: BaseException) -> str:
    """Return an error's message as one short line."""
    message = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(message.split())[:200] or type(error).__name__


def decode(encoded: bytes, where: str) -> npt.NDArray[np.uint8]:
    """Decode an image as (H,W,3) uint8 RGB; an `ImageError` names `where` it was stored."""
    try:
        return read(encoded)
    except ImageError as error:
        raise ImageError(where, error.reason) from None
