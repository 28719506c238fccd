"""Photos that are enrolled exactly once, even if a run is interrupted."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from facespace.client.client import Client
from facespace.client.journal import Journal
from facespace.client.uploads import Sent, upload
from facespace.errors import ServiceError
from support.fake_service import FakeService, Handler, Request, answering, fake_service, problem, sending

ADDED = {
    "index": 0,
    "photo_id": "1",
    "box": [1, 2, 3, 4],
    "quality": 0.8,
    "warnings": [{"code": "low_quality", "detail": "dim"}],
}
PERSON = {"id": "1", "name": "Ada", "n_photos": 1}


def enrolled() -> Any:
    return answering(200, {"person": PERSON, "added": [ADDED], "rejected": []})


def rejected(code: str) -> Any:
    photo = {"index": 0, "filename": "1.png", "code": code, "detail": "the reason"}
    return answering(200, {"person": None, "added": [], "rejected": [photo]})


@pytest.fixture
def work(tmp_path: Path) -> list[tuple[str, str]]:
    """Three photos of two people."""
    made = []
    for n, name in enumerate(("Ada", "Ada", "Ben")):
        path = tmp_path / f"{n}.png"
        Image.new("RGB", (8, 8), (n, 0, 0)).save(path)
        made.append((name, str(path)))
    return made


def sent_to(service: FakeService, work: list[tuple[str, str]], journal: Path, **options: Any) -> list[Sent]:
    with Client(service.url, retries=2) as client, Journal(journal) as memory:
        client._transport._sleep = lambda seconds: None
        return list(upload(client, work, memory, **options))


def keys(service: FakeService) -> list[str]:
    return sorted(request.headers["idempotency-key"] for request in service.requests)


def test_a_second_run_sends_nothing(work: list[tuple[str, str]], tmp_path: Path) -> None:
    with fake_service(enrolled()) as service:
        first = sent_to(service, work, tmp_path / "j")
        assert [(one.name, one.path, one.code) for one in first] == [(*item, "added") for item in work]
        assert first[0].remarks == ("dim",)
        assert len(service.requests) == 3
        assert len(set(keys(service))) == 3
        again = sent_to(service, work, tmp_path / "j")
        assert [one.code for one in again] == ["sent_before"] * 3
        assert not any(one.is_refused for one in again)
        assert len(service.requests) == 3


def test_without_the_journal_the_same_keys_are_sent(work: list[tuple[str, str]], tmp_path: Path) -> None:
    with fake_service(enrolled()) as service:
        sent_to(service, work, tmp_path / "j1")
        first = keys(service)
        bodies = sorted(request.body for request in service.requests)
        service.requests.clear()
        sent_to(service, work, tmp_path / "j2")
        assert keys(service) == first
        assert sorted(request.body for request in service.requests) == bodies


@pytest.mark.parametrize("other", ["name", "photo", "option", "metadata"])
def test_another_name_or_photo_or_option_is_another_key(
    work: list[tuple[str, str]], tmp_path: Path, other: str
) -> None:
    (name, path), options = work[0], {}
    with fake_service(enrolled()) as service:
        sent_to(service, [(name, path)], tmp_path / "j")
        if other == "name":
            name = "Eve"
        elif other == "photo":
            Image.new("RGB", (8, 8), "white").save(path)
        else:
            options = {"largest": True} if other == "option" else {"metadata": {"a": 1}}
        sent_to(service, [(name, path)], tmp_path / "j", **options)
        first, second = service.requests
    assert first.headers["idempotency-key"] != second.headers["idempotency-key"]


def test_a_refused_photo_is_tried_again_by_the_next_run_with_a_new_key(
    work: list[tuple[str, str]], tmp_path: Path
) -> None:
    with fake_service(rejected("several_faces"), rejected("several_faces"), enrolled()) as service:
        outcomes = [sent_to(service, work[:1], tmp_path / "j") for _ in range(4)]
        assert [one.code for (one,) in outcomes] == ["several_faces", "several_faces", "added", "sent_before"]
        assert outcomes[0][0].is_refused
        assert outcomes[0][0].detail == "the reason"
        assert len(set(keys(service))) == len(service.requests) == 3


def test_a_request_is_repeated_with_a_new_key_if_its_answer_was_erased(
    work: list[tuple[str, str]], tmp_path: Path
) -> None:
    gone = problem(409, "conflict", "this request was carried out before; its answer was not kept")
    with fake_service(gone, enrolled()) as service:
        (one,) = sent_to(service, work[:1], tmp_path / "j")
        assert one.code == "added"
        first, second = (request.headers["idempotency-key"] for request in service.requests)
    assert first != second
    with fake_service(gone) as service:
        (one,) = sent_to(service, work[:1], tmp_path / "k")
        assert (one.code, one.is_refused, len(service.requests)) == ("conflict", True, 3)


def test_one_bad_photo_does_not_stop_the_others(work: list[tuple[str, str]], tmp_path: Path) -> None:
    text, missing = tmp_path / "text.png", tmp_path / "missing.png"
    text.write_text("not an image")
    large = problem(413, "too_large", "the request is too large")
    with fake_service(large, enrolled()) as service:
        done = sent_to(service, [("Ada", str(text)), ("Ada", str(missing)), *work], tmp_path / "j", parallel=1)
    assert [one.code for one in done] == ["unreadable_image", "unreadable_image", "too_large", "added", "added"]
    assert [one.is_refused for one in done] == [True, True, True, False, False]
    assert "the request is too large" in done[2].detail
    assert service.url not in done[2].detail


def test_a_photo_given_twice_is_sent_once(work: list[tuple[str, str]], tmp_path: Path) -> None:
    with fake_service(enrolled()) as service:
        done = sent_to(service, [work[0], work[0]], tmp_path / "j")
        assert sorted(one.code for one in done) == ["added", "already_known"]
        assert len(service.requests) == 1


def test_a_request_is_repeated_with_the_same_key_if_its_answer_was_lost(
    work: list[tuple[str, str]], tmp_path: Path
) -> None:
    with fake_service(sending(b"HTTP/1.1 200 OK\r\nContent-"), sending(b""), enrolled()) as service:
        (one,) = sent_to(service, work[:1], tmp_path / "j")
        assert one.code == "added"
        assert len(service.requests) == 3
        assert len(set(keys(service))) == 1


@pytest.mark.parametrize("status", [401, 403, 404, 500, 503])
def test_a_service_that_cannot_be_used_ends_the_run_and_the_journal_is_kept(
    work: list[tuple[str, str]], tmp_path: Path, status: int
) -> None:
    with fake_service(enrolled(), problem(status, "some_code", "no")) as service:
        with pytest.raises(ServiceError) as caught:
            sent_to(service, work, tmp_path / "j", parallel=1)
        assert caught.value.status == status
        service.answers[:] = [enrolled()]
        assert [one.code for one in sent_to(service, work, tmp_path / "j")] == ["sent_before", "added", "added"]


def test_no_more_requests_at_once_than_asked_for(tmp_path: Path) -> None:
    work = []
    for n in range(12):
        Image.new("RGB", (8, 8), (n, 9, 9)).save(tmp_path / f"{n}.png")
        work.append(("Ada", str(tmp_path / f"{n}.png")))
    lock, now, most = threading.Lock(), 0, 0
    together = threading.Barrier(3, timeout=20)

    def count(handler: Handler, request: Request) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        together.wait()
        with lock:
            now -= 1
        enrolled()(handler, request)

    with fake_service(count) as service:
        assert len(sent_to(service, work, tmp_path / "j", parallel=3)) == 12
    assert most == 3
    with pytest.raises(ValueError, match="parallel must be from 1 to 64, got 0"):
        sent_to(service, work, tmp_path / "j", parallel=0)


def test_no_more_is_sent_after_the_iterator_is_closed(tmp_path: Path) -> None:
    work = []
    for n in range(40):
        Image.new("RGB", (8, 8), (n, 5, 5)).save(tmp_path / f"{n}.png")
        work.append(("Ada", str(tmp_path / f"{n}.png")))
    with fake_service(enrolled()) as service, Client(service.url) as client, Journal(tmp_path / "j") as journal:
        photos: Iterator[Sent] = upload(client, work, journal, parallel=2)
        next(photos)
        photos.close()  # type: ignore[attr-defined]
        assert len(service.requests) < 12
        n_sent = len(service.requests)
    with Journal(tmp_path / "j"):
        assert (tmp_path / "j").read_text().count("added") == n_sent


def test_an_invalid_answer_is_an_error(work: list[tuple[str, str]], tmp_path: Path) -> None:
    answer = answering(200, {"person": None, "added": 3, "rejected": []})
    refused = pytest.raises(ServiceError, match="added must be a list in the answer, got 3")
    with fake_service(answer) as service, refused:
        sent_to(service, work, tmp_path / "j")
