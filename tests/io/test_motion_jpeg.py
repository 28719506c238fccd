"""Motion JPEG, and how it differs from photos with appended data."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from facespace.io.motion_jpeg import follows_itself, frame_at


def jpeg(width: int = 32, height: int = 24, seed: int = 0, **options: object) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(stream, "JPEG", **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"exif": b"Exif\0\0" + jpeg(8, 8)}, {"restart_marker_rows": 1}]
)
def test_where_a_frame_ends(options: dict[str, object]) -> None:
    data = jpeg(**options)
    frame = frame_at(data + b"more \xff\xd9")
    assert frame is not None
    assert (frame.end, frame.size, frame.has_parts) == (len(data), (32, 24), False)
    assert frame_at(data[:-2]) is None
    assert frame_at(b"--" + data, 2) == (len(data) + 2, (32, 24), False)


def test_frames_of_one_size_are_a_video() -> None:
    frames = [jpeg(seed=k) for k in range(5)]
    for gap in (b"", b"\0\0", b"\r\n"):
        assert follows_itself(io.BytesIO(gap.join(frames)))
    assert not follows_itself(io.BytesIO(frames[0]))
    assert not follows_itself(io.BytesIO(b"".join(frames[:2])))
    assert not follows_itself(io.BytesIO(frames[0] + jpeg(16, 12) + frames[1])), "a photo and its smaller copy"
    assert not follows_itself(io.BytesIO(frames[0] + b"\0\0\0\x18ftypmp42" + bytes(99))), "a motion photo of a phone"


def test_a_file_that_announces_parts_is_a_photo() -> None:
    stream = io.BytesIO()
    pictures = [Image.open(io.BytesIO(jpeg(seed=k))) for k in range(4)]
    pictures[0].save(stream, "MPO", save_all=True, append_images=pictures[1:])
    frame = frame_at(stream.getvalue())
    assert frame is not None and frame.has_parts
    assert not follows_itself(stream)
    xmp = b"http://ns.adobe.com/xap/1.0/\0<x xmlns:Container=''><Container:Directory/></x>"
    segment = b"\xff\xe1" + (len(xmp) + 2).to_bytes(2, "big") + xmp
    first = jpeg()
    assert not follows_itself(io.BytesIO(first[:2] + segment + first[2:] + jpeg(seed=1) + jpeg(seed=2)))


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff", b"\xff\xd8", b"\xff\xd8\xff", b"\xff\xd8\xff\xe0\0\0", b"\xff\xd8\xff\xe0\0\1", b"\xff\xd8\xff\xda"],
)
def test_damaged_frames(data: bytes) -> None:
    assert frame_at(data) is None
