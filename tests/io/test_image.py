"""`facespace.io.image.read` compared with pictures made by Pillow and by hand."""

from __future__ import annotations

import io
import os
import pathlib
import socket
import struct
import sys
import threading
import types
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image, ImageFile, TiffImagePlugin, WebPImagePlugin, features

from facespace.errors import ImageError
from facespace.io import image as image_module
from facespace.io.image import DamagedImageWarning, pixel_limit, read, read_reduced
from facespace.io.prefetch import reading_within
from support.tiff_files import tiff

DATA = pathlib.Path(__file__).parents[1] / "data"
NOT_AN_IMAGE = "not an image facespace reads (JPEG, PNG, WebP, BMP, GIF, TIFF, PPM, AVIF, HEIC, JPEG 2000)"
RED, GREEN, BLUE, GRAY = (220, 30, 30), (30, 200, 30), (30, 30, 220), (180, 180, 180)
# How a camera stores an upright picture with each EXIF orientation: the inverse of a viewer's transformation.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def picture(width: int = 48, height: int = 32) -> Image.Image:
    """Return four quarters of four colours, so that no rotated or mirrored version is equal to it."""
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = RED
    pixels[: height // 2, width // 2 :] = GREEN
    pixels[height // 2 :, : width // 2] = BLUE
    pixels[height // 2 :, width // 2 :] = GRAY
    return Image.fromarray(pixels)


def encode(image: Image.Image, image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def png(width: int, height: int, bits: int, colour: int, rows: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*pair) for pair in chunks)


def exif(orientation: Any) -> bytes:
    data = Image.Exif()
    data[0x0112] = orientation
    return data.tobytes()


def assert_rgb(array: Any) -> None:
    assert type(array) is np.ndarray
    assert array.dtype == np.uint8
    assert array.ndim == 3 and array.shape[2] == 3
    assert array.flags.c_contiguous and array.flags.writeable


def assert_quarters(array: Any, tolerance: int = 0, colours: Any = (RED, GREEN, BLUE, GRAY)) -> None:
    assert_rgb(array)
    h, w = array.shape[0] // 4, array.shape[1] // 4
    got = np.array([array[h, w], array[h, 3 * w], array[3 * h, w], array[3 * h, 3 * w]], int)
    assert np.abs(got - np.array(colours)).max() <= tolerance, got.tolist()


def error(source: Any, **options: Any) -> ImageError:
    with pytest.raises(ImageError) as caught:
        read(source, **options)
    return caught.value


# ---- the kinds of source


def test_every_kind_of_source(tmp_path: pathlib.Path) -> None:
    data = encode(picture(), "PNG")
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    for source in (path, str(path), data, bytearray(data), memoryview(data), io.BytesIO(data), picture()):
        assert_quarters(read(source))
    assert_quarters(read(np.asarray(picture())))
    with path.open("rb") as file:
        file.seek(7)
        assert_quarters(read(file))
        assert not file.closed


def test_path_like_of_bytes(tmp_path: pathlib.Path) -> None:
    class BytesPath:
        def __fspath__(self) -> bytes:
            return os.fsencode(tmp_path / "a.png")

    (tmp_path / "a.png").write_bytes(encode(picture(), "PNG"))
    assert_quarters(read(BytesPath()))


def test_file_object_that_cannot_seek() -> None:
    class Stream:
        data = encode(picture(), "PNG")

        def read(self) -> bytes:
            return self.data

    assert_quarters(read(Stream()))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["照片 一.png", "naïve\nname.png", os.fsdecode(b"\xff\xfe-\xe9.png")])
def test_odd_file_names(tmp_path: pathlib.Path, name: str) -> None:
    path = tmp_path / name
    try:
        path.write_bytes(encode(picture(), "PNG"))
    except OSError:
        pytest.skip("this file system refuses the name")
    assert_quarters(read(path))
    assert_quarters(read(str(path)))
    path.write_bytes(b"text")
    assert error(path).source == str(path)


@pytest.mark.parametrize("source", [None, 3, 2.5, [[1, 2]], object(), io.StringIO("text"), {"a": 1}])
def test_wrong_type(source: Any) -> None:
    with pytest.raises(TypeError):
        read(source)


def test_text_file_object() -> None:
    with pytest.raises(TypeError, match="must be binary"):
        read(io.StringIO("text"))  # type: ignore[arg-type]


def test_wrong_type_of_limit() -> None:
    with pytest.raises(TypeError):
        read(picture(), max_pixels="many")  # type: ignore[arg-type]


# ---- upright


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_upright(orientation: int, image_format: str) -> None:
    stored = picture()
    if (method := STORED[orientation]) is not None:
        stored = stored.transpose(method)
    data = encode(stored, image_format, exif=exif(orientation))
    result = read(data)
    assert result.shape == (32, 48, 3)
    assert_quarters(result, tolerance=12)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate"])
def test_upright_compressed_tiff(compression: str) -> None:
    data = encode(picture().transpose(Image.Transpose.ROTATE_90), "TIFF", exif=exif(6), compression=compression)
    assert_quarters(read(data))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_upright_pil_image(orientation: int, mode: str) -> None:
    stored = picture().convert(mode)
    if (method := STORED[orientation]) is not None:
        stored = stored.transpose(method)
    stored.getexif()[0x0112] = orientation
    before = stored.tobytes(), stored.size, dict(stored.getexif()), dict(stored.info), stored.mode
    assert_quarters(read(stored))
    assert (stored.tobytes(), stored.size, dict(stored.getexif()), dict(stored.info), stored.mode) == before


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_opened_pil_image(orientation: int) -> None:
    method = STORED[orientation]
    stored = picture() if method is None else picture().transpose(method)
    with Image.open(io.BytesIO(encode(stored, "JPEG", exif=exif(orientation)))) as opened:
        assert_quarters(read(opened), tolerance=12)


def test_upright_exif_behind_the_pixels() -> None:
    rows = b"".join(b"\0" + row.tobytes() for row in np.asarray(picture().transpose(Image.Transpose.ROTATE_90)))
    data = png(32, 48, 8, 2, rows)
    block = exif(6).removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(block)) + b"eXIf" + block + struct.pack(">I", zlib.crc32(b"eXIf" + block))
    assert_quarters(read(data[:-12] + chunk + data[-12:]))


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_orientation_out_of_range(value: Any) -> None:
    assert_quarters(read(encode(picture(), "JPEG", exif=exif(value))), tolerance=12)


@pytest.mark.parametrize(
    "block",
    [
        b"Exif\0\0",
        b"Exif\0\0II*\0",
        b"Exif\0\0garbage, all of it",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01",
        exif(6)[:-8],
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\xff\xff\xff\x7f\xff\xff\xff\x7f\0\0\0\0",
    ],
)
def test_malformed_exif(block: bytes, recwarn: pytest.WarningsRecorder) -> None:
    assert_quarters(read(encode(picture(), "JPEG", exif=block)), tolerance=12)
    for image_format in ("PNG", "WEBP"):
        assert_quarters(read(encode(picture(), image_format, exif=block)), tolerance=12)
    image = picture()
    image.info["exif"] = block
    assert_quarters(read(image))
    assert not recwarn.list


# ---- formats and modes


@pytest.mark.parametrize("image_format", ["JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF"])
def test_formats(image_format: str) -> None:
    assert_quarters(read(encode(picture(), image_format)), tolerance=12)


def test_mpo_of_two_pictures() -> None:
    data = encode(picture(), "MPO", save_all=True, append_images=[Image.new("RGB", (48, 32))])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert_quarters(read(data), tolerance=12)


def test_videos_are_not_photos(tmp_path: pathlib.Path) -> None:
    video = "a video, not a photo; facespace identify and classify predict name people in videos"
    frames = encode(picture(), "JPEG") * 3
    for name in ("a.mjpeg", "a.MJPG", "camera"):
        (tmp_path / name).write_bytes(frames)
        assert error(tmp_path / name).reason == video
    (tmp_path / "a.jpg").write_bytes(frames)
    assert_quarters(read(tmp_path / "a.jpg"), tolerance=12)  # with the ending of a photo, it is a photo
    assert error(frames).reason == error(b"\0\0\0\x18ftypmp42" + bytes(99)).reason == video
    assert error(b"\0\x05\x16\x07" + bytes(99)).reason.startswith("metadata of macOS")
    for raw in (b"FUJIFILMCCD-RAW 0201", b"\0\0\0\x18ftypcrx " + bytes(99)):
        assert "raw photos are not developed here; export it as JPEG or TIFF" in error(raw).reason


@pytest.mark.parametrize("image_format", ["EPS", "PDF", "ICO", "TGA", "PCX", "SGI", "DDS", "ICNS"])
def test_formats_not_allowed(image_format: str) -> None:
    assert error(encode(picture(64, 64), image_format)).reason == NOT_AN_IMAGE


def test_jpeg_cmyk() -> None:
    assert_quarters(read(encode(picture().convert("CMYK"), "JPEG", quality=95)), tolerance=12)


def test_tiff_cmyk() -> None:
    assert_quarters(read(encode(picture().convert("CMYK"), "TIFF")), tolerance=2)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "TIFF", "BMP", "PPM", "GIF"])
