"""Naming the people in a video file or in front of a camera: what commands print and write."""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import typer

from facespace.cli.shared.output import Report, Targets, progress_bar, write_json, write_line
from facespace.cli.shared.window import Window
from facespace.errors import RuntimeUnavailable, VideoError
from facespace.io.text import plain_text

if TYPE_CHECKING:
    from PIL.Image import Image

    from facespace.detection.protocol import Detector
    from facespace.embedding.embedder import Embedder
    from facespace.video.appearances import Appearance, NamedFrame
    from facespace.video.naming import Namer
    from facespace.video.reader import Frame


class Screen(Protocol):
    """Shows the frames of a camera: `Window`, or a replacement in tests."""

    closed: bool

    def show(self, picture: Image, title: str) -> None:
        """Replace the image and the title."""

    def close(self) -> None:
        """Close the window."""


def subtitle_files(folder: Path, videos: Iterable[str]) -> dict[str, Path]:
    """Return the path of the .srt file to write for each video, in `folder`, which is created if needed.

    Raises a usage error if a path is next to its video and already exists, because it may be the video's own subtitles.
    """
    targets = Targets(folder)
    files = {video: targets.path(video, ".srt") for video in videos}
    for video, file in files.items():
        if file.exists() and os.path.realpath(file.parent) == os.path.dirname(os.path.realpath(video)):
            reason = f"{plain_text(str(file))} already exists next to its video; give another folder, or move that file"
            raise typer.BadParameter(reason, param_hint="--subtitles")
    return files


def name_video(
    path: str,
    *,
    detector: Detector,
    embedder: Embedder,
    namer: Namer,
    report: Report,
    every: int | None = None,
    json: bool = False,
    subtitles: Path | None = None,
    draw: Path | None = None,
    repeats: bool = False,
) -> None:
    """Print who is in a video and when, and write subtitles and an annotated copy if requested.

    With `json`, prints one object per processed frame and then one with the appearances; otherwise only the appearances.
    `every`: process every N-th frame instead of five per second. `subtitles` and `draw` are the .srt file and the
    annotated video to write. `repeats` is passed to `VideoNamer`. Failures are counted in `report`; a damaged video is
    processed up to the damage.
    """
    from facespace.video.naming import VideoNamer
    from facespace.video.reader import read_frames, video_seconds

    people = VideoNamer(detector, embedder, namer, repeats=repeats)
    seen: list[NamedFrame] = []
    error = None
    try:
        seconds = video_seconds(path)
        frames = people.name(read_frames(path, every=every))
        for frame in _with_progress(frames, seconds, f"naming {plain_text(Path(path).name)}"):
            if draw is not None:
                seen.append(frame)
            if json:
                write_json({"video": plain_text(path), **_frame_json(frame)})
    except VideoError as reason:
        error = reason.reason
    except RuntimeUnavailable as reason:
        error = str(reason)
    if error is not None and not people.n_frames:
        report.fail(path, error, json=json)
        return
    appearances = people.finish()
    if subtitles is not None:
        _write_subtitles(subtitles, appearances, people.interval)
    if draw is not None:
        _draw(path, draw, seen, appearances, report)
    _summarize({"video": plain_text(path)}, plain_text(path), people.n_frames, appearances, error, json=json)
    if error is not None:
        report.fail(path, error)


def name_camera(
    number: int,
    *,
    detector: Detector,
    embedder: Embedder,
    namer: Namer,
    json: bool = False,
    repeats: bool = False,
    frames: Iterable[Frame] | None = None,
    open_window: Callable[[str], Screen] = Window,
) -> None:
    """Show the people in front of a camera in a window, until the window is closed; print names if there is no screen.

    With `json`, opens no window and prints one object per frame. Without a screen, prints a line whenever the visible
    people change. At the end, also after Ctrl+C, prints all appearances. `repeats` is passed to `VideoNamer`. `frames`
    and `open_window` replace the camera and the window in tests.
    Raises `VideoError` if there is no such camera or the camera stops, `RuntimeUnavailable` without PyAV.
    """
    from facespace.video.camera import read_camera
    from facespace.video.drawing import draw_frame
    from facespace.video.naming import VideoNamer

    source = f"camera {number}"
    camera = iter(read_camera(number) if frames is None else frames)
    # Read one frame before opening a window, so that no window opens for a missing camera.
    pictures = itertools.chain(list(itertools.islice(camera, 1)), camera)
    screen = None if json else _open(open_window, source)
    people = VideoNamer(detector, embedder, namer, repeats=repeats, keep_pixels=screen is not None)
    rate = _Rate()
    before: list[str] | None = None
    error = None
    try:
        for frame in people.name(pictures, chunk_frames=1):
            names = [face.name or "unknown" for face in frame.faces]
            if screen is not None:
                screen.show(draw_frame(frame), f"facespace, {source}: {rate.update():.1f} frames/s; q closes")
                if screen.closed:
                    break
            elif json:
                write_json({"camera": number, **_frame_json(frame)})
            elif sorted(names) != before:
                before = sorted(names)
                write_line(f"{_clock(frame.seconds)}  {', '.join(names) or 'no faces'}")
    except KeyboardInterrupt:
        pass
    except VideoError as stopped:
        error = stopped
    finally:
        if screen is not None:
            screen.close()
        if close := getattr(camera, "close", None):
            close()
    _summarize({"camera": number}, source, people.n_frames, people.finish(), None, json=json)
    if error is not None:
        raise error


