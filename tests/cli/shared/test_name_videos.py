"""Naming in videos and cameras: what is printed and written, with a shade of gray for each person; and once with real faces."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image

from facespace.cli.shared.name_videos import _Rate, name_camera, name_video, subtitle_files
from facespace.cli.shared.output import Report
from facespace.cli.shared.window import Window
from facespace.errors import RuntimeUnavailable, VideoError
from facespace.video.reader import Frame, read_frames
from support.commands import Outcome
from support.gray_people import StubDetector, StubEmbedder, frame, namer
from support.video_files import moved, portrait, write_video

Cli = Callable[..., Outcome]


def gray_video(path: Path, *people: tuple[int, ...]) -> Path:
    """Write a lossless video of five frames per second, each with these people."""
    frames = [frame(k, *grays).pixels for k, grays in enumerate(people)]
    return write_video(path, frames, codec="ffv1", pix_fmt="bgr0", rate=5, gop=1)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Anna for two seconds, badly lit in one frame; in the second second next to a stranger."""
    return gray_video(tmp_path / "a.mkv", *[(10,)] * 5, *[(10, 50), (12, 50), *[(10, 50)] * 3])


def run(path: str | Path, **options: Any) -> int:
    """Call `name_video` with gray people; return how many files failed."""
    report = Report()
    name_video(str(path), detector=StubDetector(), embedder=StubEmbedder(), namer=namer, report=report, **options)  # type: ignore[arg-type]
    return report.n_failed


def printed(capsys: pytest.CaptureFixture[str]) -> tuple[list[dict[str, Any]], str]:
    captured = capsys.readouterr()
    return [json.loads(line) for line in captured.out.splitlines()], captured.err


# Videos


