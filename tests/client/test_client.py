"""The client against a real service, and the errors for wrong answers of a fake one."""

from __future__ import annotations

import dataclasses
import io
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import facespace
from facespace.client.client import Client
from facespace.errors import ImageError, ServiceError, UnknownPerson
from support.commands import run_facespace
from support.fake_service import answering, fake_service, problem
from support.service import Served, served


def variant(file: Path, angle: float) -> Image.Image:
    """Another photo of the same person."""
    with Image.open(file) as photo:
        return photo.convert("RGB").rotate(angle)


# A real service


def test_photos_of_every_accepted_type(client: Client, hopper_file: Path) -> None:
    data = hopper_file.read_bytes()
    with Image.open(hopper_file) as picture, hopper_file.open("rb") as file:
        found = [
            client.detect(one)  # type: ignore[arg-type]
            for one in (
                hopper_file,
                str(hopper_file),
                data,
                bytearray(data),
                io.BytesIO(data),
                file,
                picture,
                np.asarray(picture),
            )
        ]
    (face,) = found[0]
    assert (found[0].width, found[0].height, found[0].turned, len(found[0])) == (512, 600, 0, 1)
    assert isinstance(face, facespace.Face)
    assert face.quality is not None
    assert face.quality > 0.5
    for faces in found:
        assert np.allclose(faces[0].box, face.box, atol=0.01)
        assert np.allclose(faces[0].landmarks, face.landmarks, atol=0.01)


def test_a_day_with_the_client(
    client: Client, hopper_file: Path, collins_file: Path, cat_file: Path, tmp_path: Path
) -> None:
    (nobody,) = client.identify(hopper_file)
    assert (nobody.name, nobody.similarity, nobody.reason) == (None, None, "nobody_enrolled")

    done = client.enroll(
        "Grace Hopper", [hopper_file, cat_file, variant(hopper_file, 5)], external_id="N-1", metadata={"team": "navy"}
    )
    assert done.person is not None
    assert (done.person.name, done.person.external_id, done.person.n_photos) == ("Grace Hopper", "N-1", 2)
    assert [one.index for one in done.added] == [0, 2]
    assert [(one.index, one.code) for one in done.rejected] == [(1, "no_face")]
    assert client.enroll("Grace Hopper", hopper_file).rejected[0].code == "already_known"
    client.enroll("Eileen Collins", collins_file)
    assert [person.name for person in client.people()] == ["Eileen Collins", "Grace Hopper"]
    assert [person.name for person in client.people(search="hop")] == ["Grace Hopper"]
    assert [person.name for person in client.people(external_id="N-1")] == ["Grace Hopper"]

    named = client.identify(variant(hopper_file, -4), max_faces=3)
    (face,) = named
    assert (face.name, face.person, face.external_id) == ("Grace Hopper", done.person.id, "N-1")
    assert face.similarity is not None
    assert face.similarity >= face.threshold
    assert named.n_people == 2
    assert named.strangers_named == 0.01

    hopper = client.person_called("Grace Hopper")
    photos = client.photos(hopper)
    assert [photo.id for photo in photos] == [one.id for one in done.added]
    assert photos[0].source == hopper_file.name
    assert photos[0].metadata == {"team": "navy"}
    assert Image.open(io.BytesIO(client.crop(hopper, photos[0]))).format == "PNG"

    renamed = client.rename(hopper, "Admiral Hopper")
    assert (renamed.id, renamed.name) == (hopper.id, "Admiral Hopper")
    with pytest.raises(ServiceError) as stale:
        client.rename(hopper, "Amazing Grace")  # `hopper` was read before
    assert (stale.value.status, stale.value.code) == (412, "stale")
    assert client.rename(hopper.id, "Amazing Grace").name == "Amazing Grace"
    assert client.edit(hopper.id, metadata={"rank": 1}, external_id="N-2").metadata == {"rank": 1}

    split = client.split(hopper.id, [photos[1]], "Somebody")
    assert split.person is not None
    assert split.other is not None
    assert (split.person.n_photos, split.other.name, split.other.n_photos) == (1, "Somebody", 1)
    merged = client.merge(split.person, [split.other])
    assert merged.person is not None
    assert merged.person.n_photos == 2
    entry = client.undo(merged.undo)
    assert (entry.kind, entry.undone) == ("merge", True)
    assert client.log(1)[0].id >= entry.id
    rejected = client.reject(client.person_called("Somebody"), client.photos(split.other), to="Somebody else")
    assert rejected.person is None
    assert rejected.other is not None
    assert (rejected.other.name, rejected.other.n_photos) == ("Somebody else", 1)
    left = client.remove_photo(hopper.id, photos[0])
    assert left.person is None
    with pytest.raises(UnknownPerson, match="no person called 'Amazing Grace' is enrolled in 'default'"):
        client.person_called("Amazing Grace")
    assert client.undo(left.undo).kind
    removed = client.remove(client.person_called("Eileen Collins"))
    assert removed.undo is not None
    client.undo(removed.undo)
    assert client.erase(client.person_called("Eileen Collins")) == 1
    with pytest.raises(UnknownPerson):
        client.person_called("Eileen Collins")


