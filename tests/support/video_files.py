"""Creates small videos for tests: faces moved over a canvas, written by PyAV."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

GRAY_STEP = 5  # brightness step between frames of `counted_frames`


def write_video(
    path: Path,
    frames: Iterable[np.ndarray],
    *,
    codec: str = "mpeg4",
    rate: int = 25,
    times: Sequence[float] | None = None,
    pix_fmt: str = "yuv420p",
    matrix: Sequence[int] | None = None,
    aspect: Fraction | None = None,
    gop: int | None = None,
    title: str | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Write `frames` (H,W,3), each at its second in `times` or at an even rate; `matrix`: (a, b, c, d) to display them
    with; `gop`: distance of key frames.
    """
    with av.open(str(path), "w", options=options or {}) as container:
        if title is not None:
            container.metadata["title"] = title
        stream = container.add_stream(codec, rate=rate)
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for k, pixels in enumerate(frames):
            if not k:
                stream.height, stream.width = pixels.shape[:2]
                stream.pix_fmt, stream.bit_rate = pix_fmt, 4_000_000  # sharp enough to distinguish grays
                if gop is not None:
                    stream.gop_size = gop
                if aspect is not None:
                    stream.codec_context.sample_aspect_ratio = aspect
                if matrix is not None:
                    a, b, c, d = (65536 * value for value in matrix)
                    stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")
            if times is not None:
                frame.pts, frame.time_base = round(1000 * times[k]), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def counted_frames(n: int, size: tuple[int, int] = (64, 48)) -> list[np.ndarray]:
    """Return frames of one gray each, which encodes the frame number k: `GRAY_STEP` times k and a little."""
    assert n * GRAY_STEP < 256
    return [np.full((size[1], size[0], 3), GRAY_STEP * k + 2, np.uint8) for k in range(n)]


def number_of(pixels: np.ndarray) -> int:
    """Return which of the `counted_frames` a frame is."""
    return int(pixels.mean()) // GRAY_STEP


def portrait(file: Path, height: int) -> np.ndarray:
    """Return a picture of that height, as a sprite to move."""
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB").resize((round(picture.width * height / picture.height), height)))


def moved(
    sprites: Sequence[tuple[np.ndarray, Sequence[tuple[int, int] | None]]], size: tuple[int, int] = (400, 240)
) -> list[np.ndarray]:
    """Return one frame for each place (x, y) of the sprites' upper left corners; None hides a sprite."""
    frames = [np.full((size[1], size[0], 3), 90, np.uint8) for _ in sprites[0][1]]
    for sprite, places in sprites:
        for frame, place in zip(frames, places, strict=True):
            if place is not None:
                x, y = place
                part = sprite[: size[1] - y, : size[0] - x]
                frame[y : y + part.shape[0], x : x + part.shape[1]] = part
    return frames