def test_gray(image_format: str) -> None:
    values = read(encode(Image.new("L", (6, 4), 77), image_format))
    assert values.shape == (4, 6, 3) and np.abs(values.astype(int) - 77).max() <= 1
    assert_rgb(values)


@pytest.mark.parametrize("image_format", ["PNG", "TIFF", "BMP", "PPM", "GIF"])
def test_one_bit(image_format: str) -> None:
    image = Image.new("1", (9, 3))
    image.putpixel((8, 1), 1)
    values = read(encode(image, image_format))
    assert_rgb(values)
    assert values[1, 8].tolist() == [255, 255, 255] and values.sum() == 3 * 255


@pytest.mark.parametrize("image_format", ["PNG", "TIFF", "BMP", "GIF"])
def test_palette(image_format: str) -> None:
    assert_quarters(read(encode(picture().quantize(4), image_format)), tolerance=3)


@pytest.mark.parametrize("image_format", ["PNG", "GIF"])
def test_palette_with_transparency(image_format: str) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 10, 20, 0, 0, 250])
    image.putpixel((1, 0), 1)
    assert read(encode(image, image_format, transparency=0)).tolist() == [[[255, 255, 255], [0, 0, 250]]]


def test_palette_with_partial_transparency() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 0, 0, 250])
    image.putpixel((1, 0), 1)
    assert read(encode(image, "PNG", transparency=bytes([55, 255]))).tolist() == [[[200] * 3, [0, 0, 250]]]


def test_colour_key_transparency() -> None:
    image = Image.new("RGB", (2, 1), (1, 2, 3))
    image.putpixel((1, 0), (9, 9, 9))
    assert read(encode(image, "PNG", transparency=(1, 2, 3))).tolist() == [[[255] * 3, [9] * 3]]
    gray = png(2, 1, 16, 0, b"\0" + struct.pack(">HH", 0x9234, 0x9235), (b"tRNS", struct.pack(">H", 0x9234)))
    assert read(gray)[0, :, 0].tolist() == [255, 0x92]


