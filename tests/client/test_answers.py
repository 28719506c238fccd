"""Reading whole answers, also of newer services with more fields."""

from __future__ import annotations

from typing import Any

import pytest

from facespace.client import answers
from facespace.client.fields import Fields
from facespace.errors import ServiceError

PERSON: dict[str, Any] = {
    "id": "3", "name": "Ada", "external_id": "N-1", "metadata": {"a": 1}, "templates": "best", "n_photos": 2,
    "added": "2026-01-02T03:04:05Z", "etag": "abc", "cover": "7", "something_new": {"x": 1},
}  # fmt: skip


def fields(value: dict[str, Any]) -> Fields:
    return Fields(value, "here")


def test_a_person() -> None:
    person = answers.read_person(fields(PERSON))
    assert person == answers.Person("3", "Ada", 2, "2026-01-02T03:04:05Z", "N-1", {"a": 1}, "best", "abc", "7")
    bare = answers.read_person(fields({"id": "3", "name": "Ada", "n_photos": 0, "cover": None}))
    assert (bare.external_id, bare.metadata, bare.cover) == ("", {}, None)
    for wrong in ({"id": 3}, {"name": None}, {"n_photos": -1}, {"metadata": []}):
        with pytest.raises(ServiceError):
            answers.read_person(fields({**PERSON, **wrong}))


def test_changes_in_every_form() -> None:
    assert answers.read_change(fields({"undo": 4})) == answers.Change(4)
    assert answers.read_change(fields({"undo": None, "person": None})) == answers.Change(None)
    whole = answers.read_change(fields({**PERSON, "undo": 4}))
    assert whole.person is not None
    assert (whole.undo, whole.person.name) == (4, "Ada")
    moved = answers.read_change(fields({"person": None, "other": PERSON, "undo": 5}))
    assert moved.person is None
    assert moved.other is not None
    assert moved.other.id == "3"


def test_a_verdict_follows_from_its_numbers() -> None:
    good = answers.read_verdict(
        fields({"same": True, "similarity": 0.5, "threshold": 0.5, "faces": [{"quality": 0.7}, {"quality": None}]})
    )
    assert (good.same, good.qualities) == (True, (0.7,))
    for same, similarity in ((True, 0.4), (False, 0.6)):
        with pytest.raises(ServiceError, match="is inconsistent"):
            answers.read_verdict(fields({"same": same, "similarity": similarity, "threshold": 0.5}))


def test_an_embedded_face() -> None:
    face = {"box": [0, 0, 9, 9], "score": 1, "landmarks": [[1, 1]] * 5, "embedding": [0.6, 0.8]}
    assert answers.read_embedded_face(fields(face)).embedding.tolist() == pytest.approx([0.6, 0.8])
    with pytest.raises(ServiceError, match="embedding must be a list of numbers"):
        answers.read_embedded_face(fields({**face, "embedding": "AAAA"}))


def test_a_cluster_with_suggestions() -> None:
    suggestion = {"person": {"id": "3", "name": "Ada"}, "similarity": 0.6, "threshold": 0.5, "likeness": "likely"}
    cluster = answers.read_cluster(
        fields({"id": "c", "faces": ["a", "b"], "n": 2, "cover": "a", "suggestions": [suggestion]})
    )
    assert cluster == answers.Cluster(("a", "b"), "a", (answers.Suggestion("3", "Ada", 0.6, 0.5, "likely"),))


def test_faces_are_a_sequence() -> None:
    faces: answers.Faces[Any] = answers.Faces((), 3, 4)
    assert (len(faces), list(faces)) == (0, [])
    with pytest.raises(IndexError):
        faces[0]
