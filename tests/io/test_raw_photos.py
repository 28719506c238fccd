"""The full picture of TIFF files that begin with a small one, in files with the layout of cameras."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facespace.errors import ImageError
from facespace.io.image import DamagedImageWarning, read
from facespace.io.raw_photos import full_picture
from support.tiff_files import strips, tiff

SMALL, FULL = bytes(range(12)), bytes(range(48))  # gray pixels of 4 x 3 and of 8 x 6
REDUCED = {"t254": 1}


def jpeg(width: int, height: int, **options: object) -> bytes:
    stream = io.BytesIO()
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, width // 2 :] = 255  # dark on the left, bright on the right
    Image.fromarray(pixels).save(stream, "JPEG", quality=95, **options)
    return stream.getvalue()


def raw(width: int, height: int, **more: int) -> dict[int, int]:
    """Return the directory of a sensor's pixels."""
    tags = {254: 0, 256: width, 257: height, 258: 14, 259: 1, 262: 32803, 273: 8, 277: 1, 278: height, 279: 1}
    return {**tags, **{int(name[1:]): value for name, value in more.items()}}


def reason(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        read(data)
    return caught.value.reason


@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])  # Pillow reads no other kinds
def test_a_thumbnail_in_front_is_skipped(order: str, big: bool) -> None:
    small, full = strips(4, 3, 0, 12, **REDUCED), strips(8, 6, 1, 48, t254=0)
    for data in (
        tiff([small, full], blobs=[SMALL, FULL], order=order, big=big),
        tiff([small], subs=[full], blobs=[SMALL, FULL], order=order, big=big),
        tiff([small], subs=[strips(4, 3, 0, 12, t254=1), full, strips(8, 6, 0, 12, t254=4)], blobs=[SMALL, FULL],
             order=order, big=big),
        tiff([small, strips(8, 6, 1, 48, t254=1)], blobs=[SMALL, FULL], order=order, big=big),  # both marked as smaller copies
        tiff([strips(4, 3, 0, 12, t255=2), full], blobs=[SMALL, FULL], order=order, big=big),
    ):  # fmt: skip
        assert read(data)[..., 0].tolist() == np.arange(48).reshape(6, 8).tolist()


def test_the_first_of_several_pages_is_read() -> None:
    pages = [strips(4, 3, 0, 12, t254=2), strips(8, 6, 1, 48, t254=2)]
    assert read(tiff(pages, blobs=[SMALL, FULL])).shape == (3, 4, 3)
    assert read(tiff([strips(4, 3, 0, 12), strips(8, 6, 1, 48)], blobs=[SMALL, FULL])).shape == (3, 4, 3)
    assert read(tiff([strips(4, 3, 0, 12, t254=1)], blobs=[SMALL])).shape == (3, 4, 3), "there is no larger picture"


def test_the_orientation_of_the_first_directory_applies_to_the_full_picture() -> None:
    small, full = strips(4, 3, 0, 12, t254=1, t274=6), strips(8, 6, 1, 48, t254=0)
    upright = np.rot90(np.arange(48).reshape(6, 8), -1).tolist()
    assert read(tiff([small], subs=[full], blobs=[SMALL, FULL]))[..., 0].tolist() == upright
    own = strips(8, 6, 1, 48, t254=0, t274=1)
    assert read(tiff([small], subs=[own], blobs=[SMALL, FULL])).shape == (6, 8, 3)


@pytest.mark.parametrize("preview", ["as a JPEG file", "as a strip"])
def test_a_preview_of_full_size_is_read(preview: str) -> None:
    thumbnail, full = jpeg(16, 12), jpeg(120, 80)
    first = {254: 1, 256: 16, 257: 12, 259: 6, 273: -1, 279: len(thumbnail), 274: 3}
    of_full = (
        {254: 1, 259: 6, 513: -2, 514: len(full)}
        if preview == "as a JPEG file"
        else {254: 1, 259: 6, 273: -2, 279: len(full)}
    )
    data = tiff([first], subs=[of_full, raw(124, 82)], blobs=[thumbnail, full])
    pixels = read(data)
    assert pixels.shape == (80, 120, 3)
    assert pixels[0, 0, 0] > 200 > 50 > pixels[0, -1, 0], "rotated by 180 degrees, as in the EXIF data"
    with pytest.warns(DamagedImageWarning, match="lacks its end mark"):
        shorter = read(
            tiff(
                [first],
                subs=[{**of_full, 514: len(full) - 2, 279: len(full) - 2}, raw(124, 82)],
                blobs=[thumbnail, full[:-2]],
            )
        )
    assert np.array_equal(shorter, pixels)


