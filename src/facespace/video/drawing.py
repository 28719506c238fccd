"""Draws videos in which the people of every frame are marked with a box and a name."""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from facespace.errors import VideoError
from facespace.faces.drawing import KNOWN, annotate
from facespace.faces.face import Face
from facespace.io.files import atomic_path
from facespace.io.text import first_line
from facespace.video.appearances import Appearance, NamedFrame
from facespace.video.reader import Frame, pyav, read_frames

STRANGER = (128, 128, 128)

_ENCODERS = (("h264", "libx264"), ("mpeg4", "mpeg4"), ("vp9", "libvpx-vp9"))  # (codec, FFmpeg's encoder), best first
_TICKS = 60_000  # per second; MPEG-4 allows at most 65,535
_ENDINGS = (".mp4", ".mov", ".mkv", ".webm")  # containers that store the time of every frame


def draw_video(path: str, target: Path, frames: Sequence[NamedFrame], appearances: Sequence[Appearance]) -> None:
    """Write a copy of the video `path`, without sound, in which the people of `frames` have boxes and names.

    It contains every frame of the video at its own time, not only the analysed ones: boxes are interpolated between
    `frames` of one shot. Names are those of `appearances`. If the video is damaged, its readable part is drawn.
    `target` is written atomically; its ending, .mp4, .mov, .mkv or .webm, selects the format. Raises `ValueError` for
    another ending, `VideoError` if no frame can be read or the video cannot be written.
    """
    if target.suffix.lower() not in _ENDINGS:
        raise ValueError(f"{target}: a drawn video must end in {', '.join(_ENDINGS)}")
    labels = Labels(frames, appearances)
    with atomic_path(target) as unfinished, _Writer(unfinished, str(target)) as writer:
        for frame in _readable(path):
            writer.write(_drawn(frame.pixels, labels.at(frame.seconds)), frame.seconds)
        if not writer.n_frames:
            raise VideoError(path, "no frame of it can be decoded")


def draw_frame(frame: NamedFrame) -> Image.Image:
    """Return a copy of a frame, which must have its pixels, with boxes and current names of its faces."""
    assert frame.pixels is not None
    return _drawn(frame.pixels, [(named.face, named.name) for named in frame.faces])


class Labels:
    """The faces to draw at any second of a video, with their names."""

    def __init__(self, frames: Sequence[NamedFrame], appearances: Sequence[Appearance]) -> None:
        self._frames = sorted(frames, key=lambda frame: frame.seconds)  # a damaged file's times may go back
        self._times = [frame.seconds for frame in self._frames]
        self._appearances: dict[int, list[Appearance]] = {}  # by track
        for seen in sorted(appearances, key=lambda seen: seen.first):
            self._appearances.setdefault(seen.track, []).append(seen)

    def at(self, seconds: float) -> list[tuple[Face, str | None]]:
        """Return the faces at a second and their names, None for unknown.

        Between two analysed frames, a face that is in both is drawn at an interpolated position. A face that is in only
        one of them comes or goes when the picture at its place changes, or else halfway in time. After the last frame
        faces stay where they were.
        """
        after = bisect.bisect_right(self._times, seconds)
        if not after:
            return []
        before = {named.track: named.face for named in self._frames[after - 1].faces}
        then = self._times[after - 1]
        if after == len(self._frames):
            return [(face, _name(self._appearance(track, then))) for track, face in before.items()]
        following = {named.track: named.face for named in self._frames[after].faces}
        later, cuts = self._times[after], self._frames[after].cuts
        middle = (then + later) / 2
        shown = []
        for track, face in before.items():
            seen = self._appearance(track, then)
            end = seen.end if seen and seen.last == then and track not in following else None
            if seconds < min(cuts, default=middle if end is None else end):
                if track in following and not cuts:
                    face = _between(face, following[track], (seconds - then) / (later - then))
                shown.append((face, _name(seen)))
        for track, face in following.items():
            seen = self._appearance(track, later)
            begin = seen.begin if seen and seen.first == later and track not in before else None
            if seconds >= max(cuts, default=middle if begin is None else begin):
                if track in before and not cuts:
                    face = _between(before[track], face, (seconds - then) / (later - then))
                shown.append((face, _name(seen)))
        return shown

    def _appearance(self, track: int, seconds: float) -> Appearance | None:
        """Return the track's appearance at the second of an analysed frame."""
        of_track = self._appearances.get(track, [])
        k = bisect.bisect_right(of_track, seconds, key=lambda seen: seen.first)
        return of_track[max(k - 1, 0)] if of_track else None


