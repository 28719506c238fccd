"""Enrolling many photos at a service, each exactly once even if a run is interrupted."""

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

# A `conflict` means that somebody else changed the person at the same time, or that the service has carried out the request
# before but erased its stored answer, as it does when a person is erased. A new request finds out what is enrolled.
_TRIES = 3
PARALLEL = 4  # requests at once; the service processes them in batches
OF_ONE_PHOTO = (400, 409, 413, 415, 422)  # statuses that concern one photo, not the service


@dataclass(frozen=True, slots=True)
class Sent:
    """The result of one photo.

    `code` is `added`, `already_known`, `sent_before` (by an earlier run), or says why the photo was refused.
    """

    name: str
    path: str
    code: str
    detail: str = ""
    remarks: tuple[str, ...] = ()

    @property
    def is_refused(self) -> bool:
        """Whether the photo was not enrolled."""
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
    """Enroll photos given as (name, path), several at once; yield the result of each, in order.

    Photos that the `journal` lists as enrolled are not sent. Every other photo is sent with an `Idempotency-Key` made of
    the service's URL, the collection, the name, the options and the photo itself, so that the service enrolls it only
    once. Photos that an earlier run could not enroll are tried again. Raises `ServiceError` if the service cannot be used;
    the results before the error are in the journal. The other options are those of `Client.enroll`.
    """
    if not 1 <= parallel <= 64:
        raise ValueError(f"parallel must be from 1 to 64, got {parallel}")
    taken: set[str] = set()
    lock = threading.Lock()

    def answer(name: str, path: str, photo: str, form: Form) -> Sent:
        n_refused = journal.n_refused(
            photo
        )  # the service repeats its answer for the same key, so a new attempt needs a new key
        for attempt in range(_TRIES):
            key = _hash(photo, n_refused, attempt) if n_refused or attempt else photo
            try:
                enrolment = client.send_enrolment(
                    form, largest=largest, try_rotations=try_rotations, accept=accept, idempotency_key=key
                )
            except ServiceError as error:
                if error.code == "conflict" and attempt < _TRIES - 1:
                    continue
                if error.status not in OF_ONE_PHOTO:
                    raise
                return Sent(name, path, error.code or "refused", str(error).removeprefix(f"{client.url}: "))
            if enrolment.added:
                return Sent(name, path, "added", remarks=tuple(one.detail for one in enrolment.added[0].remarks))
            return Sent(name, path, enrolment.rejected[0].code, enrolment.rejected[0].detail)
        raise AssertionError  # the last attempt returns or raises

    def send(item: tuple[str, str]) -> Sent:
        name, path = item
        try:
            form = enrolment_form(name, [path], external_id=external_id, metadata=metadata)
        except ImageError as error:
            return Sent(name, path, "unreadable_image", error.reason)
        photo = _hash(client.url, client.collection, largest, try_rotations, sorted(accept), form.digest())
        with lock:
            if photo in taken:  # checked before the journal, so that the result does not depend on timing
                return Sent(name, path, "already_known")
            taken.add(photo)
        if journal.is_enrolled(photo):
            return Sent(name, path, "sent_before")
        result = answer(name, path, photo, form)
        journal.note(photo, result.code)
        return result

    yield from map_ahead(send, work, threads=parallel, ahead=2 * parallel)


def _hash(*parts: Any) -> str:
    """Return the SHA-256 of JSON values, in hex."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