def _open(open_window: Callable[[str], Screen], title: str) -> Screen | None:
    try:
        return open_window(title)
    except RuntimeUnavailable as error:
        print(f"facespace: {error}; names are printed instead", file=sys.stderr, flush=True)
        return None


class _Rate:
    """The number of frames per second over the last two seconds."""

    def __init__(self) -> None:
        self._times: list[float] = []

    def update(self, now: float | None = None) -> float:
        """Count a frame; return the rate, which is 0 for the first frame."""
        now = time.monotonic() if now is None else now
        self._times = [earlier for earlier in self._times if now - earlier <= 2] + [now]
        return (len(self._times) - 1) / max(now - self._times[0], 1e-6)


def _with_progress(frames: Iterator[NamedFrame], seconds: float | None, what: str) -> Iterator[NamedFrame]:
    """Yield the frames, with a progress bar if the length of the video is known."""
    if seconds is None:
        yield from frames
        return
    with progress_bar(what) as show:
        for frame in frames:
            yield frame
            show(round(10 * frame.seconds), round(10 * seconds))


def _frame_json(frame: NamedFrame) -> dict[str, Any]:
    faces = [
        {
            **named.face.as_dict(),
            "track": named.track,
            "name": named.name,
            "similarity": None if named.similarity is None else round(named.similarity, 4),
        }
        for named in frame.faces
    ]
    return {"frame": frame.index, "seconds": round(frame.seconds, 3), "faces": faces}


def _summarize(
    source: dict[str, Any],
    called: str,
    n_frames: int,
    appearances: Sequence[Appearance],
    error: str | None,
    *,
    json: bool,
) -> None:
    """Print the appearances, as one JSON object or as lines."""
    if json:
        summary = {**source, "frames": n_frames, "appearances": [_appearance_json(seen) for seen in appearances]}
        write_json(summary if error is None else {**summary, "error": error})
        return
    n = len(appearances)
    processed = f"{n_frames} frame{'' if n_frames == 1 else 's'} processed"
    write_line(f"{called}: {n or 'no'} appearance{'' if n == 1 else 's'} in {processed}")
    for seen in appearances:
        similarity = "" if seen.similarity is None else f"  similarity {seen.similarity:.3f}"
        threshold = "" if seen.similarity is None else f" (threshold {seen.threshold:.3f})"
        when = f"{_clock(seen.first)} to {_clock(seen.last)}"
        frames = f"{seen.n_frames} frame{'' if seen.n_frames == 1 else 's'}"
        write_line(f"  {when}  {seen.name or 'unknown'}{similarity}{threshold}  {frames}")


def _appearance_json(seen: Appearance) -> dict[str, Any]:
    return {
        "track": seen.track,
        "name": seen.name,
        "similarity": None if seen.similarity is None else round(seen.similarity, 4),
        "first": round(seen.first, 3),
        "last": round(seen.last, 3),
        "frames": seen.n_frames,
    }


def _write_subtitles(target: Path, appearances: Sequence[Appearance], interval: float) -> None:
    from facespace.io.files import atomic_path
    from facespace.video.subrip import subtitles

    with atomic_path(target) as path:
        path.write_text(subtitles(appearances, interval=interval), encoding="utf-8", newline="\n")


def _draw(
    path: str, target: Path, frames: Sequence[NamedFrame], appearances: Sequence[Appearance], report: Report
) -> None:
    from facespace.video.drawing import draw_video

    try:
        draw_video(path, target, frames, appearances)
    except VideoError as error:
        report.fail(error.source, error.reason)


def _clock(seconds: float) -> str:
    """Return seconds as hours, minutes and seconds.

    >>> _clock(3723.04), _clock(59.97)
    ('1:02:03.0', '1:00.0')
    """
    tenths = round(seconds * 10)
    hours, minutes, tenths = tenths // 36_000, tenths // 600 % 60, tenths % 600
    return (f"{hours}:{minutes:02}" if hours else f"{minutes}") + f":{tenths // 10:02}.{tenths % 10}"