def test_json(video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(video, json=True) == 0
    (*frames, summary), err = printed(capsys)
    assert err == ""
    assert [(entry["video"], entry["frame"], entry["seconds"]) for entry in frames] == [
        (str(video), k, k / 5) for k in range(10)
    ]
    assert [[face["name"] for face in entry["faces"]] for entry in frames] == [["Anna"]] * 5 + [["Anna", None]] * 5
    assert list(frames[0]["faces"][0]) == ["box", "score", "landmarks", "quality", "track", "name", "similarity"]
    assert summary == {"video": str(video), "frames": 10, "appearances": [
        {"track": 1, "name": "Anna", "similarity": pytest.approx(0.998, abs=2e-3), "first": 0.0, "last": 1.8, "frames": 10},
        {"track": 2, "name": None, "similarity": pytest.approx(0, abs=1e-3), "first": 1.0, "last": 1.8, "frames": 5},
    ]}  # fmt: skip


def test_text(video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(video) == 0
    out, err = capsys.readouterr()
    assert err == ""
    first, anna, stranger = out.splitlines()
    assert first == f"{video}: 2 appearances in 10 frames processed"
    assert anna.startswith("  0:00.0 to 0:01.8  Anna  similarity 0.99")
    assert anna.endswith(" (threshold 0.900)  10 frames")
    assert stranger == "  0:01.0 to 0:01.8  unknown  similarity 0.000 (threshold 0.900)  5 frames"


def test_every(video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(video, json=True, every=4) == 0
    (*frames, summary), _ = printed(capsys)
    assert [entry["frame"] for entry in frames] == [0, 4, 8]
    assert summary["frames"] == 3


def test_no_known_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = gray_video(tmp_path / "empty.mkv", *[()] * 5)
    assert run(path, subtitles=tmp_path / "a.srt", draw=tmp_path / "a.mp4") == 0
    assert capsys.readouterr().out == f"{path}: no appearances in 5 frames processed\n"
    assert (tmp_path / "a.srt").read_text() == ""
    assert len(list(read_frames(tmp_path / "a.mp4", every=1))) == 5


def test_subtitles_and_drawing(video: Path, tmp_path: Path) -> None:
    assert run(video, subtitles=tmp_path / "a.srt", draw=tmp_path / "drawn.mp4") == 0
    assert (tmp_path / "a.srt").read_bytes().decode() == (
        "1\n00:00:00,000 --> 00:00:01,000\nAnna\n\n2\n00:00:01,000 --> 00:00:02,000\nAnna\nunknown\n"
    )
    drawn = list(read_frames(tmp_path / "drawn.mp4", every=1))
    assert [drawing.seconds for drawing in drawn] == pytest.approx([k / 5 for k in range(10)])
    green = [np.ptp(drawing.pixels[5:35, 5:35], axis=2).max() > 60 for drawing in drawn]
    assert green == [True] * 10
    assert sorted(os.listdir(tmp_path)) == ["a.mkv", "a.srt", "drawn.mp4"]


def test_somebody_else_in_the_same_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """JSON, appearances, subtitles and drawing agree: a stranger, Anna, a stranger, one after the other in the same place."""
    path = gray_video(tmp_path / "cut.mkv", *[(50,)] * 8, *[(10,)] * 8, *[(50,)] * 8)
    assert run(path, json=True, subtitles=tmp_path / "cut.srt", draw=tmp_path / "drawn.mp4") == 0
    (*frames, summary), _ = printed(capsys)
    assert [[face["name"] for face in entry["faces"]] for entry in frames] == [[None]] * 8 + [["Anna"]] * 8 + [
        [None]
    ] * 8
    assert [(seen["name"], seen["first"], seen["last"], seen["frames"]) for seen in summary["appearances"]] == [
        (None, 0.0, 1.4, 8), ("Anna", 1.6, 3.0, 8), (None, 3.2, 4.6, 8),
    ]  # fmt: skip
    assert (tmp_path / "cut.srt").read_text() == (
        "1\n00:00:00,000 --> 00:00:01,600\nunknown\n\n2\n00:00:01,600 --> 00:00:03,200\nAnna\n\n"
        "3\n00:00:03,200 --> 00:00:04,800\nunknown\n"
    )
    drawn = [frame.pixels[5:35, 5:35] for frame in read_frames(tmp_path / "drawn.mp4", every=1)]
    green = [bool(np.ptp(pixels, axis=2).max() > 60) for pixels in drawn]
    assert green == [False] * 8 + [True] * 8 + [False] * 8


def test_a_person_is_named_once_per_frame(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = gray_video(tmp_path / "twins.mkv", *[(11, 10)] * 5)  # both are similar to Anna
    for options, expected in (({}, [None, "Anna"]), ({"repeats": True}, ["Anna", "Anna"])):
        assert run(path, json=True, **options) == 0
        (*frames, summary), _ = printed(capsys)
        assert [[face["name"] for face in entry["faces"]] for entry in frames] == [expected] * 5
        assert sorted(map(str, (seen["name"] for seen in summary["appearances"]))) == sorted(map(str, expected))


def test_a_film_of_one_frame(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = gray_video(tmp_path / "one.mkv", (10, 50))
    assert run(path, json=True, subtitles=tmp_path / "one.srt", draw=tmp_path / "one.mp4") == 0
    (frame_entry, summary), err = printed(capsys)
    assert err == ""
    assert [face["name"] for face in frame_entry["faces"]] == ["Anna", None]
    assert [(seen["name"], seen["first"], seen["last"], seen["frames"]) for seen in summary["appearances"]] == [
        ("Anna", 0.0, 0.0, 1), (None, 0.0, 0.0, 1),
    ]  # fmt: skip
    assert (tmp_path / "one.srt").read_text() == "1\n00:00:00,000 --> 00:00:00,200\nAnna\nunknown\n"
    assert len(list(read_frames(tmp_path / "one.mp4", every=1))) == 1
    assert run(path) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"{path}: 2 appearances in 1 frame processed"


def test_a_damaged_video_is_told_up_to_where_it_breaks(video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    assert run(video, json=True, subtitles=tmp_path / "a.srt", draw=tmp_path / "drawn.mkv") == 1
    (*frames, summary), err = printed(capsys)
    assert 2 <= len(frames) <= 6
    assert summary["frames"] == len(frames)
    assert [person["name"] for person in summary["appearances"]][:1] == ["Anna"]
    assert summary["error"].startswith("damaged (")
    assert err == f"facespace: {video}: {summary['error']}\n"
    assert "Anna" in (tmp_path / "a.srt").read_text()
    assert len(list(read_frames(tmp_path / "drawn.mkv", every=1))) == len(frames)


def test_files_that_are_not_videos_fail_like_photos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.mp4").write_text("hello")
    assert run(tmp_path / "a.mp4", json=True, subtitles=tmp_path / "a.srt", draw=tmp_path / "b.mp4") == 1
    (entry,), err = printed(capsys)
    assert list(entry) == ["image", "error"]
    assert entry["error"].startswith("not a video that facespace can read")
    assert err == f"facespace: {entry['image']}: {entry['error']}\n"
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_without_pyav(video: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    assert run(video) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"facespace: {video}: videos and cameras need the extra video: pip install 'facespace[video]'\n"


def test_subtitles_next_to_a_video_are_not_overwritten(video: Path, tmp_path: Path) -> None:
    files = subtitle_files(tmp_path / "new", [str(video), "elsewhere/a.mp4"])
    assert [str(path.relative_to(tmp_path)) for path in files.values()] == ["new/a.srt", "new/a-2.srt"]
    assert subtitle_files(tmp_path, [str(video)]) == {str(video): tmp_path / "a.srt"}
    (tmp_path / "a.srt").write_text("the film's own")
    with pytest.raises(typer.BadParameter, match=r"a\.srt already exists next to its video"):
        subtitle_files(tmp_path, [str(video)])
    (tmp_path / "new" / "a.srt").write_text("of the run before")
    subtitle_files(tmp_path / "new", [str(video)])


# Cameras


class StubScreen:
    """A screen that the user closes while frame number `until` is shown."""

    def __init__(self, until: int) -> None:
        self.shown: list[tuple[Image.Image, str]] = []
        self.closed = False
        self.n_closed = 0
        self._until = until

    def show(self, picture: Image.Image, title: str) -> None:
        self.shown.append((picture, title))
        self.closed = len(self.shown) == self._until

    def close(self) -> None:
        self.n_closed += 1


def no_screen(title: str) -> Any:
    raise RuntimeUnavailable("cannot open a window: there is no screen")


def film(frames: Iterator[Frame] | list[Frame], **options: Any) -> None:
    """Call `name_camera` with gray people."""
    name_camera(0, detector=StubDetector(), embedder=StubEmbedder(), namer=namer, frames=frames, **options)  # type: ignore[arg-type]


def test_a_camera_in_a_window(capsys: pytest.CaptureFixture[str]) -> None:
    screen, ended = StubScreen(until=3), []

    def frames() -> Iterator[Frame]:
        try:
            yield from (frame(k, 10, 50) for k in range(100))
        finally:
            ended.append(True)

    source = frames()
    film(source, open_window=lambda title: screen)
    assert len(screen.shown) == 3
    assert (screen.n_closed, ended) == (1, [True]), "window and camera are closed"
    picture, title = screen.shown[2]
    assert picture.size == (200, 40)
    assert np.ptp(np.asarray(picture), axis=2).max() > 60, "Anna's box is green"
    assert title.startswith("facespace, camera 0: ")
    assert title.endswith(" frames/s; q closes")
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == "camera 0: 2 appearances in 3 frames processed"
    assert err == ""


def test_without_a_screen_names_are_printed_when_they_change(capsys: pytest.CaptureFixture[str]) -> None:
    shown = [(), (10,), (10,), (10, 50), (50, 10), ()]
    film([frame(k, *grays) for k, grays in enumerate(shown)], open_window=no_screen)
    out, err = capsys.readouterr()
    assert out.splitlines()[:4] == [
        "0:00.0  no faces", "0:00.2  Anna", "0:00.6  Anna, unknown", "0:01.0  no faces",
    ]  # fmt: skip
    assert out.splitlines()[4] == "camera 0: 2 appearances in 6 frames processed"
    assert err == "facespace: cannot open a window: there is no screen; names are printed instead\n"


def test_a_camera_as_json_opens_no_window(capsys: pytest.CaptureFixture[str]) -> None:
    film([frame(k, 10) for k in range(3)], json=True, open_window=no_screen)
    (*frames, summary), err = printed(capsys)
    assert err == ""
    assert [(entry["camera"], entry["seconds"]) for entry in frames] == [(0, 0.0), (0, 0.2), (0, 0.4)]
    assert (summary["camera"], summary["frames"]) == (0, 3)


def test_a_camera_names_a_person_once_per_frame_unless_repeats_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    for options, expected in (({}, [None, "Anna"]), ({"repeats": True}, ["Anna", "Anna"])):
        film([frame(k, 11, 10) for k in range(3)], json=True, **options)
        (*frames, _), _ = printed(capsys)
        assert [[face["name"] for face in entry["faces"]] for entry in frames] == [expected] * 3


def test_a_camera_stopped_by_the_user_or_unplugged(capsys: pytest.CaptureFixture[str]) -> None:
    def frames(error: BaseException) -> Iterator[Frame]:
        yield from (frame(k, 10) for k in range(3))
        raise error

    screen = StubScreen(until=100)
    film(frames(KeyboardInterrupt()), open_window=lambda title: screen)
    assert screen.n_closed == 1
    assert capsys.readouterr().out.splitlines()[0] == "camera 0: 1 appearance in 3 frames processed"
    with pytest.raises(VideoError, match="it stopped"):
        film(frames(VideoError("camera 0", "it stopped")), open_window=lambda title: screen)
    assert capsys.readouterr().out.splitlines()[0] == "camera 0: 1 appearance in 3 frames processed"


def test_no_camera_opens_no_window() -> None:
    def frames() -> Iterator[Frame]:
        raise VideoError("camera 0", "there is no such camera")
        yield

    with pytest.raises(VideoError, match="no such camera"):
        film(frames(), open_window=lambda title: pytest.fail("a window was opened"))


def test_frames_per_second() -> None:
    rate = _Rate()
    assert rate.update(10.0) == 0
    assert [rate.update(10 + k / 20) for k in range(1, 81)][-1] == pytest.approx(20)
    assert rate.update(20.0) == 0, "frames older than two seconds do not count"


# The window, with a fake tkinter


class StubTk(SimpleNamespace):
    """A tkinter that records the calls of its window."""

    def __init__(self) -> None:
        done: list[tuple[str, Any]] = []
        root = SimpleNamespace(
            title=lambda text: done.append(("title", text)), protocol=lambda name, call: self.calls.update({name: call}),
            bind=lambda key, call: self.calls.update({key: call}), update=lambda: done.append(("update", None)),
            destroy=lambda: done.append(("destroy", None)),
        )  # fmt: skip
        label = SimpleNamespace(pack=lambda: None, configure=lambda image: done.append(("image", image)))
        super().__init__(
            done=done, calls={}, root=root, TclError=ValueError, Tk=lambda: root, Label=lambda *_, **__: label
        )


@pytest.fixture
def tk(monkeypatch: pytest.MonkeyPatch) -> StubTk:
    stub = StubTk()
    monkeypatch.setitem(sys.modules, "tkinter", stub)
    photo_image = SimpleNamespace(PhotoImage=lambda picture, master: (picture, master))
    monkeypatch.setattr("PIL.ImageTk", photo_image, raising=False)
    monkeypatch.setitem(sys.modules, "PIL.ImageTk", photo_image)
    return stub


def test_a_window_shows_and_closes(tk: StubTk) -> None:
    window = Window("hello")
    window.show("picture", "first")  # type: ignore[arg-type]
    assert tk.done == [("title", "hello"), ("image", ("picture", tk.root)), ("title", "first"), ("update", None)]
    assert set(tk.calls) == {"WM_DELETE_WINDOW", "q", "<Escape>"}
    tk.calls["q"](None)
    assert window.closed
    tk.calls["WM_DELETE_WINDOW"]()
    window.show("picture", "second")  # type: ignore[arg-type]
    window.close()
    assert tk.done[4:] == [("destroy", None)], "destroyed once, and nothing is shown afterwards"


def test_no_screen_and_no_tkinter(tk: StubTk, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise tk.TclError("no display name and no $DISPLAY environment variable")

    tk.Tk = refuse
    with pytest.raises(RuntimeUnavailable, match="there is no screen"):
        Window("hello")
    monkeypatch.setitem(sys.modules, "tkinter", None)
    with pytest.raises(RuntimeUnavailable, match="has no tkinter"):
        Window("hello")


# facespace identify, with real faces


def test_identify_photos_and_videos(
    cli: Cli, tmp_path: Path, hopper_file: Path, collins_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkdir("out")
    hopper, collins = portrait(hopper_file, 150), portrait(collins_file, 170)
    write_video(tmp_path / "film.mp4", moved([
        (hopper, [(k, 20) for k in range(15)]), (collins, [(230, 40) if k < 9 else None for k in range(15)]),
    ]), rate=10)  # fmt: skip
    assert cli("enroll", "--gallery", "g", "Grace Hopper", hopper_file).code == 0
    (tmp_path / "bad.mp4").write_text("hello")
    given = [hopper_file, "film.mp4", "bad.mp4", collins_file]
    outcome = cli("identify", "--gallery", "g", "--json", *given, "--subtitles", "out", "--draw", "out")
    assert outcome.code == 1
    assert outcome.errors[0].startswith("facespace: bad.mp4: not a video that facespace can read")
    photo, *frames, summary, bad, other = outcome.json
    assert [face["name"] for face in photo["faces"]] == ["Grace Hopper"]
    assert [entry["frame"] for entry in frames] == list(range(0, 15, 2))
    assert all("Grace Hopper" in [face["name"] for face in entry["faces"]] for entry in frames)
    assert {seen["name"]: seen["frames"] for seen in summary["appearances"]} == {"Grace Hopper": 8, None: 5}
    assert (bad["image"], other["image"]) == ("bad.mp4", str(collins_file))
    assert sorted(os.listdir("out")) == ["astronaut.png.jpg", "film.mp4", "film.srt", "grace_hopper.jpg"]
    assert (
        (tmp_path / "out" / "film.srt")
        .read_text()
        .startswith("1\n00:00:00,000 --> 00:00:00,900\nGrace Hopper\nunknown\n")
    ), "until she leaves the frame"
    assert len(list(read_frames("out/film.mp4", every=1))) == 15
    every = cli("identify", "--gallery", "g", "film.mp4", "--every", "7", "--threshold", "1")
    assert (every.code, every.err) == (0, "")
    assert every.lines[0] == "film.mp4: 2 appearances in 3 frames processed"
    assert "Grace" not in every.out
    (tmp_path / "film.srt").write_text("the film's own")
    refused = cli("identify", "--gallery", "g", "film.mp4", "--subtitles", ".")
    assert refused.code == 2
    assert cli("identify", "--gallery", "g", "film.mp4", "--every", "0").code == 2
    assert (tmp_path / "film.srt").read_text() == "the film's own"
