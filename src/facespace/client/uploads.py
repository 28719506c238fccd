"""Many photos enrolled at a service, each exactly once, whatever stops a run."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from facespace.client.calls import enrolment_form
from facespace.client.client import Client
from facespace.client.forms import Form
from facespace.client.journal import Journal
from facespace.errors import ImageError, ServiceError
from facespace.io.prefetch import map_ahead

# Somebody else changed the same person at the same moment; or the service carried the request out before, and has
# erased what it knew of it, as it does when somebody is erased: a new request finds what is enrolled.
_TRIES = 3
PARALLEL = 4  # requests at once; a service works on what it gets in batches
OF_ONE_PHOTO = (400, 409, 413, 415, 422)  # statuses that say something of the photo, not of the service


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of one photo: `added`, `already_known`, `sent_before` (by an earlier run), or why it was refused."""

    name: str
    path: str
    code: str
    detail: str = ""
    remarks: tuple[str, ...] = ()

    @property
    def is_refused(self) -> bool:
        """Whether the person does not have the photo."""
        return self.code not in ("added", "already_known", "sent_before")


def upload(
    client: Client,
    work: Iterable[tuple[str, str]],
    journal: Journal,
    *,
    parallel: int = PARALLEL,
    external_id: str | None = None,
    metadata: dict[str, Any] | None = None,
    largest: bool = False,
    try_rotations: bool = False,
    accept: Sequence[str] = (),
) -> Iterator[Sent]:
    """Enrol (name, path) after (name, path), some at once; yields what became of each, in order.

    A photo that the `journal` knows as enrolled is not sent. Each other one is sent with an `Idempotency-Key` made of
    the service's URL, the collection, the name and the photo itself: the service enrols it once, however often it is
    sent. A photo that was refused by an earlier run is tried again. `ServiceError` where the service cannot be used at
    all; what was sent until then is in the journal. The other options are those of `Client.enroll`.
    """
    if not 1 <= parallel <= 64:
        raise ValueError(f"parallel must be from 1 to 64, got {parallel}")
    taken: set[str] = set()
    lock = threading.Lock()

    def answer(name: str, path: str, photo: str, form: Form) -> Sent:
        n_refused = journal.n_refused(photo)  # an answer is repeated to the same key, so a new try needs a new one
        for turn in range(_TRIES):
            key = _hash(photo, n_refused, turn) if n_refused or turn else photo
            try:
                enrolment = client.send_enrolment(
                    form, largest=largest, try_rotations=try_rotations, accept=accept, idempotency_key=key
                )
            except ServiceError as error:
                if error.code == "conflict" and turn < _TRIES - 1:
                    continue
                if error.status not in OF_ONE_PHOTO:
                    raise
                return Sent(name, path, error.code or "refused", str(error).removeprefix(f"{client.url}: "))
            if enrolment.added:
                return Sent(name, path, "added", remarks=tuple(one.detail for one in enrolment.added[0].remarks))
            return Sent(name, path, enrolment.rejected[0].code, enrolment.rejected[0].detail)
        raise AssertionError  # the last turn returns or raises

    def send(item: tuple[str, str]) -> Sent:
        name, path = item
        try:
            form = enrolment_form(name, [path], external_id=external_id, metadata=metadata)
        except ImageError as error:
            return Sent(name, path, "unreadable_image", error.reason)
        photo = _hash(client.url, client.collection, largest, try_rotations, sorted(accept), form.digest())
        with lock:
            if photo in taken:  # asked first, so that the answer does not depend on whether the other has ended
                return Sent(name, path, "already_known")
            taken.add(photo)
        if journal.is_enrolled(photo):
            return Sent(name, path, "sent_before")
        result = answer(name, path, photo, form)
        journal.note(photo, result.code)
        return result

    yield from map_ahead(send, work, threads=parallel, ahead=2 * parallel)


def _hash(*parts: Any) -> str:
    """SHA-256 of values, in hex; no two lists of them are written alike."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