def test_alpha_over_white() -> None:
    pixels = np.array([[[0, 100, 255, 0], [0, 100, 255, 255], [0, 100, 255, 100]]], np.uint8)
    expected = [[[255, 255, 255], [0, 100, 255], [155, 194, 255]]]
    for image_format in ("PNG", "TIFF"):
        assert read(encode(Image.fromarray(pixels), image_format)).tolist() == expected
    assert read(encode(Image.fromarray(pixels), "WEBP", lossless=True, exact=True)).tolist() == expected
    assert read(pixels).tolist() == expected


@pytest.mark.parametrize("mode", ["LA", "La", "RGBA", "RGBa"])
def test_alpha_of_pil_modes(mode: str) -> None:
    rgba = Image.fromarray(np.array([[[80, 80, 80, 0], [80, 80, 80, 255]]], np.uint8))
    path = {"La": ("LA", "La"), "RGBa": ("RGBa",)}.get(mode, (mode,))
    image: Image.Image = rgba
    for step in path:
        image = image.convert(step)
    assert image.mode == mode
    assert read(image).tolist() == [[[255] * 3, [80] * 3]]


def test_palette_and_alpha_pil_image() -> None:
    image = Image.new("PA", (2, 1), (0, 0))
    image.putpalette([80, 80, 80, 0, 0, 250])
    image.putpixel((1, 0), (1, 255))
    assert read(image).tolist() == [[[255] * 3, [0, 0, 250]]]


@pytest.mark.parametrize("mode", ["YCbCr", "HSV", "CMYK", "RGBX", "P", "RGBA"])
def test_pil_modes(mode: str) -> None:
    assert_quarters(read(picture().convert(mode)), tolerance=6 if mode != "P" else 60)


def test_gray_alpha_png() -> None:
    image = Image.fromarray(np.array([[[10, 0], [10, 255], [0, 155]]], np.uint8))
    assert read(encode(image, "PNG"))[0, :, 1].tolist() == [255, 10, 100]


def test_png_16_bit() -> None:
    high = struct.pack(">3H", 0x00FF, 0x1280, 0xFFFF)
    assert read(png(3, 1, 16, 0, b"\0" + high))[0, :, 2].tolist() == [0, 0x12, 255]
    assert read(png(1, 1, 16, 2, b"\0" + high))[0, 0].tolist() == [0, 0x12, 255]
    assert read(png(1, 1, 16, 6, b"\0" + high + b"\xff\xff"))[0, 0].tolist() == [0, 0x12, 255]
    assert read(png(1, 1, 16, 4, b"\0" + high[2:4] + b"\xff\xff"))[0, 0].tolist() == [0x12] * 3


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_tiff_16_bit(mode: str) -> None:
    image = Image.frombytes(mode, (3, 1), struct.pack(">3H" if mode == "I;16B" else "<3H", 255, 256, 65535))
    assert read(encode(image, "TIFF"))[0, :, 0].tolist() == [0, 1, 255]
    assert read(image)[0, :, 0].tolist() == [0, 1, 255]


def test_ppm_16_bit() -> None:
    assert read(b"P5\n3 1\n65535\n" + struct.pack(">3H", 255, 0x1280, 65535))[0, :, 0].tolist() == [0, 0x12, 255]


def test_integer_mode() -> None:
    assert read(Image.fromarray(np.array([[0, 7, 255]], np.int32)))[0, :, 0].tolist() == [0, 7, 255]
    assert read(Image.fromarray(np.array([[0, 255, 256, 65535]], np.int32)))[0, :, 0].tolist() == [0, 0, 1, 255]
    assert read(Image.fromarray(np.array([[255, 256]], np.int32)))[0, :, 0].tolist() == [63, 64]
    assert "-1 to 7" in error(Image.fromarray(np.array([[-1, 7]], np.int32))).reason
    assert "0 to 65536" in error(Image.fromarray(np.array([[0, 65536]], np.int32))).reason


def test_float_tiff() -> None:
    for values, expected in (([0, 0.5, 1], [0, 128, 255]), ([0, 1, 200.4], [0, 1, 200])):
        image = Image.fromarray(np.array([values], np.float32))
        assert read(encode(image, "TIFF"))[0, :, 0].tolist() == expected
    assert "-1 to 2" in error(encode(Image.fromarray(np.array([[-1, 2]], np.float32)), "TIFF")).reason


def test_first_frame() -> None:
    others = [Image.new("RGB", (48, 32), "black")] * 2
    for image_format in ("GIF", "TIFF", "WEBP", "PNG", "AVIF"):
        data = encode(picture(), image_format, save_all=True, append_images=others)
        assert_quarters(read(data), tolerance=12)


def test_one_pixel() -> None:
    for image_format in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF"):
        result = read(encode(Image.new("RGB", (1, 1), (10, 10, 10)), image_format))
        assert result.shape == (1, 1, 3) and abs(int(result[0, 0, 0]) - 10) <= 3


