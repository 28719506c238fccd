"""Reading video files: selected frames, their times and rotation; other files and damaged ones."""

from __future__ import annotations

import errno
import itertools
import os
import random
import shutil
import sys
import wave
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from facespace.errors import RuntimeUnavailable, VideoError
from facespace.io.file_kinds import Kind, is_video, kind_in_folder
from facespace.video import reader as video
from facespace.video.reader import read_frames, turned, video_seconds
from support.video_files import counted_frames, number_of, write_video

CONTAINERS = {
    "mp4": ("mpeg4", {}),
    "mov": ("libx264", {"movflags": "faststart"}),
    "mkv": ("mpeg4", {}),
    "webm": ("libvpx-vp9", {}),
    "avi": ("mpeg4", {}),
    "ts": ("libx264", {}),
    "mpg": ("mpeg2video", {}),
    "flv": ("flv1", {}),
    "wmv": ("wmv2", {}),
}


@pytest.fixture
def counted(tmp_path: Path) -> Path:
    """Fifty frames in two seconds, each showing its number."""
    return write_video(tmp_path / "counted.mp4", counted_frames(50))


def textured(n: int) -> list[np.ndarray]:
    """Return frames that all take some bytes in a file."""
    dice = np.random.default_rng(0)
    return [dice.integers(0, 256, (48, 64, 3)).astype(np.uint8) for _ in range(n)]


def read_until_broken(path: Path, **options: object) -> tuple[list[video.Frame], str]:
    """Return the frames that can be read, and the reason why there are no more."""
    frames = []
    with pytest.raises(VideoError) as caught:
        for frame in read_frames(path, **options):
            frames.append(frame)  # noqa: PERF402
    assert caught.value.source == os.fspath(path)
    assert "\n" not in str(caught.value)
    return frames, caught.value.reason


# Selection and times of frames


@pytest.mark.parametrize("every", [1, 2, 7, 49, 50, 1000])
def test_every_nth_frame(counted: Path, every: int) -> None:
    frames = list(read_frames(counted, every=every))
    assert [frame.index for frame in frames] == list(range(0, 50, every))
    assert [number_of(frame.pixels) for frame in frames] == list(range(0, 50, every))
    assert [frame.seconds for frame in frames] == pytest.approx([k / 25 for k in range(0, 50, every)])
    for frame in frames:
        assert (frame.pixels.shape, frame.pixels.dtype) == ((48, 64, 3), np.uint8)


@pytest.mark.parametrize("ending", CONTAINERS)
def test_containers(tmp_path: Path, ending: str) -> None:
    codec, options = CONTAINERS[ending]
    path = write_video(tmp_path / f"a.{ending}", counted_frames(50), codec=codec, options=options)
    assert is_video(path)
    frames = list(read_frames(path, every=1))
    assert [number_of(frame.pixels) for frame in frames] == list(range(50))
    if ending != "mpg":  # its writer is sometimes off by a frame
        assert np.diff([frame.seconds for frame in frames]) == pytest.approx(1 / 25, abs=0.002)
    assert frames[0].seconds == pytest.approx(0, abs=0.05), "seconds count from the file's start"
    assert video_seconds(path) == pytest.approx(2, abs=0.6)


# One file for each of FFmpeg's readers that are allowed.
READERS = {
    "mov": ("mp4", "mpeg4"), "matroska": ("mkv", "mpeg4"), "avi": ("avi", "mpeg4"), "mpegts": ("ts", "libx264"),
    "mpeg": ("mpg", "mpeg2video"), "mpegvideo": ("m2v", "mpeg2video"), "flv": ("flv", "flv1"), "asf": ("asf", "wmv2"),
    "ogg": ("ogv", "libvpx"), "mxf": ("mxf", "mpeg2video"), "h264": ("h264", "libx264"), "hevc": ("hevc", "libx265"),
    "ivf": ("ivf", "libvpx"), "nut": ("nut", "mpeg4"), "mjpeg": ("mjpeg", "mjpeg"), "mpjpeg": ("mjpeg", "mjpeg"),
}  # fmt: skip