def test_faces_are_compared(client: Client, hopper_file: Path, collins_file: Path, cat_file: Path) -> None:
    other = variant(hopper_file, 4)
    verdict = client.verify(hopper_file, other)
    assert verdict.same
    assert verdict.similarity is not None
    assert verdict.threshold is not None
    assert verdict.similarity > verdict.threshold
    assert len(verdict.qualities) == 2
    assert not client.verify(hopper_file, collins_file).same
    assert client.verify(hopper_file, other, rate=0.1).false_match_rate == 0.1
    same, different, none = client.verify_many(hopper_file, [other, collins_file, cat_file])
    assert (same.same, different.same, none.same) == (True, False, False)
    assert (none.code, none.similarity) == ("no_face", None)
    assert none.error

    person = client.enroll("Grace", hopper_file).person
    assert person is not None
    assert client.verify(other, person=person).same
    assert not client.verify(collins_file, person=person.id).same

    embedded = client.embed(hopper_file)
    (vector,) = [face.embedding for face in embedded]
    assert embedded.model == "sface"
    assert vector.dtype == np.float32
    assert abs(float(np.linalg.norm(vector)) - 1) < 1e-3

    grace, strange, cut = client.identify_many(
        [other, collins_file, b"\xff\xd8\xff\xe0" + bytes(50)], keep_unknown=False
    )
    assert [face.name for face in grace] == ["Grace"]
    assert [(face.name, face.reason) for face in strange] == [(None, "stranger")]
    assert grace.n_people == strange.n_people == 1
    assert (cut.code, len(cut)) == ("unreadable_image", 0)


def test_unknown_faces(client: Client, hopper_file: Path, collins_file: Path, stranger_file: Path) -> None:
    for face in client.unknowns():
        client.remove_unknown(face)
    for photo in (hopper_file, variant(hopper_file, 4), collins_file, stranger_file):
        client.identify(photo)
    unknowns = list(client.unknowns())
    assert len(unknowns) == 4
    assert {face.source for face in unknowns} == {""}
    assert Image.open(io.BytesIO(client.unknown_crop(unknowns[0]))).format == "PNG"
    (cluster,) = client.clusters()
    assert len(cluster.faces) == 2
    assert cluster.suggestions == ()
    (alike,) = client.search_unknowns(variant(hopper_file, -4))
    assert sorted(one.id for one in alike) == sorted(cluster.faces)
    assert all(one.similarity >= one.threshold for one in alike)

    done = client.name_unknown(cluster.faces, "Grace Hopper")
    assert done.person is not None
    assert (done.person.name, done.person.n_photos, len(done.added)) == ("Grace Hopper", 2, 2)
    assert client.identify(variant(hopper_file, 2))[0].name == "Grace Hopper"
    collins = next(one for one in client.search_unknowns(collins_file)[0])
    assert client.name_unknown([collins.id], person=done.person).person is not None
    (left,) = client.unknowns()
    assert client.ignore([left]) == 1
    assert list(client.unknowns()) == []
    (ignored,) = client.identify(stranger_file)
    assert (ignored.name, ignored.reason) == (None, "ignored")
    with pytest.raises(TypeError, match="a name, or a person"):
        client.name_unknown([left])


