"""A facespace service, with the names of the library."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from facespace.client.answers import (
    Alike,
    Change,
    Cluster,
    Collection,
    EmbeddedFace,
    Enrolment,
    Faces,
    LogEntry,
    NamedFaces,
    Person,
    StoredPhoto,
    Unknown,
    Verdict,
    read_alike,
    read_change,
    read_cluster,
    read_collection,
    read_embedded_face,
    read_enrolment,
    read_face,
    read_log_entry,
    read_named_faces,
    read_person,
    read_photo,
    read_unknown,
    read_verdict,
)
from facespace.client.calls import Calls, enrolment_form, id_of, path_of, photo_form, segment
from facespace.client.fields import Fields
from facespace.client.forms import Form
from facespace.client.transport import Call, Transport
from facespace.errors import UnknownPerson
from facespace.faces.face import Face
from facespace.io.files import atomic_path
from facespace.io.image import Source
from facespace.io.text import clean_name

MAX_CROP = 2**24  # bytes of the picture of one face
_PAGE = 200  # people or faces that are read at once


class Client:
    """A facespace service at `url`: find, compare, name and enrol faces there.

    `key` is what `facespace serve key create` printed; a service on this machine may need none. `collection` is the
    collection of people that all calls are about. `timeout` are the seconds that a step of a request may take. A request
    that the service is too busy for, or that did not reach it, is repeated up to `retries` times, with the pauses that
    the service asks for; one that may have changed something only where the service recognises the repetition.

    A photo is a path, bytes, a binary file, a PIL image or an array, as for `facespace.read`; `ImageError` where it
    cannot be read here. What the service refuses is a `ServiceError` with its `code`. A `person` is an id or a `Person`:
    a change asked for by a `Person` is refused where somebody else changed the person since it was read. Threads may
    share a client.

        with facespace.Client("http://127.0.0.1:8000") as client:
            client.enroll("Ada", ["ada1.jpg", "ada2.jpg"])
            for face in client.identify("party.jpg"):
                print(face.name, face.similarity, face.threshold, face.box)
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        collection: str = "default",
        *,
        timeout: float = 90.0,
        retries: int = 4,
    ) -> None:
        self._calls = Calls(collection)
        self._transport = Transport(url, key, timeout=timeout, retries=retries)

    def __repr__(self) -> str:
        return f"Client({self.url!r}, collection={self.collection!r})"  # never the key

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def collection(self) -> str:
        """The collection of people that all calls are about."""
        return self._calls.collection

    @property
    def url(self) -> str:
        """Where the service is."""
        return self._transport.url

    def close(self) -> None:
        """Close the connections to the service."""
        self._transport.close()

    # Faces of photos

    def detect(self, photo: Source, *, max_faces: int | None = None, try_rotations: bool = False) -> Faces[Face]:
        """The faces of a photo, the largest first."""
        fields = self._ask(
            self._calls.look("/v1/detect", photo, max_faces=max_faces, try_rotations=try_rotations or None)
        )
        return _faces(fields, tuple(read_face(face) for face in fields.each("faces")))

    def embed(self, photo: Source, *, max_faces: int | None = None, try_rotations: bool = False) -> Faces[EmbeddedFace]:
        """The faces of a photo with their embeddings, made by the model of the collection."""
        fields = self._ask(
            self._calls.look(
                "/v1/embed", photo, max_faces=max_faces, try_rotations=try_rotations or None, embeddings=True
            )
        )
        return _faces(fields, tuple(read_embedded_face(face) for face in fields.each("faces")))

    def identify(
        self,
        photo: Source,
        *,
        rate: float | None = None,
        max_faces: int | None = None,
        keep_unknown: bool | None = None,
        try_rotations: bool = False,
    ) -> NamedFaces:
        """Who is in a photo: people who are enrolled are named, everybody else is unknown.

        `rate` is the share of strangers that may be given a name. `keep_unknown` says whether faces that nobody could
        name are kept among the unknowns; by default the service's setting.
        """
        call = self._calls.look(
            "/v1/identify", photo, rate=rate, max_faces=max_faces, keep_unknown=keep_unknown,
            try_rotations=try_rotations or None,
        )  # fmt: skip
        return read_named_faces(self._ask(call))

    def identify_many(
        self, photos: Sequence[Source], *, rate: float | None = None, keep_unknown: bool | None = None
    ) -> list[NamedFaces]:
        """`identify` for several photos in one request; one that cannot be used has its `error`."""
        call = self._calls.compare(
            "/v1/identify/batch", photo_form(photos), rate=rate, keep_unknown=keep_unknown, landmarks=True
        )
        found: list[NamedFaces] = []
        answer = self._ask(call)
        for number, one in enumerate(answer.each("photos")):
            if one.whole("index", number) != number:
                raise one.refuse(f"its index is not {number}")
            problem = one.inner_or_none("error")
            if problem is None:
                found.append(read_named_faces(one, answer))
            else:
                found.append(
                    NamedFaces((), 0, 0, code=problem.text("code"), error=problem.text("detail", "") or "refused")
                )
        if len(found) != len(photos):
            raise answer.refuse(f"{len(found)} photos answered of {len(photos)}")
        return found

    def verify(
        self, a: Source, b: Source | None = None, *, person: Person | str | None = None, rate: float | None = None
    ) -> Verdict:
        """Whether two photos show one person, or whether a photo shows a `person` who is enrolled; largest faces count.

        `rate` is the share of pairs of different people that may be called the same.
        """
        if (b is None) == (person is None):
            raise TypeError("verify takes two photos, or a photo and a person")
        form = photo_form(
            [photo for photo in (a, b) if photo is not None], [] if person is None else [("person", id_of(person))]
        )
        call = self._calls.compare("/v1/verify", form, rate=rate)
        return read_verdict(self._ask(call))

    def verify_many(self, photo: Source, others: Sequence[Source], *, rate: float | None = None) -> list[Verdict]:
        """Compare a photo with each of several others; one that cannot be used has its `error`."""
        call = self._calls.compare("/v1/verify", photo_form([photo], others=others), rate=rate)
        answer = self._ask(call)
        rate_used = answer.number("false_match_rate", None)
        found: list[Verdict] = []
        for one in answer.each("photos"):
            problem = one.inner_or_none("error")
            if problem is None:
                found.append(read_verdict(one, rate_used))
            else:
                found.append(
                    Verdict(None, None, False, code=problem.text("code"), error=problem.text("detail", "") or "refused")
                )
        if len(found) != len(others):
            raise answer.refuse(f"{len(found)} photos answered of {len(others)}")
        return found

    # People

    def enroll(
        self,
        name: str,
        photos: Source | Sequence[Source],
        *,
        external_id: str | None = None,
        metadata: dict[str, Any] | None = None,
        largest: bool = False,
        accept: Sequence[str] = (),
        idempotency_key: str | None = None,
    ) -> Enrolment:
        """Add photos of a person, who may be new, and say what became of each.

        `external_id` is what another system calls the person, `metadata` a small JSON object to keep with each photo. With
        `largest` the largest of several faces is taken. `accept` are codes for which photos are not rejected,
        `poor_quality` or `other_person`: they become remarks. Photos that are not taken are among the `rejected`, each with its code; the
        others are enrolled nevertheless. A request that is repeated with one `idempotency_key` enrols once; by default
        each call has its own.
        """
        sources: list[Any] = list(photos) if isinstance(photos, (list, tuple)) else [photos]
        if not sources:
            raise ValueError("enroll needs at least one photo")
        form = enrolment_form(name, sources, external_id=external_id, metadata=metadata)
        return self.send_enrolment(form, largest=largest, accept=accept, idempotency_key=idempotency_key)

    def send_enrolment(
        self,
        form: Form,
        *,
        largest: bool = False,
        try_rotations: bool = False,
        accept: Sequence[str] = (),
        idempotency_key: str | None = None,
    ) -> Enrolment:
        """`enroll` with a form that `enrolment_form` made."""
        call = self._calls.send(
            "/v1/enroll", form, idempotency_key, largest=largest or None, try_rotations=try_rotations or None,
            accept=list(accept) or None,
        )  # fmt: skip
        enrolment = read_enrolment(self._ask(call))
        told = sorted([one.index for one in enrolment.added] + [one.index for one in enrolment.rejected])
        if told != list(range(len(form.photos))):
            raise Fields({}, self.url).refuse(f"it is about {len(told)} photos, and {len(form.photos)} were sent")
        return enrolment

    def people(self, *, search: str = "", external_id: str | None = None) -> Iterator[Person]:
        """Everyone enrolled, or those whose name holds `search`, or who has that `external_id`; read page by page."""
        for fields in self._pages("/v1/people", "people", search=search or None, external_id=external_id):
            yield read_person(fields)

    def person(self, person: Person | str) -> Person:
        """One person, as they are now; `ServiceError` with the code `no_such_person` where there is nobody of that id."""
        return read_person(self._ask(self._calls.read(path_of(person))))

    def person_called(self, name: str) -> Person:
        """The person of that name; `UnknownPerson` if there is nobody."""
        name = clean_name(name)
        for person in self.people(search=name):
            if person.name == name:
                return person
        raise UnknownPerson(f"{self.url}: nobody called {name!r} is enrolled in {self.collection!r}")

    def photos(self, person: Person | str) -> list[StoredPhoto]:
        """The photos of a person, in the order they were enrolled."""
        return [read_photo(one) for one in self._pages(path_of(person, "photos"), "photos")]

    def crop(self, person: Person | str, photo: StoredPhoto | str) -> bytes:
        """The picture of a person's face in one photo, as a PNG file; where the service keeps them."""
        call = self._calls.read(path_of(person, "photos", id_of(photo), "crop"))
        return self._transport.content(call, "image/png", MAX_CROP)

    def rename(self, person: Person | str, name: str) -> Person:
        """Give a person another name."""
        return self._edit(person, {"name": name})

    def edit(
        self,
        person: Person | str,
        *,
        external_id: str | None = None,
        metadata: dict[str, Any] | None = None,
        templates: str | None = None,
    ) -> Person:
        """Change what is known of a person; what is None stays."""
        changes = {"external_id": external_id, "metadata": metadata, "templates": templates}
        return self._edit(person, {name: value for name, value in changes.items() if value is not None})

    def merge(self, into: Person | str, others: Sequence[Person | str]) -> Change:
        """Give all photos of `others` to one person."""
        body: dict[str, Any] = {"others": [id_of(other) for other in others]}
        etags = [other.etag for other in others if isinstance(other, Person) and other.etag]
        if len(etags) == len(others):
            body["etags"] = etags
        return self._change(into, "merge", body)

    def split(self, person: Person | str, photos: Sequence[StoredPhoto | str], to: str) -> Change:
        """Give some photos of a person to another one, called `to`, who may be new."""
        return self._change(person, "split", {"photos": [id_of(photo) for photo in photos], "to": to})

    def reject(self, person: Person | str, photos: Sequence[StoredPhoto | str], to: str | None = None) -> Change:
        """Say that photos do not show the person: they go, or to another name, and never come back to this one."""
        body: dict[str, Any] = {"photos": [id_of(photo) for photo in photos]}
        return self._change(person, "reject", body if to is None else {**body, "to": to})

    def remove(self, person: Person | str) -> Change:
        """Remove a person, until it is undone or erased."""
        return read_change(self._ask(self._calls.remove(path_of(person), person)))

    def remove_photo(self, person: Person | str, photo: StoredPhoto | str) -> Change:
        """Remove one photo, and the person with the last of them."""
        return read_change(self._ask(self._calls.remove(path_of(person, "photos", id_of(photo)), person)))

    def erase(self, person: Person | str) -> int:
        """Erase a person for good, from the service's disk too, and say how many photos that were; nothing undoes it."""
        return int(self._ask(self._calls.change(path_of(person, "erase"), {}, person)).whole("erased"))

    def log(self, limit: int = 20) -> list[LogEntry]:
        """The last changes, the latest first."""
        return [read_log_entry(one) for one in self._ask(self._calls.read("/v1/log", limit=limit)).each("changes")]

    def undo(self, number: int | None = None) -> LogEntry:
        """Take back the last change, or the one of that number in the log."""
        return read_log_entry(self._ask(self._calls.change("/v1/undo", {} if number is None else {"number": number})))

    # Collections

    def collections(self) -> list[Collection]:
        """The collections of people that the key may see."""
        return [read_collection(one) for one in self._ask(self._calls.read("/v1/collections")).each("collections")]

    def create_collection(self, name: str, *, model: str | None = None) -> Collection:
        """Make an empty collection, by default of the service's model; `Client(…, collection=name)` is for it then."""
        body = {"name": name} if model is None else {"name": name, "model": model}
        return read_collection(self._ask(self._calls.change("/v1/collections", body)))

    def erase_collection(self, name: str) -> None:
        """Erase a collection for good, with everybody in it and everything known of them; nothing undoes it."""
        self._transport.nothing(Calls(name).remove(f"/v1/collections/{segment(name)}"))

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write everybody in the collection into a file, as `facespace gallery export` does; whole or not at all."""
        call = self._calls.read(f"/v1/collections/{segment(self.collection)}/export")
        with atomic_path(Path(path)) as unfinished, unfinished.open("wb") as file:
            self._transport.write_to(call, file.write)

    # Faces that nobody could name

    def unknowns(self) -> Iterator[Unknown]:
        """Faces that nobody could name, read page by page."""
        for fields in self._pages("/v1/unknowns", "unknowns"):
            yield read_unknown(fields)

    def unknown_crop(self, face: Unknown | str) -> bytes:
        """The picture of such a face, as a PNG file."""
        call = self._calls.read(f"/v1/unknowns/{segment(id_of(face))}/crop")
        return self._transport.content(call, "image/png", MAX_CROP)

    def search_unknowns(self, photo: Source, *, limit: int = 20) -> list[list[Alike]]:
        """The unknown faces that are like each face of a photo, best first; none that is below the threshold."""
        fields = self._ask(self._calls.look("/v1/unknowns/search", photo, limit=limit))
        return [[read_alike(one) for one in face.each("matches")] for face in fields.each("faces")]

    def clusters(self) -> list[Cluster]:
        """Such faces grouped by person, with people they may show."""
        return [read_cluster(one) for one in self._ask(self._calls.read("/v1/unknowns/clusters")).each("clusters")]

    def name_unknown(
        self, faces: Sequence[Unknown | str], name: str | None = None, *, person: Person | str | None = None
    ) -> Enrolment:
        """Enrol unknown faces under a name, or as a person who is there already."""
        if (name is None) == (person is None):
            raise TypeError("name_unknown takes a name, or a person")
        body: dict[str, Any] = {"faces": [id_of(face) for face in faces]}
        body |= {"name": name} if person is None else {"person": id_of(person)}
        return read_enrolment(self._ask(self._calls.change("/v1/unknowns/name", body)))

    def ignore(self, faces: Sequence[Unknown | str]) -> int:
        """Never keep or show faces like these, which are of one person, again; returns how many are ignored now."""
        call = self._calls.change("/v1/unknowns/ignore", {"faces": [id_of(face) for face in faces]})
        return int(self._ask(call).whole("ignored"))

    def remove_unknown(self, face: Unknown | str) -> None:
        """Erase one unknown face for good."""
        self._transport.nothing(self._calls.remove(f"/v1/unknowns/{segment(id_of(face))}"))

    # How requests are made

    def _ask(self, call: Call) -> Fields:
        return self._transport.fields(call)

    def _change(self, person: Person | str, what: str, body: dict[str, Any]) -> Change:
        return read_change(self._ask(self._calls.change(path_of(person, what), body, person)))

    def _edit(self, person: Person | str, changes: dict[str, Any]) -> Person:
        return read_person(self._ask(self._calls.edit(path_of(person), person, changes)))

    def _pages(self, path: str, name: str, **query: Any) -> Iterator[Fields]:
        cursor: str | None = None
        while True:
            page = self._ask(self._calls.read(path, after=cursor, limit=_PAGE, **query))
            yield from page.each(name)
            following = page.text("next", None)
            if following is None:
                return
            if following == cursor:
                raise page.refuse("the next page is this one")
            cursor = following


def _faces(fields: Fields, faces: tuple[Any, ...]) -> Faces[Any]:
    image = fields.inner("image")
    return Faces(faces, image.whole("width"), image.whole("height"), image.whole("turned", 0), fields.text("model", ""))
