"""The client for a facespace service."""

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

MAX_CROP = 2**24  # bytes of one crop
_PAGE = 200  # people or faces per request


class Client:
    """Finds, compares, names and enrolls faces with the facespace service at `url`.

    `key` is the API key printed by `facespace serve key create`; a service on this machine may not need one. `collection`
    is the collection of people that all methods use. `timeout` is the number of seconds that a step of a request may take.
    A request is repeated up to `retries` times if it does not reach the service or the service is too busy, with the
    pauses that the service asks for. A request that may have changed something is only repeated if the service can
    recognise the repetition.

    A photo is a path, bytes, a binary file, a PIL image or an array, as for `facespace.read`. Methods raise `ImageError`
    for a photo that cannot be read on this machine, and `ServiceError` with a `code` for an error of the service. A
    `person` is an id or a `Person`: a change requested with a `Person` is refused if somebody else has changed the person
    since it was read. Threads may share a client.

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
        """The collection of people that all methods use."""
        return self._calls.collection

    @property
    def url(self) -> str:
        """The URL of the service."""
        return self._transport.url

    def close(self) -> None:
        """Close the connections to the service."""
        self._transport.close()

    # Faces of photos

    def detect(self, photo: Source, *, max_faces: int | None = None, try_rotations: bool = False) -> Faces[Face]:
        """Detect the faces of a photo, the largest first."""
        fields = self._ask(
            self._calls.look("/v1/detect", photo, max_faces=max_faces, try_rotations=try_rotations or None)
        )
        return _faces(fields, tuple(read_face(face) for face in fields.each("faces")))

    def embed(self, photo: Source, *, max_faces: int | None = None, try_rotations: bool = False) -> Faces[EmbeddedFace]:
        """Detect the faces of a photo, and embed them with the model of the collection."""
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
        """Name the enrolled people in a photo; everybody else is unknown.

        `rate` is the target share of strangers who are given a name. `keep_unknown` says whether the service keeps unknown
        faces, to be named later; by default the service's setting applies.
        """
        call = self._calls.look(
            "/v1/identify", photo, rate=rate, max_faces=max_faces, keep_unknown=keep_unknown,
            try_rotations=try_rotations or None,
        )  # fmt: skip
        return read_named_faces(self._ask(call))

    def identify_many(
        self, photos: Sequence[Source], *, rate: float | None = None, keep_unknown: bool | None = None
    ) -> list[NamedFaces]:
        """Identify the people in several photos with one request. The result of an unusable photo has an `error`."""
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
        """Compare the largest faces of two photos, or the largest face of a photo with an enrolled `person`.

        `rate` is the target false match rate: the share of pairs of different people that are taken for one person.
        """
        if (b is None) == (person is None):
            raise TypeError("verify takes two photos, or a photo and a person")
        form = photo_form(
            [photo for photo in (a, b) if photo is not None], [] if person is None else [("person", id_of(person))]
        )
        call = self._calls.compare("/v1/verify", form, rate=rate)
        return read_verdict(self._ask(call))

    def verify_many(self, photo: Source, others: Sequence[Source], *, rate: float | None = None) -> list[Verdict]:
        """Compare a photo with each of several other photos. The result of an unusable photo has an `error`."""
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
        """Add photos of a new or known person; return the result of each photo.

        `external_id` is the person's id in another system, `metadata` a small JSON object to store with each photo. With
        `largest`, the largest of several faces is used. `accept` lists codes that become remarks instead of rejections:
        `poor_quality`, `other_person`. Photos that are not enrolled are among the `rejected`, each with its code, and do
        not prevent the enrolment of the others. A request that is repeated with the same `idempotency_key` enrolls only
        once; by default each call has its own key.
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
        """Enroll photos with a form from `calls.enrolment_form`; see `enroll`."""
        call = self._calls.send(
            "/v1/enroll", form, idempotency_key, largest=largest or None, try_rotations=try_rotations or None,
            accept=list(accept) or None,
        )  # fmt: skip
        enrolment = read_enrolment(self._ask(call))
        indices = sorted([one.index for one in enrolment.added] + [one.index for one in enrolment.rejected])
        if indices != list(range(len(form.photos))):
            raise Fields({}, self.url).refuse(f"it is about {len(indices)} photos, but {len(form.photos)} were sent")
        return enrolment

    def people(self, *, search: str = "", external_id: str | None = None) -> Iterator[Person]:
        """Iterate over the enrolled people; `search` selects by a part of the name, `external_id` by that id."""
        for fields in self._pages("/v1/people", "people", search=search or None, external_id=external_id):
            yield read_person(fields)

    def person(self, person: Person | str) -> Person:
        """Return one person. Raises `ServiceError` with the code `no_such_person` if there is no person with that id."""
        return read_person(self._ask(self._calls.read(path_of(person))))

    def person_called(self, name: str) -> Person:
        """Return the person with that name. Raises `UnknownPerson` if no person has it."""
        name = clean_name(name)
        for person in self.people(search=name):
            if person.name == name:
                return person
        raise UnknownPerson(f"{self.url}: no person called {name!r} is enrolled in {self.collection!r}")

    def photos(self, person: Person | str) -> list[StoredPhoto]:
        """Return the photos of a person, in the order of enrolment."""
        return [read_photo(one) for one in self._pages(path_of(person, "photos"), "photos")]

    def crop(self, person: Person | str, photo: StoredPhoto | str) -> bytes:
        """Return the crop of a person's face in one photo as a PNG file, if the service stores crops."""
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
        """Change the given attributes of a person; None leaves an attribute unchanged."""
        changes = {"external_id": external_id, "metadata": metadata, "templates": templates}
        return self._edit(person, {name: value for name, value in changes.items() if value is not None})

    def merge(self, into: Person | str, others: Sequence[Person | str]) -> Change:
        """Merge the people `others` into the person `into`, who gets all their photos."""
        body: dict[str, Any] = {"others": [id_of(other) for other in others]}
        etags = [other.etag for other in others if isinstance(other, Person) and other.etag]
        if len(etags) == len(others):
            body["etags"] = etags
        return self._change(into, "merge", body)

    def split(self, person: Person | str, photos: Sequence[StoredPhoto | str], to: str) -> Change:
        """Move some photos of a person to another person called `to`, who may be new."""
        return self._change(person, "split", {"photos": [id_of(photo) for photo in photos], "to": to})

    def reject(self, person: Person | str, photos: Sequence[StoredPhoto | str], to: str | None = None) -> Change:
        """Mark photos as not showing the person.

        The photos are removed, or moved to the person called `to`. They are never enrolled for this person again.
        """
        body: dict[str, Any] = {"photos": [id_of(photo) for photo in photos]}
        return self._change(person, "reject", body if to is None else {**body, "to": to})

    def remove(self, person: Person | str) -> Change:
        """Remove a person. This can be undone until the person is erased."""
        return read_change(self._ask(self._calls.remove(path_of(person), person)))

    def remove_photo(self, person: Person | str, photo: StoredPhoto | str) -> Change:
        """Remove one photo of a person. Removing the last photo removes the person."""
        return read_change(self._ask(self._calls.remove(path_of(person, "photos", id_of(photo)), person)))

    def erase(self, person: Person | str) -> int:
        """Permanently erase a person, also from the service's disk; return the number of photos. This cannot be undone."""
        return int(self._ask(self._calls.change(path_of(person, "erase"), {}, person)).whole("erased"))

    def log(self, limit: int = 20) -> list[LogEntry]:
        """Return the last changes, latest first."""
        return [read_log_entry(one) for one in self._ask(self._calls.read("/v1/log", limit=limit)).each("changes")]

    def undo(self, number: int | None = None) -> LogEntry:
        """Undo the last change, or the change with that number in the log."""
        return read_log_entry(self._ask(self._calls.change("/v1/undo", {} if number is None else {"number": number})))

    # Collections

    def collections(self) -> list[Collection]:
        """Return the collections that the key may access."""
        return [read_collection(one) for one in self._ask(self._calls.read("/v1/collections")).each("collections")]

    def create_collection(self, name: str, *, model: str | None = None) -> Collection:
        """Create an empty collection, by default with the service's model. Use it with `Client(…, collection=name)`."""
        body = {"name": name} if model is None else {"name": name, "model": model}
        return read_collection(self._ask(self._calls.change("/v1/collections", body)))

    def erase_collection(self, name: str) -> None:
        """Permanently erase a collection with all its people. It cannot be undone."""
        self._transport.nothing(Calls(name).remove(f"/v1/collections/{segment(name)}"))

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write all people of the collection to a file, like `facespace gallery export`. The file is written atomically."""
        call = self._calls.read(f"/v1/collections/{segment(self.collection)}/export")
        with atomic_path(Path(path)) as unfinished, unfinished.open("wb") as file:
            self._transport.write_to(call, file.write)

    # Unknown faces

    def unknowns(self) -> Iterator[Unknown]:
        """Iterate over the unknown faces."""
        for fields in self._pages("/v1/unknowns", "unknowns"):
            yield read_unknown(fields)

    def unknown_crop(self, face: Unknown | str) -> bytes:
        """Return the crop of an unknown face as a PNG file."""
        call = self._calls.read(f"/v1/unknowns/{segment(id_of(face))}/crop")
        return self._transport.content(call, "image/png", MAX_CROP)

    def search_unknowns(self, photo: Source, *, limit: int = 20) -> list[list[Alike]]:
        """Return, for each face of a photo, the unknown faces that are similar enough to it, most similar first."""
        fields = self._ask(self._calls.look("/v1/unknowns/search", photo, limit=limit))
        return [[read_alike(one) for one in face.each("matches")] for face in fields.each("faces")]

    def clusters(self) -> list[Cluster]:
        """Group the unknown faces by person, and suggest people they may show."""
        return [read_cluster(one) for one in self._ask(self._calls.read("/v1/unknowns/clusters")).each("clusters")]

    def name_unknown(
        self, faces: Sequence[Unknown | str], name: str | None = None, *, person: Person | str | None = None
    ) -> Enrolment:
        """Enroll unknown faces under a name, or as an enrolled person."""
        if (name is None) == (person is None):
            raise TypeError("name_unknown takes a name, or a person")
        body: dict[str, Any] = {"faces": [id_of(face) for face in faces]}
        body |= {"name": name} if person is None else {"person": id_of(person)}
        return read_enrolment(self._ask(self._calls.change("/v1/unknowns/name", body)))

    def ignore(self, faces: Sequence[Unknown | str]) -> int:
        """From now on, ignore the one person whom these unknown faces show; return the number of the faces."""
        call = self._calls.change("/v1/unknowns/ignore", {"faces": [id_of(face) for face in faces]})
        return int(self._ask(call).whole("ignored"))

    def remove_unknown(self, face: Unknown | str) -> None:
        """Permanently erase one unknown face."""
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
                raise page.refuse("the next page is the same page")
            cursor = following


def _faces(fields: Fields, faces: tuple[Any, ...]) -> Faces[Any]:
    image = fields.inner("image")
    return Faces(faces, image.whole("width"), image.whole("height"), image.whole("turned", 0), fields.text("model", ""))
