"""Streams served by HTTP on loopback: a film of known length, and one without that breaks off."""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Iterator

import pytest

from facespace.errors import VideoError
from facespace.video.streams import read_stream, shown
from support.film_server import FilmServer, film_server
from support.video_files import counted_frames, number_of, write_video

RATE = 12
N_FRAMES = 24  # two seconds


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    folder = tmp_path_factory.mktemp("films")
    frames = counted_frames(N_FRAMES, (320, 240))
    film = write_video(folder / "film.mp4", frames, rate=RATE, options={"movflags": "faststart"})
    live = write_video(folder / "live.ts", frames, rate=RATE, codec="mpeg2video", gop=4)
    return film.read_bytes(), live.read_bytes()


@pytest.fixture
def server(films: tuple[bytes, bytes]) -> Iterator[FilmServer]:
    with film_server(*films, seconds=2.0) as found:
        yield found


def test_a_film_is_played_at_its_own_speed(server: FilmServer) -> None:
    begun = time.monotonic()
    frames = read_stream(f"{server.url}/film.mp4", per_second=6)
    numbers = []
    try:
        while True:
            numbers.append(number_of(next(frames).pixels))
    except StopIteration as end:
        assert end.value is True, "it was a film, which has ended"
    assert 1.5 < time.monotonic() - begun < 8
    assert numbers == sorted(set(numbers)) and numbers[0] == 0
    assert 8 <= len(numbers) <= 13, "six a second"


def test_a_stream_without_a_length_ends_when_its_sender_stops(server: FilmServer) -> None:
    server.plan = [0.6]
    frames = read_stream(f"{server.url}/live")
    numbers = []
    try:
        while True:
            numbers.append(number_of(next(frames).pixels))
    except StopIteration as end:
        assert end.value is False
    except VideoError as error:
        assert "broke off" in error.reason
    assert numbers and max(numbers) < N_FRAMES - 2


def test_a_stream_that_stalls(server: FilmServer) -> None:
    server.plan = [None]
    begun = time.monotonic()
    with pytest.raises(VideoError, match="broke off"):
        list(read_stream(f"{server.url}/live", patience=1.0))
    assert time.monotonic() - begun < 15


def test_a_stream_is_closed_at_once(server: FilmServer) -> None:
    server.plan = [None]
    frames = read_stream(f"{server.url}/live")
    assert [frame.index for frame in itertools.islice(frames, 2)] == [0, 1]
    begun = time.monotonic()
    frames.close()
    assert time.monotonic() - begun < 5


def test_addresses_without_a_stream(server: FilmServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for address in (f"{server.url}/none", f"{server.url}/text", f"http://127.0.0.1:{port}/", f"{server.url}/live"):
        with pytest.raises(VideoError, match=r"cannot be opened|sends no pictures") as error:
            next(read_stream(address))
        assert error.value.source == address


def test_a_playlist_opens_no_other_address(server: FilmServer) -> None:
    with pytest.raises(VideoError, match="cannot be opened"):
        next(read_stream(f"{server.url}/playlist.m3u8"))


@pytest.mark.parametrize("address", ["file:///etc/passwd", "concat:a|b", "ftp://host/film.mp4", "film.mp4"])
def test_other_addresses(address: str) -> None:
    with pytest.raises(ValueError, match="must begin with one of rtsp"):
        next(read_stream(address))


def test_a_password_is_not_shown() -> None:
    assert shown("rtsp://admin:secret@[::1]:554/live?token=1") == "rtsp://[::1]:554/live"
    with pytest.raises(VideoError) as error:
        next(read_stream("http://admin:secret@127.0.0.1:9/live?token=1"))
    assert "secret" not in str(error.value) and "token" not in str(error.value)


def test_frames_with_too_many_pixels(server: FilmServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACESPACE_MAX_PIXELS", "1000")
    with pytest.raises(VideoError, match=r"above 1,000 pixels"):
        next(read_stream(f"{server.url}/film.mp4"))
    monkeypatch.setenv("FACESPACE_MAX_PIXELS", "70000")
    with pytest.raises(VideoError, match=r"frames of 76,800 pixels; the limit is 70,000"):
        next(read_stream(f"{server.url}/film.mp4"))