def test_the_orientation_of_the_preview_comes_first() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    full = jpeg(120, 80, exif=turned.tobytes())
    data = tiff([raw(120, 80, t274=3)], subs=[{254: 1, 259: 6, 513: -1, 514: len(full)}], blobs=[full])
    assert read(data).shape == (120, 80, 3)


def test_a_canon_file_has_its_size_in_the_exif_data() -> None:
    full = jpeg(120, 80)
    first = {256: 120, 257: 80, 259: 6, 273: -1, 279: len(full)}
    canon = {"blobs": [full], "mark": b"CR\x02\0" + bytes(4)}
    assert read(tiff([first], exif={40962: 124, 40963: 82}, **canon)).shape == (80, 120, 3)
    assert "of 5184 x 3456 pixels with only" in reason(tiff([first], exif={40962: 5184, 40963: 3456}, **canon))
    assert reason(tiff([first], **canon)).startswith("a raw photo with only a preview of 120 x 80"), (
        "the size is unknown"
    )


def test_a_small_preview_is_refused() -> None:
    thumbnail = jpeg(16, 12)
    data = tiff(
        [{254: 1, 256: 16, 257: 12, 259: 6, 513: -1, 514: len(thumbnail)}], subs=[raw(6000, 4000)], blobs=[thumbnail]
    )
    assert reason(data) == (
        "a raw photo of 6000 x 4000 pixels with only a preview of 16 x 12; raw photos are not developed here; "
        "export it as JPEG or TIFF"
    )
    assert reason(tiff([raw(6000, 4000)])).startswith("a raw photo of 6000 x 4000 pixels with no preview")
    dng = {**strips(4, 3, 0, 12, t254=1), 50706: 0x0401}
    linear = raw(6000, 4000, t262=34892)
    assert "only a preview of 4 x 3" in reason(tiff([dng], subs=[linear], blobs=[SMALL]))


def test_a_developed_picture_in_a_dng_is_read() -> None:
    dng = {**strips(4, 3, 0, 12, t254=1), 50706: 0x0401}
    assert read(tiff([dng], subs=[strips(8, 6, 1, 48, t254=0)], blobs=[SMALL, FULL])).shape == (6, 8, 3)


def test_no_loop_and_no_long_list_is_followed() -> None:
    class Counted(io.BytesIO):
        n_read = 0

        def read(self, size: int | None = -1) -> bytes:
            Counted.n_read += 1
            return super().read(size)

    loop = bytearray(tiff([strips(4, 3, 0, 12, t254=1)], blobs=[SMALL]))
    at = 8 + 2 + 10 * 12
    loop[at : at + 4] = (8).to_bytes(4, "little")
    assert full_picture(Counted(bytes(loop))) is None
    many = tiff([strips(4, 3, 0, 12, t254=1)] * 500, blobs=[SMALL])
    assert full_picture(Counted(many)) is None
    assert Counted.n_read < 300
    for place in (0, 2**31, 2**32 - 1):
        assert full_picture(io.BytesIO(b"II*\0" + place.to_bytes(4, "little"))) is None

    class Strict(io.BytesIO):  # as on systems that refuse offsets beyond the maximum file size
        def seek(self, at: int, whence: int = 0) -> int:
            assert at <= len(self.getvalue())
            return super().seek(at, whence)

    for far in (2**32 - 1, 10**6):
        assert full_picture(Strict(tiff([strips(4, 3, 0, 12, t254=1, t330=far)], blobs=[SMALL]))) is None
    huge = bytearray(tiff([raw(100, 100, t513=0, t514=2**32 - 1)]))
    assert "no preview" in reason(bytes(huge))


@pytest.mark.shared
def test_the_picture_that_the_preview_shows(shared: Path) -> None:
    assert read(shared / "data/faults/group.dng").shape == (700, 900, 3)