# ---- arrays


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([[0, 9]], np.uint8), [[0] * 3, [9] * 3]),
        (np.array([[[0], [9]]], np.uint8), [[0] * 3, [9] * 3]),
        (np.array([[[9, 0], [9, 255]]], np.uint8), [[255] * 3, [9] * 3]),
        (np.array([[[1, 2, 3]]], np.uint8), [[1, 2, 3]]),
        (np.array([[[1, 2, 3, 0]]], np.uint8), [[255] * 3]),
        (np.array([[[255, 256, 65535]]], np.uint16), [[0, 1, 255]]),
        (np.array([[[255, 256, 65535]]], ">u2"), [[0, 1, 255]]),
        (np.array([[0, 200]], np.uint16), [[0] * 3, [200] * 3]),
        (np.array([[0, 1023]], np.uint16), [[0] * 3, [255] * 3]),
        (np.array([[16, 4095]], np.uint16), [[1] * 3, [255] * 3]),
        (np.array([[64, 4096]], np.uint16), [[1] * 3, [64] * 3]),
        (np.array([[256, 16384]], np.uint16), [[1] * 3, [64] * 3]),
        (np.array([[False, True]]), [[0] * 3, [255] * 3]),
        (np.array([[[0, 0.5, 1]]]), [[0, 128, 255]]),
        (np.array([[[0, 0.5, 1]]], np.float16), [[0, 128, 255]]),
        (np.array([[[0, 254.6, 1]]], np.float32), [[0, 255, 1]]),
        (np.array([[[0, 0, 0, 0.0], [0, 0, 0, 1.0]]]), [[255] * 3, [0] * 3]),
    ],
)
def test_arrays(array: Any, expected: Any) -> None:
    array.flags.writeable = False
    before = array.copy()
    result = read(array)
    assert_rgb(result)
    assert result.tolist() == [expected]
    assert (array == before).all()


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 2), (4, 5, 3), (4, 5, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, bool, np.float32])
def test_arrays_in_any_memory_order(shape: tuple[int, ...], dtype: Any) -> None:
    array = (np.random.default_rng(0).random(shape) * (1 if dtype == np.float32 else 200)).astype(dtype)
    assert_rgb(read(array))
    assert (read(np.asfortranarray(array)) == read(array)).all()
    assert (read(array[::-1, ::-1]) == read(array)[::-1, ::-1]).all()


def test_result_is_not_the_callers_memory() -> None:
    array = np.zeros((3, 3, 3), np.uint8)
    read(array)[:] = 9
    assert not array.any()


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(5, np.uint8),
        np.zeros((2, 2, 5), np.uint8),
        np.zeros((3, 20, 30), np.uint8),
        np.zeros((1, 2, 2, 3), np.uint8),
        np.zeros((2, 2, 0), np.uint8),
        np.array(3, np.uint8),
        np.zeros((2, 2), np.int64),
        np.zeros((2, 2), np.uint32),
        np.zeros((2, 2), np.int8),
        np.zeros((2, 2), complex),
        np.zeros((2, 2), object),
        np.array([["a"]]),
    ],
)
def test_arrays_refused(array: Any) -> None:
    caught = error(array)
    assert caught.source == "<array>"
    assert str(array.shape) in caught.reason and str(array.dtype) in caught.reason


@pytest.mark.parametrize("shape", [(0, 5, 3), (5, 0), (0, 0, 4)])
def test_arrays_without_pixels(shape: tuple[int, ...]) -> None:
    assert "no pixels" in error(np.zeros(shape, np.float32)).reason


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.1, 255.5])
def test_floats_refused(value: float) -> None:
    assert f"{value:g}" in error(np.array([[0.5, value]])).reason


def test_empty_pil_image() -> None:
    assert "no pixels" in error(Image.new("RGB", (0, 4))).reason


# ---- the pixel limit


def bomb() -> bytes:
    return png(60_000, 60_000, 8, 2, b"\0" * 100)


def test_bomb_is_refused_before_decoding(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    def load(self: Any) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    monkeypatch.setattr(Image.Image, "load", load)
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb())
    for source in (bomb(), path):
        assert error(source).reason == (
            "3,600,000,000 pixels (60000 x 60000); the limit is 250,000,000; raise max_pixels (facespace --max-pixels N, or "
            "FACESPACE_MAX_PIXELS) to read it"
        )


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF"])
def test_limit(image_format: str) -> None:
    data = encode(picture(), image_format)
    assert read(data, max_pixels=48 * 32).shape == (32, 48, 3)
    assert "1,536 pixels" in error(data, max_pixels=48 * 32 - 1).reason


def test_the_variable_moves_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACESPACE_MAX_PIXELS", "1535")
    for source in (encode(picture(), "PNG"), picture(), np.asarray(picture())):
        assert "the limit is 1,535; raise max_pixels (facespace --max-pixels N" in error(source).reason
        assert read(source, max_pixels=1536).shape == (32, 48, 3)
    monkeypatch.setenv("FACESPACE_MAX_PIXELS", " 1536 ")
    read(picture())
    for wrong in ("0", "-5", "many", "1e9", "²"):
        monkeypatch.setenv("FACESPACE_MAX_PIXELS", wrong)
        with pytest.raises(
            ValueError, match=r"FACESPACE_MAX_PIXELS must be a number of pixels such as 250000000, got "
        ):
            read(picture())


def test_the_limit_is_above_what_phones_take() -> None:
    assert pixel_limit() >= 16384 * 12288


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "CMYK", "1", "I;16", "I", "F"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_strips_are_joined(monkeypatch: pytest.MonkeyPatch, mode: str, turn: int) -> None:
    """A photo larger than a strip gives the same pixels as in one piece, in every mode and orientation."""
    values = np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)
    values[:2] &= 1  # the first strip alone would have fewer bits
    if mode == "I;16":
        source = Image.fromarray(values[..., 0].astype(np.uint16) * 200)
    elif mode in ("I", "F"):
        source = Image.fromarray(values[..., 0].astype({"I": np.int32, "F": np.float32}[mode]))
    else:
        source = Image.fromarray(values).convert(mode)
        if mode == "P":
            source.info["transparency"] = 3
        elif mode.endswith("A"):
            source.putalpha(Image.fromarray(values[..., 1]))
    source.getexif()[0x0112] = turn
    one = read(source)
    monkeypatch.setattr(image_module, "_STRIP", 11)
    assert np.array_equal(read(source), one) and one.shape == ((5, 7, 3) if turn > 4 else (7, 5, 3))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32, bool])