def _name(seen: Appearance | None) -> str | None:
    return None if seen is None else seen.name


def _readable(path: str) -> Iterator[Frame]:
    """Yield all frames of a video. Damage is ignored here, because it was reported when the people were named."""
    with contextlib.suppress(VideoError):
        yield from read_frames(path, every=1)


def _drawn(pixels: npt.NDArray[np.uint8], faces: Sequence[tuple[Face, str | None]]) -> Image.Image:
    return annotate(
        pixels,
        [face for face, _ in faces],
        [name or "unknown" for _, name in faces],
        [KNOWN if name else STRANGER for _, name in faces],
    )


def _between(first: Face, second: Face, share: float) -> Face:
    def mean(a: Any, b: Any) -> Any:
        return (1 - share) * np.asarray(a, np.float64) + share * np.asarray(b, np.float64)

    x1, y1, x2, y2 = mean(first.box, second.box).tolist()
    points = tuple((x, y) for x, y in mean(first.landmarks, second.landmarks).tolist())
    return dataclasses.replace(
        first, box=(x1, y1, x2, y2), score=float(mean(first.score, second.score)), landmarks=points, crop_points=None
    )


class _Writer:
    """Writer of a video file, frame by frame; all frames get the size of the first."""

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._name = name
        self._container: Any = None
        self._stream: Any = None
        self._size = (0, 0)
        self._last = -1
        self.n_frames = 0

    def __enter__(self) -> _Writer:
        self._container = pyav().open(str(self._path), "w")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            with contextlib.suppress(pyav().FFmpegError):  # usually the same cause; the first error is reported
                self._container.close()
            return
        with self._video_errors(), contextlib.closing(self._container):  # closing writes the file's table of frames
            if self._stream is not None:
                self._container.mux(self._stream.encode())

    def write(self, picture: Image.Image, seconds: float) -> None:
        """Add a frame. If `seconds` is not after the previous frame's time, the new frame is shown just after it."""
        av = pyav()
        with self._video_errors():
            if self._stream is None:
                # Colours are stored for every second pixel, so both sides must be even.
                self._size = (picture.width + picture.width % 2, picture.height + picture.height % 2)
                self._stream = self._begin()
            if picture.size != self._size:
                picture = picture.resize(self._size, Image.Resampling.BILINEAR)
            frame = av.VideoFrame.from_ndarray(np.asarray(picture), "rgb24")
            self._last = max(round(seconds * _TICKS), self._last + 1)
            frame.pts, frame.time_base = self._last, Fraction(1, _TICKS)
            self._container.mux(self._stream.encode(frame))
        self.n_frames += 1

    def _begin(self) -> Any:
        av = pyav()
        for codec, encoder in _ENCODERS:
            if encoder in av.codecs_available and codec in self._container.supported_codecs:
                break
        else:
            raise VideoError(self._name, "this PyAV has no encoder for such a file (H.264, MPEG-4 or VP9)")
        options = {"preset": "veryfast"} if encoder == "libx264" else {}
        stream = self._container.add_stream(encoder, rate=30, options=options)
        stream.width, stream.height = self._size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, _TICKS)
        if encoder != "libx264":  # libx264 aims at a constant quality by default
            stream.bit_rate = min(max(4 * self._size[0] * self._size[1], 500_000), 20_000_000)
        return stream

    @contextlib.contextmanager
    def _video_errors(self) -> Iterator[None]:
        """Turn FFmpeg's errors in the block into `VideoError`; errors of the system, such as a full disk, stay `OSError`."""
        av = pyav()
        try:
            yield
        except av.FFmpegError as error:
            if isinstance(error, OSError) and error.errno and error.errno < 1000:
                raise OSError(error.errno, error.strerror, self._name) from error
            raise VideoError(self._name, f"cannot be written ({first_line(error)})") from error
