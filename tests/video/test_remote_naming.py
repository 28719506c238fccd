"""Frames named by a service, which a function replaces here."""

from __future__ import annotations

import numpy as np
import pytest

from facespace.faces.face import Face
from facespace.video.reader import Frame
from facespace.video.remote_naming import RemoteFace, RemoteNamer

PIXELS = np.zeros((50, 200, 3), np.uint8)


def remote(x: float, name: str | None, vector: tuple[float, float]) -> RemoteFace:
    face = Face((x, 10, x + 30, 40), 0.9, ((x, 10),) * 5, quality=0.7)
    return RemoteFace(face, name, 0.6 if name else 0.1, 0.4, np.array(vector, np.float64))


def test_faces_are_tracked_and_keep_the_names_of_the_service() -> None:
    anna, stranger = (1.0, 0.0), (0.0, 1.0)
    answers = [
        [remote(10, "Anna", anna), remote(100, None, stranger)],
        [],
        [remote(103, None, stranger), remote(14, "Anna", anna)],  # in another order
        [remote(60, "Anna", anna)],  # moved far, but still similar
    ]
    named = list(RemoteNamer(lambda pixels: answers.pop(0)).name([Frame(k, k / 5, PIXELS) for k in range(4)]))
    assert [[(face.track, face.name) for face in one.faces] for one in named] == [
        [(1, "Anna"), (2, None)], [], [(2, None), (1, "Anna")], [(1, "Anna")],
    ]  # fmt: skip
    assert named[0].faces[0].similarity == 0.6 and named[0].faces[0].face.quality == 0.7
    assert named[0].pixels is None


def test_pixels_are_kept_when_asked_for() -> None:
    (named,) = RemoteNamer(lambda pixels: [], keep_pixels=True).name([Frame(0, 0.0, PIXELS)])
    assert named.pixels is PIXELS


def test_frames_go_one_by_one() -> None:
    with pytest.raises(ValueError, match="chunk_frames must be 1"):
        next(RemoteNamer(lambda pixels: []).name([], chunk_frames=2))