@pytest.mark.parametrize("depth", [(), (1,), (2,), (3,), (4,)])
def test_strips_of_arrays(monkeypatch: pytest.MonkeyPatch, kind: type, depth: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).integers(0, 256, (7, 5, *depth)).astype(kind)
    one = read(values)
    monkeypatch.setattr(image_module, "_STRIP", 11)
    assert np.array_equal(read(values), one)


def test_no_copy_of_a_whole_large_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the photo's size is allocated except Pillow's image and the result."""
    sizes = []
    convert = image_module._strip_rgb

    def counted(strip: Image.Image, bounds: tuple[Any, Any]) -> np.ndarray:
        sizes.append(strip.width * strip.height)
        return convert(strip, bounds)

    monkeypatch.setattr(image_module, "_strip_rgb", counted)
    read(Image.new("L", (3000, 2000)))
    assert sum(sizes) == 6_000_000 and max(sizes) <= image_module._STRIP


def test_limit_of_arrays_and_pil_images() -> None:
    for source in (picture(), np.asarray(picture()), np.asarray(picture()).astype(float)):
        read(source, max_pixels=48 * 32)
        assert "1,536 pixels (48 x 32); the limit is 1,535" in error(source, max_pixels=48 * 32 - 1).reason


def test_limit_of_a_pil_image_before_it_is_decoded() -> None:
    with Image.open(io.BytesIO(encode(picture(), "JPEG"))) as opened:
        error(opened, max_pixels=9)
        assert opened.tile  # not decoded


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF"])
def test_pillows_own_limit_is_not_ours(
    image_format: str, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    data = encode(picture(), image_format)
    for pillows in (1000, 100):  # Pillow would warn, and refuse
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillows)
        assert read(data).shape == (32, 48, 3)
        assert pillows == Image.MAX_IMAGE_PIXELS
    assert not recwarn.list


@pytest.mark.skipif(not hasattr(WebPImagePlugin, "_get_size"), reason="this Pillow asks libwebp for the size")
def test_limit_before_webp_allocates_its_canvas(monkeypatch: pytest.MonkeyPatch) -> None:
    def decoder(_: bytes) -> None:
        raise AssertionError("allocated")

    data = encode(picture(), "WEBP")
    monkeypatch.setattr("PIL._webp.WebPAnimDecoder", decoder)
    assert "1,536 pixels" in error(data, max_pixels=1535).reason


def test_pillows_own_limit_for_pil_images(monkeypatch: pytest.MonkeyPatch) -> None:
    with Image.open(io.BytesIO(encode(picture(), "TIFF"))) as opened:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
        assert_quarters(read(opened))


def test_gif_frame_beyond_its_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytearray(encode(picture(), "GIF"))
    data[6:10] = struct.pack("<HH", 4, 4)
    assert "1,536 pixels" in error(bytes(data), max_pixels=100).reason
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert read(bytes(data)).shape == (32, 48, 3)


def test_pillow_is_unchanged_for_other_callers() -> None:
    data = encode(picture(), "PNG")
    filters, limit = list(warnings.filters), Image.MAX_IMAGE_PIXELS
    read(data)
    error(b"GIF89a, but no more")
    assert warnings.filters == filters and limit == Image.MAX_IMAGE_PIXELS
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
        with pytest.warns(Image.DecompressionBombWarning):
            Image.open(io.BytesIO(data)).close()
    with pytest.warns(UserWarning, match="Metadata Warning") as caught:
        Image.open(io.BytesIO(WARNED_OF)).close()
    assert caught[0].filename == TiffImagePlugin.__file__


def test_pillow_is_unchanged_for_other_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """While one thread reads, another one's `Image.open` still obeys Pillow's limit."""
    data, seen = encode(picture(), "PNG"), []
    load = ImageFile.ImageFile.load

    def open_elsewhere() -> None:
        try:
            Image.open(io.BytesIO(data))
        except Image.DecompressionBombError:
            seen.append("refused")

    def load_slowly(self: Any) -> Any:
        thread = threading.Thread(target=open_elsewhere)
        thread.start()
        thread.join()
        return load(self)

    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    monkeypatch.setattr(ImageFile.ImageFile, "load", load_slowly)
    assert_quarters(read(data))
    assert set(seen) == {"refused"}


# ---- what can be wrong with a file


def test_missing(tmp_path: pathlib.Path) -> None:
    for path in (tmp_path / "none.jpg", tmp_path / "none" / "none.jpg"):
        assert error(path).reason == "no such file"
    (tmp_path / "file").write_bytes(b"x")
    assert error(tmp_path / "file" / "a.jpg").reason == "no such file"


def test_source_is_the_path_as_given(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert error("none.jpg").source == "none.jpg"
    assert error(pathlib.Path("none.jpg")).source == "none.jpg"


def test_sources_that_are_no_path(tmp_path: pathlib.Path) -> None:
    assert error(b"text").source == "<bytes>"
    assert error(io.BytesIO(b"text")).source == "<file>"
    assert error(np.zeros(3)).source == "<array>"
    assert error(Image.new("RGB", (0, 0))).source == "<PIL image>"
    (tmp_path / "a.jpg").write_bytes(b"text")
    with (tmp_path / "a.jpg").open("rb") as file:
        assert error(file).source == str(tmp_path / "a.jpg")
    with os.fdopen(os.open(tmp_path / "a.jpg", os.O_RDONLY), "rb") as file:
        assert error(file).source == "<file>"


def test_folder(tmp_path: pathlib.Path) -> None:
    assert error(tmp_path).reason == "a folder, not an image"


def test_no_permission(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encode(picture(), "PNG"))
    path.chmod(0)
    if os.access(path, os.R_OK):  # root may read everything

        def refuse(*_: Any) -> None:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr("builtins.open", refuse)
    caught = error(path)
    assert caught.source == str(path) and "ermission" in caught.reason


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no fifos here")
def test_not_a_regular_file(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "fifo")
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")

        def refuse(*_: Any) -> None:
            raise AssertionError("opened: that can wait for ever")

        monkeypatch.setattr("builtins.open", refuse)
        for path in ("fifo", "socket", "/dev/zero", "/dev/null"):
            assert error(path).reason == "not a regular file"


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000, "\ud800.jpg"])
def test_impossible_names(path: str) -> None:
    assert error(path).source == path


def test_empty(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.jpg").touch()
    for source in (tmp_path / "a.jpg", b"", io.BytesIO()):
        assert error(source).reason == "the file is empty"


@pytest.mark.parametrize(
    "data", [b"just text", b"<html></html>", b"\0", b"\0" * 5000, b"%PDF-1.4", b"\xff\xd8", b"RIFF"]
)
def test_not_an_image(tmp_path: pathlib.Path, data: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(data)
    assert error(tmp_path / "a.jpg").reason == NOT_AN_IMAGE


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF"])
def test_truncated(tmp_path: pathlib.Path, image_format: str, capfd: pytest.CaptureFixture[str]) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    data = encode(noise, image_format)
    (tmp_path / "cut").write_bytes(data[: len(data) // 2])
    for source in (tmp_path / "cut", data[: len(data) // 2], data[:40]):
        caught = error(source)
        assert f"truncated, corrupt or unsupported {image_format} file" in caught.reason
        assert "\n" not in str(caught)
    assert capfd.readouterr() == ("", "")


def jpeg(hopper_file: pathlib.Path, **options: object) -> bytes:
    buffer = io.BytesIO()
    with Image.open(hopper_file) as image:
        image.resize((200, 240)).save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 2}, {"quality": 30}])
def test_a_jpeg_that_lacks_only_its_end_mark_is_read(hopper_file: pathlib.Path, options: dict[str, object]) -> None:
    data = jpeg(hopper_file, **options)
    expected = read(data)
    for missing in (1, 2):
        with pytest.warns(DamagedImageWarning, match="^<bytes>: the JPEG lacks its end mark"):
            assert np.array_equal(read(data[:-missing]), expected)
    # If one byte or more of its pixels are missing, they are not invented.
    for missing in (4, 5, 10, 100, len(data) // 2):
        assert "truncated" in error(data[:-missing]).reason


@pytest.mark.parametrize("stray", [b"\n", b"\0", b"\r\n\r\n", b"x" * 16])
def test_stray_bytes_before_a_jpeg_are_skipped(tmp_path: pathlib.Path, hopper_file: pathlib.Path, stray: bytes) -> None:
    data = jpeg(hopper_file)
    (tmp_path / "a.jpg").write_bytes(stray + data)
    with pytest.warns(DamagedImageWarning, match=f"a.jpg: skipped {len(stray)} stray byte"):
        assert np.array_equal(read(tmp_path / "a.jpg"), read(data))


def test_a_jpeg_far_inside_a_file_is_not_read(hopper_file: pathlib.Path) -> None:
    assert error(b"x" * 17 + jpeg(hopper_file)).reason.startswith("not an image")


@pytest.mark.shared
def test_damaged_photos_of_real_cameras(shared: pathlib.Path) -> None:
    faults = shared / "data" / "faults"
    for name in ("missing-eoi.jpg", "leading-newline.jpg"):
        with pytest.warns(DamagedImageWarning, match=name):
            assert read(faults / name).mean() > 100
    assert read(faults / "gray12of16.png").max() > 240


def test_truncated_pil_image() -> None:
    data = encode(picture(), "JPEG")
    with Image.open(io.BytesIO(data[:-20])) as opened:
        assert "truncated" in error(opened).reason


def test_unsupported_inside_an_allowed_format() -> None:
    data = tiff_with_entry(0x0103, struct.pack("<HIHH", 3, 1, 9999, 0))  # an unknown compression
    assert "corrupt or unsupported TIFF file" in error(data).reason


@pytest.mark.parametrize(
    "kind",
    [
        OSError, SyntaxError, ValueError, struct.error, EOFError, IndexError, TypeError, ZeroDivisionError, KeyError,
        OverflowError, AttributeError, RuntimeError, RecursionError, AssertionError, Image.DecompressionBombError,
        UserWarning, Image.DecompressionBombWarning, UnicodeDecodeError, NotImplementedError,
    ],
)  # fmt: skip
def test_any_exception_of_a_decoder(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: Any) -> None:
        raise kind("utf-8", b"", 0, 1, "x") if kind is UnicodeDecodeError else kind("boom")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    assert "corrupt" in error(encode(picture(), "PNG")).reason


def test_a_reason_is_one_short_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: Any) -> None:
        raise ValueError("two\nlines" * 500)

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    reason = error(encode(picture(), "PNG")).reason
    assert "two lines" in reason and "\n" not in reason and len(reason) < 300


def test_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    assert error(encode(picture(), "PNG")).reason == "it does not fit into memory"


def test_interrupt_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    with pytest.raises(KeyboardInterrupt):
        read(encode(picture(), "PNG"))


def test_file_object_that_fails() -> None:
    class Broken(io.BytesIO):
        def read(self, *_: Any) -> bytes:
            raise OSError(5, "Input/output error")

    assert "Input/output error" in error(Broken()).reason
    closed = io.BytesIO(b"x")
    closed.close()
    assert "closed" in error(closed).reason


def tiff_with_entry(tag: int, entry: bytes) -> bytes:
    """Return a TIFF with other type, count and value of one tag."""
    data = bytearray(encode(picture(), "TIFF"))
    start = struct.unpack_from("<I", data, 4)[0]
    for at in range(start + 2, start + 2 + 12 * struct.unpack_from("<H", data, start)[0], 12):
        if struct.unpack_from("<H", data, at)[0] == tag:
            data[at + 2 : at + 12] = entry
            return bytes(data)
    raise AssertionError(f"no tag {tag}")


# SamplesPerPixel given twice: Pillow warns and continues.
WARNED_OF = tiff_with_entry(0x0115, struct.pack("<HIHH", 3, 2, 3, 3))


def test_decoders_do_not_warn(recwarn: pytest.WarningsRecorder) -> None:
    assert_quarters(read(WARNED_OF))
    rows = b"".join(b"\0" + row.tobytes() for row in np.asarray(picture()))
    assert_quarters(read(png(48, 32, 8, 2, rows, (b"acTL", struct.pack(">II", 0, 0)))))
    assert not recwarn.list


def test_no_file_is_left_open(tmp_path: pathlib.Path) -> None:
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("counts the open files in /proc")
    before = len(os.listdir("/proc/self/fd"))
    kept = []
    for image_format in ("JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF"):
        data = encode(picture(), image_format)
        for number, content in enumerate((data, data[:-9], data[:50])):
            path = tmp_path / f"{image_format}-{number}"
            path.write_bytes(content)
            try:
                read(path)
            except ImageError as caught:
                kept.append(caught)  # with its traceback and everything it refers to
    for compression in ("tiff_lzw", "jpeg"):
        path = tmp_path / f"{compression}.tif"
        path.write_bytes(encode(picture(), "TIFF", compression=compression))
        read(path)
    assert kept
    assert len(os.listdir("/proc/self/fd")) == before


# ---- HEIC


def ftyp(brand: bytes, *compatible: bytes) -> bytes:
    content = b"ftyp" + brand + bytes(4) + b"".join(compatible)
    return struct.pack(">I", len(content) + 4) + content + bytes(50)


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"])
def test_heic_without_the_extra(brand: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    expected = "a HEIC photo needs the extra heif: pip install 'facespace[heif]'"
    assert error(ftyp(brand, b"mif1", b"heic")).reason == expected


def test_avif_brands_are_not_heic() -> None:
    for start in (ftyp(b"avif", b"mif1"), ftyp(b"mif1", b"miaf", b"avif"), ftyp(b"msf1", b"avis")):
        assert "AVIF" in error(start).reason
    data = bytearray(encode(picture(), "AVIF"))
    data[8:12] = b"mif1"
    assert_quarters(read(bytes(data)), tolerance=12)


def test_heic(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("pi_heif")
    data = (DATA / "orientation6.heic").read_bytes()
    with (DATA / "orientation6.heic").open("rb") as file:
        for source in (DATA / "orientation6.heic", data, file):
            result = read(source)
            assert result.shape == (64, 48, 3)
            assert_quarters(result, 12, ((220, 30, 30), (30, 200, 30), (30, 30, 220), (240, 240, 240)))
    assert "corrupt or unsupported HEIC file" in error(data[:300]).reason
    assert "corrupt or unsupported HEIC file" in error(data[:-100]).reason


def test_limit_of_heic_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_heif(_: Any) -> Any:
        return types.SimpleNamespace(
            size=(20_000, 20_000)
        )  # no other attribute: decoding would raise an AttributeError

    monkeypatch.setitem(sys.modules, "pi_heif", types.SimpleNamespace(open_heif=open_heif))
    assert "400,000,000 pixels" in error(ftyp(b"heic")).reason
    monkeypatch.undo()
    pytest.importorskip("pi_heif")
    path = DATA / "orientation6.heic"
    assert "3,072 pixels" in error(path, max_pixels=3071).reason
    assert read(path, max_pixels=3072).shape == (64, 48, 3)


# ---- damage


SMALL = Image.fromarray(np.random.default_rng(1).integers(0, 256, (5, 7, 3), np.uint8))
VALID = {
    "JPEG": encode(SMALL, "JPEG", exif=exif(6)),
    "PNG": encode(SMALL, "PNG", exif=exif(6)),
    "APNG": encode(SMALL, "PNG", save_all=True, append_images=[SMALL.rotate(180)]),
    "GIF": encode(SMALL, "GIF"),
    "TIFF": encode(SMALL, "TIFF", exif=exif(6)),
    "TIFF-LZW": encode(SMALL, "TIFF", compression="tiff_lzw"),
    "WEBP": encode(SMALL, "WEBP", exif=exif(6)),
    "BMP": encode(SMALL, "BMP"),
    "MPO": encode(SMALL, "MPO", save_all=True, append_images=[SMALL.rotate(180)]),
    "PPM": encode(SMALL, "PPM"),
    "TIFF-preview": encode(SMALL, "TIFF", save_all=True, append_images=[SMALL.resize((48, 64))], tiffinfo={254: 1}),
    **(
        {"JP2": encode(SMALL, "JPEG2000"), "J2K": encode(SMALL, "JPEG2000", no_jp2=True)}
        if features.check("jpg_2000")
        else {}
    ),
}


@pytest.mark.parametrize("image_format", sorted(VALID))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files(image_format: str, data: st.DataObject, capfd: pytest.CaptureFixture[str]) -> None:
    """After changing and cutting bytes: an image or an `ImageError`, no other exception, warning or output."""
    valid = VALID[image_format]
    damaged = bytearray(valid)
    places = st.integers(0, len(valid) - 1) | st.integers(0, min(120, len(valid) - 1))
    for place, byte in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=6)):
        damaged[place] = byte
    keep = data.draw(st.just(len(valid)) | st.integers(0, len(valid)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            assert_rgb(read(bytes(damaged[:keep]), max_pixels=10_000))
        except ImageError as error:
            assert "\n" not in error.reason
    others = [one for one in caught if one.category is not DamagedImageWarning]
    assert not others, [str(warning.message) for warning in others]
    said = capfd.readouterr()
    if not image_format.startswith(
        "TIFF"
    ):  # libtiff prints by itself, which could only be silenced for the whole process
        assert said == ("", "")


def test_a_tiff_of_too_many_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: Any) -> None:
        raise AssertionError("decoded")

    stream = io.BytesIO()
    Image.new("RGB", (4, 50)).save(stream, "TIFF", tiffinfo={278: 1})
    monkeypatch.setattr(image_module, "MAX_PARTS", 50)
    read(stream.getvalue())
    monkeypatch.setattr(image_module, "MAX_PARTS", 49)
    monkeypatch.setattr(TiffImagePlugin.TiffImageFile, "load", load)
    assert error(stream.getvalue()).reason == "it must have at most 49 strips or tiles, got 50"


def _smooth_jpeg(size: tuple[int, int], mode: str = "RGB", turn: int = 1, **options: Any) -> bytes:
    pixels = np.random.default_rng(1).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = turn
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=95, exif=exif, **options)
    return file.getvalue()


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize(("mode", "options"), [("RGB", {}), ("RGB", {"progressive": True}), ("L", {})])
def test_a_jpeg_at_half_size_is_the_same_picture_in_every_orientation(
    mode: str, options: dict[str, Any], turn: int
) -> None:
    data = _smooth_jpeg((320, 240), mode, turn, **options)
    pixels, n = read_reduced(data, lambda height, width: 0.5 if (height, width) == (240, 320) else 1.0)
    full = read(data)
    assert n == 2 and pixels.shape == (full.shape[0] // 2, full.shape[1] // 2, 3)
    means = full.reshape(pixels.shape[0], 2, pixels.shape[1], 2, 3).mean(axis=(1, 3))
    assert np.abs(pixels - means).max() < 8


@pytest.mark.parametrize(("turn", "n"), [(1, 4), (6, 1), (3, 1)])
def test_a_block_cut_by_the_border_shifts_nothing(turn: int, n: int) -> None:
    pixels, reduction = read_reduced(_smooth_jpeg((321, 243), turn=turn), lambda *_: 0.25)
    assert reduction == n and (n == 1 or pixels.shape == (61, 81, 3))


def test_a_block_cut_by_the_border_of_a_raw_photo_with_an_orientation_in_its_first_directory() -> None:
    small, full = _smooth_jpeg((16, 12)), Image.open(io.BytesIO(_smooth_jpeg((321, 243))))
    file = io.BytesIO()
    full.save(file, "JPEG")
    preview = {254: 1, 259: 6, 513: -2, 514: len(file.getvalue())}
    sensor = {254: 0, 256: 324, 257: 246, 258: 14, 259: 1, 262: 32803, 273: 8, 277: 1, 278: 246, 279: 1}
    first = {254: 1, 256: 16, 257: 12, 259: 6, 273: -1, 279: len(small), 274: 3}
    data = tiff([first], subs=[preview, sensor], blobs=[small, file.getvalue()])
    pixels, n = read_reduced(data, lambda *_: 0.25)
    assert n == 1
    np.testing.assert_array_equal(pixels, read(data))


@pytest.mark.parametrize(("size", "n"), [((100, 3), 2), ((1, 100), 1), ((7, 7), 4), ((8, 8), 8)])
def test_a_tiny_jpeg_keeps_one_pixel(size: tuple[int, int], n: int) -> None:
    pixels, reduction = read_reduced(_smooth_jpeg(size), lambda *_: 0.01)
    assert reduction == n and pixels.shape == (-(-size[1] // n), -(-size[0] // n), 3)


@pytest.mark.parametrize(("progressive", "first"), [(False, 80 * 60), (True, 320 * 240)])
def test_memory_is_counted_for_what_a_decoder_keeps(progressive: bool, first: int) -> None:
    waited: list[int] = []
    with reading_within(waited.append):
        read_reduced(_smooth_jpeg((320, 240), progressive=progressive), lambda *_: 0.25)
    assert waited[0] == first


def test_files_that_are_always_read_at_full_size(tmp_path: pathlib.Path) -> None:
    cmyk, png = _smooth_jpeg((320, 240), "CMYK"), io.BytesIO()
    Image.open(io.BytesIO(cmyk)).convert("RGB").save(png, "PNG")
    whole = _smooth_jpeg((320, 240))
    for data in (cmyk, png.getvalue(), whole.removesuffix(b"\xff\xd9"), b"\0" + whole):
        path = tmp_path / "photo"
        path.write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DamagedImageWarning)
            pixels, n = read_reduced(path, lambda *_: 0.1)
            np.testing.assert_array_equal(pixels, read(data))
        assert n == 1


def test_limits_are_those_of_the_full_picture() -> None:
    with pytest.raises(ImageError, match=r"76,800 pixels \(320 x 240\); the limit is 50,000"):
        read_reduced(_smooth_jpeg((320, 240)), lambda *_: 0.1, max_pixels=50_000)
    with pytest.raises(ImageError, match="truncated"):
        read_reduced(_smooth_jpeg((320, 240))[:3000], lambda *_: 0.5)
