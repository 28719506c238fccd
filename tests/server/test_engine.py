"""Photos that wait together are computed together. A photo that fails does not affect the others."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import pytest

import facespace
from facespace.server import engine as module
from facespace.server.engine import Engine
from facespace.server.metrics import Metrics
from facespace.server.problems import Problem
from facespace.server.settings import Settings
from support.service import cached_embedders
from support.waiting import wait_until


@pytest.fixture
def engine(tmp_path: Any) -> Iterator[Engine]:
    with cached_embedders():
        there = Engine(Settings("x", queue=40, max_pixels=1_000_000, state=str(tmp_path)), Metrics())
        there.embedder("sface")
        yield there
        there.close()


class Held:
    """Wraps `find_faces`: the first call waits until it is released. `sizes` are the batch sizes of all calls."""

    def __init__(self) -> None:
        self.go, self.begun = threading.Event(), threading.Event()
        self.sizes: list[int] = []
        self.options: list[dict[str, Any]] = []

    def __call__(self, images: Any, detector: Any, embedder: Any, **options: Any) -> Any:
        self.sizes.append(len(images))
        self.options.append(options)
        self.begun.set()
        assert self.go.wait(20)
        return FIND(images, detector, embedder, **options)


FIND = module.find_faces


def test_it_finds_what_the_library_finds(engine, hopper_file):
    (photo,) = asyncio.run(engine.analyze([hopper_file.read_bytes()], model="sface", keep_pixels=True))
    analyzer = facespace.FaceAnalyzer(engine.embedder("sface"), engine.detector("sface"))
    (face,) = analyzer(hopper_file)
    assert photo.faces[0].box == face.box
    assert np.array_equal(photo.crops[0], face.crop)
    assert np.allclose(photo.embeddings[0], face.embedding, atol=1e-3)
    assert (photo.width, photo.height) == (512, 600)
    assert photo.pixels.shape == (600, 512, 3)
    assert engine.waiting == 0


def test_photos_that_wait_are_computed_together(engine, hopper_file):
    data, held = hopper_file.read_bytes(), Held()

    async def ask() -> list[Any]:
        first = asyncio.create_task(engine.analyze([data], model="sface"))
        await asyncio.to_thread(held.begun.wait, 20)
        others = [asyncio.create_task(engine.analyze([data], model="sface", largest=k == 3)) for k in range(6)]
        while len(engine._networks["sface"]._ready) < 6:
            await asyncio.sleep(0.01)
        held.go.set()
        return await asyncio.gather(first, *others)

    with mock.patch.object(module, "find_faces", held):
        found = asyncio.run(ask())
    assert sorted(held.sizes[1:]) == [1, 5]  # the one with another option is computed alone
    assert [options["largest"] for options in held.options].count(True) == 1
    assert all(len(photos[0].faces) == 1 for photos in found)


def test_unreadable_photos_have_errors_in_their_places(engine, hopper_file):
    photos = asyncio.run(engine.analyze([b"no photo", hopper_file.read_bytes(), b""], model="sface"))
    assert [bool(photo.error) for photo in photos] == [True, False, True]
    assert len(photos[1].faces) == 1


def test_pixels_are_limited_before_they_are_decoded(engine):
    from io import BytesIO

    from PIL import Image

    stream = BytesIO()
    Image.new("1", (20_000, 20_000)).save(stream, "PNG")
    (photo,) = asyncio.run(engine.analyze([stream.getvalue()], model="sface"))
    assert "pixels" in photo.error


def test_a_photo_that_breaks_a_batch_fails_alone(engine, hopper_file):
    data, held = hopper_file.read_bytes(), Held()

    def find(images: Any, *given: Any, **options: Any) -> Any:
        if held.begun.is_set() and any(image.shape == (600, 512, 3) for image in images):
            raise MemoryError
        return held(images, *given, **options)

    async def ask() -> list[Any]:
        first = asyncio.create_task(engine.analyze([small(data)], model="sface"))
        await asyncio.to_thread(held.begun.wait, 20)
        good = asyncio.create_task(engine.analyze([small(data)], model="sface"))
        bad = asyncio.create_task(engine.analyze([data], model="sface"))
        while len(engine._networks["sface"]._ready) < 2:
            await asyncio.sleep(0.01)
        held.go.set()
        return await asyncio.gather(first, good, bad, return_exceptions=True)

    with mock.patch.object(module, "find_faces", find):
        first, good, bad = asyncio.run(ask())
    assert len(first[0].faces) == len(good[0].faces) == 1
    assert (bad.status, bad.code) == (503, "busy")
    assert engine.waiting == 0


def test_too_many_are_refused_at_once(engine):
    engine.waiting = 40
    with pytest.raises(Problem) as refused:
        asyncio.run(engine.analyze([b"x"], model="sface"))
    assert (refused.value.status, refused.value.code, refused.value.headers) == (503, "busy", {"Retry-After": "1"})
    engine.waiting = 0
    engine.check_queue(100)  # one request with many photos is accepted when no photo waits


def test_a_cancelled_request_is_not_computed(engine, hopper_file):
    data, held = hopper_file.read_bytes(), Held()

    async def ask() -> None:
        first = asyncio.create_task(engine.analyze([data], model="sface"))
        await asyncio.to_thread(held.begun.wait, 20)
        given_up = asyncio.create_task(engine.analyze([data] * 3, model="sface"))
        while len(engine._networks["sface"]._ready) < 3:
            await asyncio.sleep(0.01)
        given_up.cancel()
        await asyncio.sleep(0)
        held.go.set()
        await first

    with mock.patch.object(module, "find_faces", held):
        asyncio.run(ask())
        wait_until(lambda: not engine._networks["sface"]._ready, "photos are left")
    assert held.sizes == [1]
    assert engine.waiting == 0


def test_decoded_photos_are_bounded(monkeypatch):
    monkeypatch.setattr(module, "MAX_DECODED_PIXELS", 100)
    budget = module._PixelBudget()
    jobs = [mock.Mock(n_pixels=0) for _ in range(2)]
    budget.enter(jobs[0], 80)
    waiting = threading.Thread(target=budget.enter, args=(jobs[1], 80), daemon=True)
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive()
    budget.leave([jobs[0]])
    waiting.join(20)
    assert not waiting.is_alive()
    budget.enter(jobs[1], 80)  # a second attempt at the same photo does not wait for itself
    budget.leave([jobs[1]])
    budget.enter(mock.Mock(n_pixels=0), 1000)  # a large photo is decoded alone


def small(data: bytes) -> bytes:
    from io import BytesIO

    from PIL import Image

    stream = BytesIO()
    Image.open(BytesIO(data)).resize((256, 300)).save(stream, "PNG")
    return stream.getvalue()