def test_collections_and_their_export(service: Served, client: Client, hopper_file: Path, tmp_path: Path) -> None:
    assert client.create_collection("visitors", model="casia-webface").name == "visitors"
    with Client(service.url, collection="visitors") as visitors:
        visitors.enroll("Grace", hopper_file)
        there = {one.name: (one.model, one.n_people, one.n_photos) for one in client.collections()}
        assert there["visitors"] == ("casia-webface", 1, 1)
        assert list(client.people()) == []
        visitors.export(tmp_path / "visitors.facespace")
        assert (tmp_path / "visitors.facespace").read_bytes().startswith(b"PK")
    client.erase_collection("visitors")
    assert "visitors" not in {one.name for one in client.collections()}


def test_an_unknown_or_invalid_id(client: Client) -> None:
    for strange in ("999999", "1?x=1", "%2e%2e", "%2F", "1'; DROP TABLE people; --"):
        with pytest.raises(ServiceError) as caught:
            client.person(strange)
        assert (caught.value.status, caught.value.code) == (404, "no_such_person")
        assert caught.value.request_id
    for none in ("", ".", "..", "../keys", "1/photos/2", "1\\2", "1\n"):
        with pytest.raises((ValueError, TypeError), match="id"):
            client.remove(none)


def test_no_such_collection(service: Served, hopper_file: Path) -> None:
    with Client(service.url, collection="guests") as client, pytest.raises(ServiceError) as caught:
        client.identify(hopper_file)
    assert (caught.value.status, caught.value.code) == (404, "no_such_collection")


def test_keys_and_what_they_allow(tmp_path: Path, hopper_file: Path) -> None:
    def key(*arguments: str) -> str:
        made = run_facespace("serve", "key", "create", "--gallery", tmp_path / "people.gallery", *arguments)
        assert made.code == 0, made.err
        return made.out.strip()

    admin, identify, other = (
        key("--role", "admin"),
        key("--role", "identify"),
        key("--role", "enroll", "--collection", "guests"),
    )
    with served(tmp_path) as service:
        with Client(service.url, admin) as client:
            client.enroll("Grace", hopper_file)
            assert client.log(1)[0].actor
        for wrong in (None, "fsk_0000_" + "x" * 43):
            with Client(service.url, wrong) as client, pytest.raises(ServiceError) as caught:
                client.identify(hopper_file)
            assert (caught.value.status, caught.value.code) == (401, "unauthorized")
        with Client(service.url, identify) as client:
            assert client.identify(hopper_file)[0].name == "Grace"
            for refused in (lambda: client.enroll("Ada", hopper_file), lambda: list(client.people())):
                with pytest.raises(ServiceError) as caught:
                    refused()
                assert (caught.value.status, caught.value.code) == (403, "forbidden")
                assert identify not in str(caught.value)
        with Client(service.url, other) as client, pytest.raises(ServiceError) as caught:
            client.enroll("Ada", hopper_file)
        assert caught.value.code == "other_collection"


def test_a_request_that_is_sent_twice_enrols_once(client: Client, hopper_file: Path) -> None:
    first = client.enroll("Grace", hopper_file, idempotency_key="one")
    again = client.enroll("Grace", hopper_file, idempotency_key="one")
    assert first == again
    with pytest.raises(ServiceError) as caught:
        client.enroll("Ada", hopper_file, idempotency_key="one")
    assert caught.value.code == "idempotency_key_reused"