def test_every_reader_is_tried() -> None:
    assert set(READERS) == set(video.FORMATS.split(","))


@pytest.mark.parametrize("reader", READERS)
def test_every_allowed_format_can_be_read(tmp_path: Path, reader: str) -> None:
    ending, codec = READERS[reader]
    try:
        path = write_video(
            tmp_path / f"a.{ending}", counted_frames(20, (128, 96)), codec=codec,
            pix_fmt="yuvj420p" if codec == "mjpeg" else "yuv420p",
        )  # fmt: skip
    except (av.error.FFmpegError, av.codec.codec.UnknownCodecError) as error:
        pytest.skip(f"this FFmpeg does not write {codec} into {ending} ({error})")
    if reader == "mpjpeg":
        frames = path.read_bytes().split(b"\xff\xd8\xff")[1:]
        part = b"--frame\r\nContent-Type: image/jpeg\r\n\r\n\xff\xd8\xff%s\r\n"
        path.write_bytes(b"".join(part % frame for frame in frames))
    bare = path.rename(tmp_path / "without an ending")
    assert is_video(bare) and kind_in_folder(bare) is Kind.VIDEO
    bare.rename(path)
    assert is_video(path) and kind_in_folder(path) is Kind.VIDEO
    with av.open(str(path)) as container:
        assert reader in container.format.name.split(",") or (reader, container.format.name) == ("mpjpeg", "mpjpeg")
    shades = [number_of(frame.pixels) for frame in read_frames(path, every=1)]
    assert shades == list(range(len(shades))) and len(shades) >= 19


