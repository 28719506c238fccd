"""The results that the client returns, as frozen dataclasses, and functions that read them from `Fields`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from facespace.client.fields import Fields
from facespace.faces.face import Box, Face, Point

F = TypeVar("F", bound=Face)


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddedFace(Face):
    """A face with its `embedding`, a unit vector (D,) float32."""

    embedding: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class NamedFace(Face):
    """A face with the name of the person it shows, or None for unknown, as in the library's `Match`.

    `person` is the person's id. `similarity` is the cosine similarity to the most similar person, even for an
    unknown face, and None if no person is enrolled. A named face has at least the similarity `threshold`. For an unknown
    face, `reason` is `stranger`, `too_small`, `too_blurred`, `nobody_enrolled`, `ignored` or `somebody_else_here`, and
    `unknown_id` is the id under which the service keeps the face.
    """

    name: str | None
    similarity: float | None
    threshold: float
    person: str | None = None
    external_id: str = ""
    reason: str = ""
    unknown_id: str | None = None


@dataclass(frozen=True, slots=True)
class Faces(Generic[F]):
    """The faces of one photo as a sequence, the largest first.

    Coordinates, `width` and `height` are in pixels of the photo after it was turned clockwise by `turned` degrees.
    """

    faces: tuple[F, ...]
    width: int
    height: int
    turned: int = 0
    model: str = ""

    def __iter__(self) -> Iterator[F]:
        return iter(self.faces)

    def __len__(self) -> int:
        return len(self.faces)

    def __getitem__(self, index: int) -> F:
        return self.faces[index]


@dataclass(frozen=True, slots=True)
class NamedFaces(Faces[NamedFace]):
    """The named faces of one photo, compared with `n_people` people.

    `strangers_named` is the share of strangers who are given a name at the threshold. If several photos were sent, the
    result of a photo that cannot be used has a `code`, an `error` and no faces.
    """

    n_people: int = 0
    strangers_named: float | None = None
    code: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether two faces show the same person: `same` is True if their cosine `similarity` reaches `threshold`.

    `false_match_rate` is the share of pairs of different people that reach this threshold, if known. `qualities` are
    the known quality scores of the compared faces. If several photos were compared, the result of a photo that cannot be
    used has a `code` and an `error`, and `same` is False.
    """

    similarity: float | None
    threshold: float | None
    same: bool
    false_match_rate: float | None = None
    qualities: tuple[float, ...] = ()
    code: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Person:
    """One enrolled person, like the library's `Person`, with the `id` that the service uses.

    `etag` identifies the state that was read: a change requested with this `Person` is refused (412) if somebody else has
    changed the person since. `cover` is the id of the person's best photo.
    """

    id: str
    name: str
    n_photos: int
    added: str
    external_id: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    templates: str = ""
    etag: str = ""
    cover: str | None = None


@dataclass(frozen=True, slots=True)
class StoredPhoto:
    """One photo of a person: its source, when it was added (UTC), and the key that added it."""

    id: str
    source: str
    added: str
    quality: float | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    has_crop: bool = False
    actor: str = ""


@dataclass(frozen=True, slots=True)
class Remark:
    """A remark about an enrolled photo: a stable `code`, and `detail` in words."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class AddedPhoto:
    """An enrolled photo: its `index` among the photos sent, its id, the face's box, and remarks."""

    index: int
    id: str
    box: Box
    quality: float | None = None
    remarks: tuple[Remark, ...] = ()