def test_threads_share_a_client(client: Client, hopper_file: Path) -> None:
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(len(client.detect(hopper_file)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [1] * 4


def test_a_photo_that_cannot_be_read_here_is_not_sent(client: Client, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file"):
        client.identify(tmp_path / "no.jpg")
    with pytest.raises(ImageError, match="it was not sent"):
        client.enroll("Ada", [b"root:x:0:0:"])
    with pytest.raises(ValueError, match="at least one photo"):
        client.enroll("Ada", [])


def test_a_photo_that_the_service_cannot_read(client: Client) -> None:
    with pytest.raises(ServiceError) as caught:
        client.detect(b"\xff\xd8\xff\xe0" + b"\0" * 100)
    assert (caught.value.status, caught.value.code) == (422, "unreadable_image")


# A fake service with wrong answers

FACE: dict[str, Any] = {
    "box": [10, 20, 50, 70], "score": 0.9, "quality": 0.8, "landmarks": [[20, 40], [40, 40], [30, 50], [22, 60], [38, 60]],
    "name": "Ada", "person": {"id": "1", "name": "Ada", "external_id": ""}, "similarity": 0.6, "threshold": 0.5, "unknown": None,
}  # fmt: skip
IDENTIFIED: dict[str, Any] = {
    "image": {"width": 100, "height": 100, "turned": 0}, "collection": "default", "model": "sface", "n_people": 1,
    "strangers_named": 0.01, "faces": [FACE],
}  # fmt: skip
PERSON: dict[str, Any] = {"id": "1", "name": "Ada", "n_photos": 1, "added": "2026-01-01T00:00:00Z", "etag": "abc"}


def test_the_answers_below_are_wrong_in_one_thing_only(hopper_file: Path) -> None:
    with fake_service(answering(200, IDENTIFIED)) as service, Client(service.url) as client:
        assert client.identify(hopper_file)[0].name == "Ada"


WRONG_FACES: list[tuple[dict[str, Any], str]] = [
    ({"box": [1, 2, 3]}, "faces[0].box must be 4 numbers in the answer, got a list of 3"),
    ({"box": "1,2,3,4"}, "faces[0].box must be 4 numbers in the answer, got '1,2,3,4'"),
    ({"box": [50, 20, 10, 70]}, "faces[0] is inconsistent: a face's box must have x1 < x2"),
    ({"box": [1, 2, True, 4]}, "faces[0].box must be 4 numbers"),
    ({"box": [1, 2, 10**400, 4]}, "faces[0].box must be 4 numbers"),
    ({"landmarks": [[1, 2]] * 4}, "faces[0] is inconsistent: a face must have"),
    ({"landmarks": [[1, 2, 3]] * 5}, "faces[0].landmarks must be a list of points"),
    ({"landmarks": None}, "faces[0].landmarks must be a list of points in the answer, got null"),
    ({"score": "high"}, "faces[0].score must be a number in the answer, got 'high'"),
    ({"name": 7}, "faces[0].name must be text in the answer, got 7"),
    ({"name": ["<script>"]}, "faces[0].name must be text in the answer, got a list of 1"),
    ({"threshold": None}, "faces[0].threshold must be a number in the answer, got null"),
    ({"person": "1"}, "faces[0].person must be a JSON object in the answer, got '1'"),
    ({"person": {"id": 1}}, "faces[0].person.id must be text in the answer, got 1"),
    ({"similarity": 0.4}, "faces[0] is inconsistent: the name 'Ada' has a similarity below the threshold 0.5"),
    ({"similarity": None}, "faces[0] is inconsistent: the name 'Ada' has a similarity below"),
]


@pytest.mark.parametrize(
    ("wrong", "expected"), WRONG_FACES, ids=[f"{next(iter(one))}-{n}" for n, (one, _) in enumerate(WRONG_FACES)]
)
def test_every_field_of_a_face_is_checked(hopper_file: Path, wrong: dict[str, Any], expected: str) -> None:
    answer = {**IDENTIFIED, "faces": [{**FACE, **wrong}]}
    with (
        fake_service(answering(200, answer)) as service,
        Client(service.url) as client,
        pytest.raises(ServiceError) as caught,
    ):
        client.identify(hopper_file)
    assert f"{service.url}: {expected}" in str(caught.value)
    assert str(caught.value).endswith("is this a facespace service of this version?")
    assert caught.value.code == "unexpected_answer"


@pytest.mark.parametrize("field", ["image", "faces", "n_people"])
def test_a_missing_field(hopper_file: Path, field: str) -> None:
    answer = {name: value for name, value in IDENTIFIED.items() if name != field}
    with (
        fake_service(answering(200, answer)) as service,
        Client(service.url) as client,
        pytest.raises(ServiceError, match=f"{field} must be .* in the answer, got nothing"),
    ):
        client.identify(hopper_file)


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        ({"same": True, "similarity": 0.1, "threshold": 0.5}, "is inconsistent"),
        ({"same": "yes", "similarity": 0.6, "threshold": 0.5}, "same must be true or false"),
        ({"same": True, "threshold": 0.5}, "similarity must be a number"),
    ],
)
def test_an_inconsistent_verdict(hopper_file: Path, verdict: dict[str, Any], expected: str) -> None:
    with (
        fake_service(answering(200, verdict)) as service,
        Client(service.url) as client,
        pytest.raises(ServiceError, match=expected),
    ):
        client.verify(hopper_file, hopper_file)


def test_a_page_that_repeats_itself_is_an_error() -> None:
    page = {"people": [PERSON], "next": "same", "total": 1}
    with fake_service(answering(200, page)) as service, Client(service.url) as client:
        with pytest.raises(ServiceError, match="the next page is the same page"):
            list(client.people())
        assert len(service.requests) == 2


def test_an_enrolment_about_other_photos(hopper_file: Path) -> None:
    for added in (
        [],
        [{"index": 7, "photo_id": "1", "box": [1, 2, 3, 4]}],
        [{"index": 0, "photo_id": "1", "box": [1, 2, 3, 4]}] * 2,
    ):
        answer = {"person": PERSON, "added": added, "rejected": []}
        with (
            fake_service(answering(200, answer)) as service,
            Client(service.url) as client,
            pytest.raises(ServiceError, match=r"photos, but 1 were sent"),
        ):
            client.enroll("Ada", hopper_file)


def test_a_change_contains_the_state_that_was_read(hopper_file: Path) -> None:
    changed = {**PERSON, "undo": 3}
    with fake_service(answering(200, PERSON), answering(200, changed)) as service, Client(service.url) as client:
        person = client.person("1")
        client.merge(person, [dataclasses.replace(person, id="2", etag="def")])
        client.rename("1", "Ada")
    merge, rename = service.requests[1:]
    assert merge.headers["if-match"] == '"abc"'
    assert b'"etags":["def"]' in merge.body
    assert merge.headers["idempotency-key"]
    assert rename.headers["if-match"] == "*"


def test_an_export_is_written_atomically(tmp_path: Path) -> None:
    target = tmp_path / "people.safetensors"
    data = bytes(range(256)) * 1000
    whole = answering(200, data, media_type="application/octet-stream")
    with (
        fake_service(problem(403, "forbidden", "an admin key is needed"), whole) as service,
        Client(service.url) as client,
    ):
        with pytest.raises(ServiceError, match="an admin key is needed"):
            client.export(target)
        assert list(tmp_path.iterdir()) == []
        client.export(target)
    assert target.read_bytes() == data


def test_the_key_is_not_shown(hopper_file: Path) -> None:
    refusal = problem(401, "unauthorized", "a valid key is needed")
    with fake_service(refusal) as service, Client(service.url, "fsk_1_secret-secret") as client:
        assert "secret" not in repr(client)
        assert "secret" not in str(vars(client))
        with pytest.raises(ServiceError) as caught:
            client.identify(hopper_file)
    assert "secret" not in str(caught.value)
    assert caught.value.status == 401


def test_verify_takes_two_things(hopper_file: Path) -> None:
    with Client("http://127.0.0.1:1", retries=0) as client:
        with pytest.raises(TypeError, match="two photos, or a photo and a person"):
            client.verify(hopper_file)
        with pytest.raises(TypeError, match="two photos, or a photo and a person"):
            client.verify(hopper_file, hopper_file, person="1")