@pytest.mark.parametrize("rate", [3, 5, 10, 25, 30, 50])
def test_five_a_second_whatever_the_rate(tmp_path: Path, rate: int) -> None:
    path = write_video(tmp_path / "a.mp4", counted_frames(50), rate=rate)
    frames = list(read_frames(path))
    assert [frame.index for frame in frames] == list(range(0, 50, max(rate // 5, 1)))


def test_frames_at_uneven_times(tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.05, 0.3, 0.31, 0.45, 2.0, 2.5, 2.55, 2.7]
    path = write_video(tmp_path / "a.mp4", counted_frames(10), times=times)
    assert [frame.seconds for frame in read_frames(path, every=1)] == pytest.approx(times, abs=0.002)
    chosen = list(read_frames(path))
    assert [frame.index for frame in chosen] == [0, 3, 6, 7, 9], "one when a fifth of a second has gone by"
    assert [number_of(frame.pixels) for frame in chosen] == [0, 3, 6, 7, 9]


def test_frames_that_the_encoder_reorders_have_their_times(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", counted_frames(50), codec="libx264", options={})
    frames = list(read_frames(path, every=1))
    assert [frame.seconds for frame in frames] == pytest.approx([k / 25 for k in range(50)])


def test_one_frame(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", counted_frames(1))
    (frame,) = read_frames(path)
    assert (frame.index, frame.seconds, number_of(frame.pixels)) == (0, 0.0, 0)


# Cuts


def rooms(*lengths: int) -> list[np.ndarray]:
    """Return shots with these numbers of frames, each of another picture."""
    shots = [np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8) for seed in range(len(lengths))]
    return [shot.repeat(8, axis=0).repeat(8, axis=1) for shot, n in zip(shots, lengths, strict=True) for _ in range(n)]


@pytest.mark.parametrize("rate", [5, 25])
def test_cuts_come_with_the_frame_after_them(tmp_path: Path, rate: int) -> None:
    path = write_video(tmp_path / "a.mp4", rooms(7, 13, 4), rate=rate, codec="libx264", options={})
    frames = list(read_frames(path))
    assert [second for frame in frames for second in frame.cuts] == pytest.approx([7 / rate, 20 / rate])
    for frame, before in itertools.pairwise(reversed(frames)):
        assert all(before.seconds < second <= frame.seconds for second in frame.cuts)
    assert [frame.cuts for frame in read_frames(path, every=1)].count(()) == 22


def test_all_cuts_between_distant_frames_are_reported(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", rooms(10, 10, 10, 10))
    first, second = read_frames(path, every=35)
    assert first.cuts == ()
    assert second.cuts == pytest.approx([0.4, 0.8, 1.2])


@pytest.mark.parametrize("matrix", [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)])
def test_changes_refer_to_the_upright_picture(tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    pictures = [np.full((96, 128, 3), 60, np.uint8) for _ in range(10)]
    for picture in pictures[3:]:
        picture[:32, :32] = 220  # at the upper left as it is stored
    path = write_video(tmp_path / "a.mp4", pictures, matrix=matrix)
    frame = list(read_frames(path))[1]
    height, width = frame.pixels.shape[:2]
    assert frame.cuts == ()
    assert frame.changes is not None
    bright = np.argwhere(frame.pixels[..., 0] > 150)
    (top, left), (bottom, right) = bright.min(axis=0), bright.max(axis=0)
    at = frame.changes.at((left, top, right, bottom), width, height)
    assert at == pytest.approx(3 / 25, abs=1e-3)
    for x in (0, width - 32):
        for y in (0, height - 32):
            if abs(x - left) > 16 or abs(y - top) > 16:
                assert frame.changes.at((x, y, x + 32, y + 32), width, height) is None


def test_frames_come_one_by_one_and_the_file_is_closed(counted: Path) -> None:
    frames = read_frames(counted, every=1)
    assert next(frames).index == 0
    counted.unlink()  # an open file stays readable
    assert next(frames).index == 1
    frames.close()  # type: ignore[attr-defined]
    if os.path.isdir("/proc/self/fd"):
        assert not [fd for fd in os.listdir("/proc/self/fd") if "counted" in os.path.realpath(f"/proc/self/fd/{fd}")]


@pytest.mark.parametrize("options", [{"every": 0}, {"every": -1}, {"per_second": 0}, {"per_second": float("nan")}])
def test_options_out_of_range(counted: Path, options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must be (at least 1|above 0), got"):
        read_frames(counted, **options)  # type: ignore[arg-type]


# Colours and rotation


def test_gray_video(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", counted_frames(5), codec="ffv1", pix_fmt="gray")
    frames = list(read_frames(path, every=1))
    assert [number_of(frame.pixels) for frame in frames] == list(range(5))
    assert all(np.ptp(frame.pixels) <= 1 for frame in frames)


def test_colours_are_rgb(tmp_path: Path) -> None:
    red = np.zeros((48, 64, 3), np.uint8)
    red[..., 0] = 200
    (frame,) = read_frames(write_video(tmp_path / "a.mp4", [red]))
    assert frame.pixels.mean(axis=(0, 1)) == pytest.approx([200, 0, 0], abs=6)


MATRICES = [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0),
            (-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)]  # fmt: skip


def shown_by(pixels: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """Move each pixel by the standard's formula, with positions shifted to begin at 0."""
    a, b, c, d = matrix
    places = {
        (a * x + c * y, b * x + d * y): pixels[y, x] for y in range(pixels.shape[0]) for x in range(pixels.shape[1])
    }
    left, top = min(x for x, _ in places), min(y for _, y in places)
    width, height = max(x for x, _ in places) - left + 1, max(y for _, y in places) - top + 1
    result = np.empty((height, width, 3), np.uint8)
    for (x, y), value in places.items():
        result[y - top, x - left] = value
    return result


@pytest.mark.parametrize("matrix", MATRICES, ids=str)
def test_turned(matrix: tuple[int, int, int, int]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    assert (turned(pixels, matrix) == shown_by(pixels, matrix)).all()
    assert (turned(pixels, tuple(65536 * value for value in matrix)) == shown_by(pixels, matrix)).all()
    assert turned(pixels, matrix).flags.c_contiguous


@pytest.mark.parametrize("matrix", MATRICES, ids=str)
def test_the_rotation_in_a_file_is_applied(tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    quarters = np.zeros((48, 64, 3), np.uint8)
    quarters[:24, :32], quarters[:24, 32:], quarters[24:, :32] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    path = write_video(tmp_path / "a.mp4", [quarters], matrix=matrix)
    (frame,) = read_frames(path)
    expected = shown_by(quarters, matrix)
    assert frame.pixels.shape == expected.shape
    assert np.abs(frame.pixels.astype(int) - expected).mean() < 10


@pytest.mark.parametrize(
    ("aspect", "shape"), [(Fraction(2), (24, 64)), (Fraction(1, 2), (48, 32)), (Fraction(8), (48, 64))]
)
def test_pixels_are_made_square(tmp_path: Path, aspect: Fraction, shape: tuple[int, int]) -> None:
    path = write_video(tmp_path / "a.mkv", counted_frames(2), aspect=aspect)
    assert [frame.pixels.shape[:2] for frame in read_frames(path, every=1)] == [shape] * 2


# Recognising videos


def test_images_are_not_videos(tmp_path: Path, hopper_file: Path, collins_file: Path) -> None:
    for file in (hopper_file, collins_file):
        assert not is_video(file)
        shutil.copy(file, tmp_path / "photo.mp4")
        assert not is_video(tmp_path / "photo.mp4"), "content counts, not the name"
    for brand in (b"heic", b"avif", b"mif1"):
        (tmp_path / "photo.mp4").write_bytes(b"\0\0\0\x18ftyp" + brand + bytes(20))
        assert not is_video(tmp_path / "photo.mp4")


def test_a_video_under_another_name(counted: Path) -> None:
    counted.rename(counted.with_name("photo.jpg"))
    assert is_video(counted.with_name("photo.jpg"))
    assert len(list(read_frames(counted.with_name("photo.jpg"), every=1))) == 50


def test_a_name_counts_if_the_content_is_ambiguous(tmp_path: Path) -> None:
    for name, expected in (("a.mp4", True), ("A.MKV", True), ("a.txt", False), ("a.jpg", False)):
        (tmp_path / name).write_text("hello")
        assert is_video(tmp_path / name) is expected
    assert not is_video(tmp_path / "missing.mp4")
    assert not is_video(tmp_path)
    assert not is_video("a\0.mp4")


def test_a_name_that_is_not_utf8(counted: Path) -> None:
    name = os.fsencode(counted.parent) + b"/caf\xe9.mp4"
    try:
        os.rename(counted, name)
    except OSError:
        pytest.skip("this file system requires UTF-8")
    assert is_video(os.fsdecode(name))
    assert len(list(read_frames(os.fsdecode(name)))) == 10


# Files that are not videos


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"hello\n" * 100, "not a video that facespace can read"),
        (b"\0\0\0\x18ftypisom" + bytes(100), "not a video that facespace can read"),
        (b"\x1aE\xdf\xa3" + bytes(100), "not a video that facespace can read"),
    ],
)
def test_not_a_video(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    frames, said = read_until_broken(path)
    assert not frames
    assert said.startswith(reason)
    with pytest.raises(VideoError):
        video_seconds(path)


def test_no_file(tmp_path: Path) -> None:
    assert read_until_broken(tmp_path / "a.mp4") == ([], "no such file")
    assert read_until_broken(tmp_path) == ([], "a folder, not a video")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "fifo.mp4")
        assert not is_video(tmp_path / "fifo.mp4")
        assert read_until_broken(tmp_path / "fifo.mp4") == ([], "not a regular file")


def write_sound(path: Path, codec: str) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=16_000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.int16), format="s16", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_sound_alone(tmp_path: Path) -> None:
    for name, codec in (("a.mp4", "aac"), ("a.mkv", "pcm_s16le")):
        assert read_until_broken(write_sound(tmp_path / name, codec)) == ([], "no video in it, only sound")


def test_the_cover_of_a_song_is_not_a_video(tmp_path: Path) -> None:
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=16_000)
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.bit_rate = 1_000_000
        cover.disposition = av.stream.Disposition.attached_pic
        for packet in [*cover.encode(av.VideoFrame.from_ndarray(counted_frames(1)[0], "rgb24")), *cover.encode()]:
            container.mux(packet)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.int16), format="s16", layout="mono")
        frame.sample_rate = 16_000
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    with av.open(str(path)) as container:
        assert container.streams.video, "the test is about a file with a cover"
    assert read_until_broken(path) == ([], "no video in it, only sound")


@pytest.mark.parametrize(
    "playlist",
    ["ffconcat version 1.0\nfile {name}\n", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{path}\n#EXT-X-ENDLIST\n"],
    ids=["concat", "hls"],
)
def test_a_playlist_opens_no_other_file(counted: Path, playlist: str) -> None:
    path = counted.with_name("list.mp4")
    path.write_text(playlist.format(name=counted.name, path=counted))
    frames, reason = read_until_broken(path)
    assert not frames
    assert reason.startswith("not a video that facespace can read")


def test_an_unknown_codec(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", counted_frames(5))
    path.write_bytes(path.read_bytes().replace(b"V_MPEG4/ISO/ASP", b"V_NOBODY/KNO/WS"))
    assert read_until_broken(path) == ([], "FFmpeg has no decoder for its video")


def test_formats_beyond_the_list_are_not_opened(tmp_path: Path) -> None:
    write_video(tmp_path / "a.y4m", counted_frames(5), codec="wrapped_avframe").rename(tmp_path / "a.mp4")
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video, "FFmpeg would read it"
    frames, reason = read_until_broken(tmp_path / "a.mp4")
    assert not frames
    assert reason.startswith("not a video that facespace can read")


def test_a_title_that_is_not_utf8(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", counted_frames(5), title="a long title")
    path.write_bytes(path.read_bytes().replace(b"a long title", b"\xff\xfe\xfa long e"))
    assert len(list(read_frames(path, every=1))) == 5


def test_too_many_pixels_are_refused_before_decoding(counted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    monkeypatch.setattr(video, "_decoded", lambda *_: decoded.append(1) or iter(()))
    frames, reason = read_until_broken(counted, max_pixels=64 * 48 - 1)
    assert (frames, decoded) == ([], [])
    assert reason == "frames of 3,072 pixels; the limit is 3,071"
    large = write_video(counted.with_name("large.mp4"), counted_frames(2, (640, 480)))
    frames, reason = read_until_broken(large, max_pixels=1000)
    assert (frames, decoded) == ([], [])
    assert reason == "the size of its frames is unknown, or above 1,000 pixels"
    monkeypatch.undo()
    assert len(list(read_frames(counted, every=10, max_pixels=64 * 48))) == 5


def test_without_pyav(counted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    assert is_video(counted), "the kind of a file is known without PyAV"
    with pytest.raises(RuntimeUnavailable, match=r"pip install 'facespace\[video\]'"):
        list(read_frames(counted))


def test_a_wav_file_is_not_a_video(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(1000))
    assert not is_video(tmp_path / "a.wav")


# Damaged files


@pytest.mark.parametrize("ending", ["mov", "mkv", "avi", "webm", "flv"])
def test_a_truncated_video(tmp_path: Path, ending: str) -> None:
    codec, options = CONTAINERS[ending]
    path = write_video(tmp_path / f"a.{ending}", textured(50), codec=codec, options=options, gop=1)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    frames, reason = read_until_broken(path, every=1)
    assert [frame.index for frame in frames] == list(range(len(frames)))
    assert 20 < len(frames) < 45
    assert reason.startswith("damaged (")
    assert reason.endswith(f"); {len(frames)} frames of it could be read")


def test_a_hole_in_the_middle(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", textured(20), codec="mjpeg", pix_fmt="yuvj420p")
    data = bytearray(path.read_bytes())
    middle = data.index(b"00dc", len(data) // 2) + 8
    size = int.from_bytes(data[middle - 4 : middle], "little")
    data[middle : middle + size] = bytes(size)
    path.write_bytes(data)
    frames, reason = read_until_broken(path, every=1)
    assert len(frames) == 19
    assert frames[-1].seconds == pytest.approx(19 / 25), "what comes after the hole is read too"
    assert reason.startswith("damaged (")


def test_a_broadcast_that_begins_in_the_middle_is_not_damaged(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.ts", textured(50), codec="libx264", gop=10)
    packets = path.read_bytes()
    for begin in range(3):
        path.write_bytes(packets[188 * (len(packets) // 188 // 4 + begin) :])
        frames = list(read_frames(path, every=1))
        assert 25 <= len(frames) < 50


def test_an_error_between_frames_ends_the_reading(monkeypatch: pytest.MonkeyPatch, counted: Path) -> None:
    """For an error of any of FFmpeg's readers."""

    def broken(packets: Iterator[av.Packet]) -> Iterator[av.Packet]:
        yield from itertools.islice(packets, 30)
        raise ValueError("what\na mess")

    class Broken:
        def __init__(self, container: Any) -> None:
            self._container = container

        def __getattr__(self, name: str) -> Any:
            return getattr(self._container, name)

        def demux(self, stream: object) -> Iterator[av.Packet]:
            return broken(self._container.demux(stream))

    decoded = video._decoded
    monkeypatch.setattr(video, "_decoded", lambda container, *rest: decoded(Broken(container), *rest))
    frames, reason = read_until_broken(counted, every=1)
    assert len(frames) == 30, "the delayed frames of the decoder are returned too"
    assert reason == "damaged (what); 30 frames of it could be read"


@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv", "avi", "ts", "webm"])
def test_flipped_bits_give_frames_or_one_clear_error(
    tmp_path: Path, ending: str, capfd: pytest.CaptureFixture[str]
) -> None:
    codec, options = CONTAINERS[ending]
    path = write_video(tmp_path / f"a.{ending}", textured(5), codec=codec, options=options)
    whole = path.read_bytes()
    dice = random.Random(ending)
    outcomes = set()
    for _ in range(12):
        data = bytearray(whole)
        for _ in range(dice.choice((1, 10, 50))):
            data[dice.randrange(min(len(data), dice.choice((700, len(data)))))] ^= 1 << dice.randrange(8)
        path.write_bytes(data[: dice.choice((len(data), len(data), dice.randrange(1, len(data))))])
        n = 0
        try:
            for frame in read_frames(path, every=1):
                assert (frame.pixels.ndim, frame.pixels.dtype) == (3, np.uint8)
                assert frame.seconds >= 0
                n += 1
            outcomes.add("read")
        except VideoError as error:
            assert "\n" not in str(error)
            outcomes.add("part" if n else "none")
    assert len(outcomes) >= 2, "the flips must cause different damage"
    assert capfd.readouterr() == ("", ""), "FFmpeg prints nothing"


def test_a_failing_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_video(tmp_path / "a.ts", textured(200), codec="mpeg2video")
    frames: list[video.Frame] = []

    class Failing:
        """A file that can no longer be read after the first frame."""

        def __init__(self, file: Any) -> None:
            self.seek, self.tell, self._read = file.seek, file.tell, file.read

        def read(self, size: int) -> bytes:
            if frames:
                raise OSError(errno.EIO, "Input/output error")
            return self._read(size)  # type: ignore[no-any-return]

    file_class = video._File
    monkeypatch.setattr(video, "_File", lambda file: file_class(Failing(file)))  # type: ignore[arg-type]
    with pytest.raises(VideoError, match=r"damaged \(Input/output error\); \d+ frames of it could be read$"):
        for frame in read_frames(path, every=1):
            frames.append(frame)  # noqa: PERF402
    assert 1 < len(frames) < 200
    assert capfd.readouterr().err == ""


def test_a_position_before_the_start_of_a_file(counted: Path) -> None:
    with open(counted, "rb") as file:
        assert video._File(file).seek(-5) < 0
        assert video._File(file).seek(1 << 80) < 0
        assert video._File(file).seek(7) == 7