@dataclass(frozen=True, slots=True)
class RejectedPhoto:
    """A photo that was not enrolled: its `index` among the photos sent, a stable `code`, and `detail` in words.

    Codes: `no_face`, `several_faces`, `poor_quality`, `already_known`, `other_person`, `unreadable_image`, `too_large`.
    """

    index: int
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Enrolment:
    """The result of an enrolment; `person` is None if no photo was enrolled."""

    person: Person | None
    added: tuple[AddedPhoto, ...]
    rejected: tuple[RejectedPhoto, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """The result of a change. `undo` is the number with which `Client.undo` reverts it.

    `person` is the person after the change. If the change split a person in two, `other` is the second one.
    """

    undo: int | None
    person: Person | None = None
    other: Person | None = None


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One entry of the log: `at` is its UTC time, `actor` the key that made the change."""

    id: int
    at: str
    actor: str
    kind: str
    text: str
    undone: bool = False


@dataclass(frozen=True, slots=True)
class Collection:
    """One collection of people, with its own model and thresholds.

    `strangers_named` is the target share of strangers who are given a name. To meet this target, a face of good quality
    must reach the similarity `threshold` to be named as a person who has one photo.
    """

    name: str
    model: str = ""
    n_people: int = 0
    n_photos: int = 0
    strangers_named: float | None = None
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """An unknown face that the service keeps: when and where it was seen."""

    id: str
    seen: str
    box: Box
    source: str = ""
    quality: float | None = None
    has_crop: bool = False


@dataclass(frozen=True, slots=True)
class Alike:
    """An unknown face that is similar to a face of a photo: its id, the `similarity`, and the `threshold` it reaches."""

    id: str
    similarity: float
    threshold: float


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A person whom a group of unknown faces may show; `likeness` is `very likely`, `likely` or `possible`."""

    person: str
    name: str
    similarity: float
    threshold: float
    likeness: str


@dataclass(frozen=True, slots=True)
class Cluster:
    """A group of unknown faces that seem to show one person: their ids, the best face, and suggested people."""

    faces: tuple[str, ...]
    cover: str
    suggestions: tuple[Suggestion, ...] = ()


def read_face(fields: Fields) -> Face:
    """Read a detected face."""
    return _face(fields, Face)


def read_embedded_face(fields: Fields) -> EmbeddedFace:
    """Read a detected face with its embedding."""
    return _face(fields, EmbeddedFace, embedding=np.array(fields.numbers("embedding"), np.float32))


def read_named_face(fields: Fields) -> NamedFace:
    """Read a named or unknown face. Raises `ServiceError` for a name with a similarity below the threshold."""
    name, similarity, threshold = (
        fields.text("name", None),
        fields.number("similarity", None),
        fields.number("threshold"),
    )
    if name is not None and (similarity is None or similarity < threshold):
        raise fields.refuse(f"the name {name[:60]!r} has a similarity below the threshold {threshold:g}")
    person, unknown = fields.inner_or_none("person"), fields.inner_or_none("unknown")
    return _face(
        fields,
        NamedFace,
        name=name,
        similarity=similarity,
        threshold=threshold,
        person=None if person is None else person.text("id"),
        external_id="" if person is None else person.text("external_id", ""),
        reason="" if unknown is None else unknown.text("reason"),
        unknown_id=fields.text("unknown_id", None),
    )


def _face(fields: Fields, kind: type[F], **more: Any) -> F:
    box = _box(fields)
    landmarks: tuple[Point, ...] = fields.points("landmarks")
    try:
        return kind(box, fields.number("score"), landmarks, quality=fields.number("quality", None), **more)
    except ValueError as error:
        raise fields.refuse(str(error)) from None


def _box(fields: Fields) -> Box:
    x1, y1, x2, y2 = fields.numbers("box", 4)
    return x1, y1, x2, y2


def read_named_faces(fields: Fields, gallery: Fields | None = None) -> NamedFaces:
    """Read the named faces of one photo. If the answer is about several photos, `gallery` has their common fields."""
    image, gallery = fields.inner("image"), gallery or fields
    return NamedFaces(
        tuple(read_named_face(face) for face in fields.each("faces")),
        image.whole("width"), image.whole("height"), image.whole("turned", 0), gallery.text("model", ""),
        n_people=gallery.whole("n_people"), strangers_named=gallery.number("strangers_named", None),
    )  # fmt: skip


def read_verdict(fields: Fields, rate: float | None = None) -> Verdict:
    """Read a verdict. Raises `ServiceError` if `same` contradicts the similarity and threshold."""
    similarity, threshold, same = fields.number("similarity"), fields.number("threshold"), fields.truth("same")
    if same != (similarity >= threshold):
        what = "the same person" if same else "different people"
        raise fields.refuse(f"{what} with a similarity of {similarity:g} and a threshold of {threshold:g}")
    face = fields.inner_or_none("face")
    faces = [face] if face is not None else list(fields.each("faces", ()))
    qualities = tuple(quality for one in faces if (quality := one.number("quality", None)) is not None)
    return Verdict(similarity, threshold, same, fields.number("false_match_rate", rate), qualities)


def read_person(fields: Fields) -> Person:
    """Read an enrolled person."""
    return Person(
        fields.text("id"), fields.text("name"), fields.whole("n_photos"), fields.text("added", ""),
        fields.text("external_id", ""), fields.mapping("metadata", {}), fields.text("templates", ""),
        fields.text("etag", ""), fields.text("cover", None),
    )  # fmt: skip


def read_photo(fields: Fields) -> StoredPhoto:
    """Read a photo of a person."""
    return StoredPhoto(
        fields.text("id"), fields.text("source", ""), fields.text("added", ""), fields.number("quality", None),
        fields.mapping("metadata", {}), fields.truth("has_crop", False), fields.text("actor", ""),
    )  # fmt: skip


def read_enrolment(fields: Fields) -> Enrolment:
    """Read the result of an enrolment."""
    person = fields.inner_or_none("person")
    added = tuple(
        AddedPhoto(
            one.whole("index"), one.text("photo_id"), _box(one), one.number("quality", None),
            tuple(Remark(remark.text("code"), remark.text("detail", "")) for remark in one.each("warnings", ())),
        )
        for one in fields.each("added")
    )  # fmt: skip
    rejected = tuple(
        RejectedPhoto(one.whole("index"), one.text("code"), one.text("detail", "")) for one in fields.each("rejected")
    )
    return Enrolment(None if person is None else read_person(person), added, rejected)


def read_change(fields: Fields) -> Change:
    """Read the result of a change from an answer that is a person, or that has the fields `person` and `other`."""
    person, other = fields.inner_or_none("person"), fields.inner_or_none("other")
    if person is None and fields.text("id", None) is not None:  # the answer is the person
        return Change(fields.whole("undo", None), read_person(fields))
    people = [None if one is None else read_person(one) for one in (person, other)]
    return Change(fields.whole("undo", None), people[0], people[1])


def read_log_entry(fields: Fields) -> LogEntry:
    """Read an entry of the log."""
    return LogEntry(
        fields.whole("number"), fields.text("at"), fields.text("actor", ""), fields.text("kind"), fields.text("text", ""),
        fields.truth("undone", False),
    )  # fmt: skip


def read_collection(fields: Fields) -> Collection:
    """Read a collection of people."""
    return Collection(
        fields.text("name"), fields.text("model", ""), fields.whole("n_people", 0), fields.whole("n_photos", 0),
        fields.number("strangers_named", None), fields.number("threshold", None),
    )  # fmt: skip


def read_unknown(fields: Fields) -> Unknown:
    """Read an unknown face."""
    return Unknown(
        fields.text("id"), fields.text("seen", ""), _box(fields), fields.text("source", ""),
        fields.number("quality", None), fields.truth("has_crop", False),
    )  # fmt: skip


def read_alike(fields: Fields) -> Alike:
    """Read an unknown face that is similar to another face."""
    return Alike(fields.text("unknown_id"), fields.number("similarity"), fields.number("threshold"))


def read_cluster(fields: Fields) -> Cluster:
    """Read a group of unknown faces."""
    suggestions = []
    for one in fields.each("suggestions", ()):
        person = one.inner("person")
        suggestions.append(
            Suggestion(
                person.text("id"),
                person.text("name"),
                one.number("similarity"),
                one.number("threshold"),
                one.text("likeness", ""),
            )
        )
    return Cluster(fields.texts("faces"), fields.text("cover", ""), tuple(suggestions))
