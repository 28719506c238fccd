"""Detect, embed, identify and verify over HTTP."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

import facespace
from facespace.embedding.vectors import Embeddings
from facespace.faces.face import Face
from facespace.pipeline.face_batches import FoundFaces
from facespace.server import face_answers as answers
from support.service import running_service, service_behind

JPEG = {"content-type": "image/jpeg"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, hopper_file: Path, collins_file: Path) -> Iterator[TestClient]:
    """A service with Hopper and Collins enrolled."""
    with running_service(tmp_path_factory.mktemp("service")) as client:
        service = service_behind(client)
        analyzer = facespace.FaceAnalyzer(service.engine.embedder("sface"), service.engine.detector("sface"))
        for name, file in (("Grace Hopper", hopper_file), ("Eileen Collins", collins_file)):
            analyzer.enroll(service.galleries.get(), name, file, largest=True)
        yield client


@pytest.fixture(scope="module")
def both(hopper_file: Path, collins_file: Path) -> bytes:
    """A photo of Collins, with a smaller Hopper next to her."""
    left, right = Image.open(collins_file).convert("RGB"), Image.open(hopper_file).convert("RGB").resize((256, 300))
    picture = Image.new("RGB", (left.width + right.width, left.height))
    picture.paste(left, (0, 0))
    picture.paste(right, (left.width, 0))
    return encoded(picture)


def encoded(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def test_detect_answers_faces_largest_first(client, both):
    answer = client.post("/v1/detect", content=both, headers=JPEG, params={"landmarks": True})
    assert answer.status_code == 200
    found = answers.Detected.model_validate(answer.json())
    areas = [(face.box[2] - face.box[0]) * (face.box[3] - face.box[1]) for face in found.faces]
    assert len(areas) >= 2
    assert areas == sorted(areas, reverse=True)
    assert (found.image.width, found.image.height, found.image.turned) == (768, 512, 0)
    assert all(len(face.landmarks) == 5 for face in found.faces)
    one = client.post("/v1/detect", content=both, headers=JPEG, params={"max_faces": 1}).json()
    assert [face["box"] for face in one["faces"]] == [found.faces[0].box]
    assert "landmarks" not in one["faces"][0]
    assert len(client.post("/v1/detect", content=both, headers=JPEG, params={"largest": True}).json()["faces"]) == 1


def test_a_form_and_raw_bytes_are_the_same(client, hopper_file):
    raw = client.post("/v1/detect", content=hopper_file.read_bytes(), headers=JPEG)
    form = client.post("/v1/detect", files={"photo": ("h.jpg", hopper_file.read_bytes(), "image/jpeg")})
    assert raw.json() == form.json()


def test_embed_answers_what_the_library_computes(client, hopper_file):
    answer = client.post("/v1/embed", content=hopper_file.read_bytes(), headers=JPEG)
    found = answers.Embedded.model_validate(answer.json())
    service = service_behind(client)
    analyzer = facespace.FaceAnalyzer(service.engine.embedder("sface"), service.engine.detector("sface"))
    (face,) = analyzer(hopper_file)
    assert np.allclose(found.faces[0].embedding, face.embedding, atol=1e-3)
    assert found.model == "sface"


def test_a_turned_photo_is_found_upright(client, hopper_file):
    turned = encoded(Image.open(hopper_file).rotate(90, expand=True))
    answer = client.post("/v1/detect", content=turned, headers=JPEG, params={"try_rotations": True}).json()
    assert answer["image"] == {"width": 512, "height": 600, "turned": 90}


def test_identify_names_only_enrolled_people(client, both, stranger_file):
    answer = client.post("/v1/identify", content=both, headers=JPEG, params={"embeddings": True})
    found = answers.Identified.model_validate(answer.json())
    named = [face.name for face in found.faces if face.name]
    assert named == ["Eileen Collins", "Grace Hopper"]
    assert found.n_people == 2
    assert found.strangers_named == 0.01
    for face in found.faces:
        assert (face.name is None) == (face.similarity < face.threshold) == (face.person is None) == bool(face.unknown)
        assert len(face.embedding) == 128
    assert found.faces[0].person.id
    stranger = client.post("/v1/identify", content=stranger_file.read_bytes(), headers={"content-type": "image/png"})
    (face,) = answers.Identified.model_validate(stranger.json()).faces[:1]
    assert face.name is None
    assert face.unknown.reason in ("stranger", "too_small", "too_blurred")
    assert face.embedding is None


def test_a_person_is_named_once_in_a_photo(client, hopper_file):
    """With the same picture twice, side by side, one face gets the reason somebody_else_here."""
    hopper = Image.open(hopper_file).convert("RGB")
    twice = Image.new("RGB", (hopper.width * 2, hopper.height))
    twice.paste(hopper, (0, 0))
    twice.paste(hopper, (hopper.width, 0))
    faces = client.post("/v1/identify", content=encoded(twice), headers=JPEG).json()["faces"]
    assert sorted(face["name"] or "" for face in faces) == ["", "Grace Hopper"]
    assert [face["unknown"]["reason"] for face in faces if face["unknown"]] == ["somebody_else_here"]


def test_a_small_face_is_not_called_a_stranger(client, stranger_file, hopper_file):
    small = encoded(Image.open(hopper_file).convert("RGB").resize((50, 58)).resize((600, 700)).crop((0, 0, 600, 700)))
    faces = client.post("/v1/identify", content=small, headers=JPEG).json()["faces"]
    assert [face["unknown"]["reason"] for face in faces if face["unknown"]] in ([], ["too_blurred"])


def test_nobody_enrolled(tmp_path, hopper_file):
    with running_service(tmp_path) as client:
        hopper = hopper_file.read_bytes()
        (face,) = client.post("/v1/identify", content=hopper, headers=JPEG).json()["faces"]
        forgotten = client.post("/v1/identify", content=hopper, headers=JPEG, params={"keep_unknown": False}).json()
        kept = client.get("/v1/unknowns").json()["unknowns"]
    assert face["unknown"] == {"reason": "nobody_enrolled"}
    assert face["similarity"] is None
    assert [one["id"] for one in kept] == [face["unknown_id"]]
    assert "unknown_id" not in forgotten["faces"][0]


def test_a_batch_goes_on_after_a_bad_photo(client, hopper_file):
    photo = ("photo", ("h.jpg", hopper_file.read_bytes(), "image/jpeg"))
    answer = client.post("/v1/identify/batch", files=[photo, ("photo", ("n.txt", b"no photo", "text/plain")), photo])
    found = answers.IdentifiedBatch.model_validate(answer.json())
    assert [photo.index for photo in found.photos] == [0, 1, 2]
    assert [photo.filename for photo in found.photos] == ["h.jpg", "n.txt", "h.jpg"]
    assert [photo.faces[0].name if photo.faces else None for photo in found.photos] == [
        "Grace Hopper",
        None,
        "Grace Hopper",
    ]
    assert found.photos[1].error.code == "unreadable_image"
    nothing = client.post("/v1/identify/batch", files=[("photo", ("n.txt", b"no photo", "text/plain"))])
    assert answers.IdentifiedBatch.model_validate(nothing.json()).n_people == 2


def test_verify_two_photos(client, hopper_file, collins_file):
    hopper, collins = hopper_file.read_bytes(), collins_file.read_bytes()
    same = client.post("/v1/verify", files=[("photo", hopper), ("photo", hopper)])
    found = answers.Verified.model_validate(same.json())
    assert found.same
    assert found.similarity > 0.99
    other = answers.Verified.model_validate(
        client.post("/v1/verify", files=[("photo", hopper), ("photo", collins)]).json()
    )
    assert not other.same
    assert other.similarity < other.threshold
    stricter = client.post("/v1/verify", files=[("photo", hopper), ("photo", collins)], params={"rate": 0.0001}).json()
    assert stricter["threshold"] > other.threshold
    assert stricter["false_match_rate"] == 0.0001


def test_verify_against_a_person(client, hopper_file, collins_file):
    store = service_behind(client).galleries.get().store
    person = str(store.find("Grace Hopper").id)
    answer = client.post("/v1/verify", files={"photo": hopper_file.read_bytes()}, data={"person": person})
    found = answers.Verified.model_validate(answer.json())
    assert found.same
    assert found.person.name == "Grace Hopper"
    other = client.post("/v1/verify", files={"photo": collins_file.read_bytes()}, data={"person": person}).json()
    assert not other["same"]
    assert other["person"] is None  # otherwise the names of all ids could be read with any photo
    unknown = client.post("/v1/verify", files={"photo": hopper_file.read_bytes()}, data={"person": "999"})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "no_such_person")


def test_verify_one_against_many(client, hopper_file, collins_file):
    files = [
        ("photo", hopper_file.read_bytes()),
        ("other", ("a.jpg", hopper_file.read_bytes())),
        ("other", ("b.png", collins_file.read_bytes())),
        ("other", ("c.txt", b"no photo")),
    ]
    found = answers.VerifiedMany.model_validate(client.post("/v1/verify", files=files).json())
    assert [photo.same for photo in found.photos] == [True, False, None]
    assert found.photos[2].error.code == "unreadable_image"


def test_verify_says_what_is_wrong(client, hopper_file, cat_file):
    hopper = hopper_file.read_bytes()
    one = client.post("/v1/verify", files={"photo": hopper})
    assert (one.status_code, one.json()["code"]) == (422, "invalid")
    cat = client.post("/v1/verify", files=[("photo", hopper), ("photo", cat_file.read_bytes())])
    assert (cat.status_code, cat.json()["code"]) == (422, "no_face")


@pytest.mark.parametrize(
    ("content", "kind", "status", "code"),
    [
        (b"", "image/jpeg", 422, "photo_needed"),
        (b"no photo", "image/jpeg", 422, "unreadable_image"),
        (b"{}", "application/json", 415, "unsupported_media_type"),
        (b"http://127.0.0.1/x.jpg", "text/plain", 415, "unsupported_media_type"),
        (b"--x\r\n", "multipart/form-data; boundary=x", 400, "malformed"),
        (b"x", "multipart/form-data", 400, "malformed"),
        (b"--x\r\nA: b\r\n\r\n1\r\n--x--\r\n", "multipart/form-data; boundary=x", 400, "malformed"),
    ],
)
def test_bad_bodies_are_problems(client, content, kind, status, code):
    answer = client.post("/v1/detect", content=content, headers={"content-type": kind})
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("query", ["max_faces=0", "max_faces=x", "landmarks=perhaps", "collection="])
def test_bad_options_are_problems(client, query):
    answer = client.post(f"/v1/detect?{query}", content=b"x", headers=JPEG)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
    assert answer.json()["errors"][0]["where"].startswith("query.")


@pytest.mark.parametrize("collection", ["missing", "default-unknowns", "../../etc/passwd", "a'; DROP TABLE people --"])
def test_other_collections_are_not_there(client, collection, hopper_file):
    answer = client.post(
        "/v1/identify", params={"collection": collection}, content=hopper_file.read_bytes(), headers=JPEG
    )
    assert answer.status_code in (404, 422)
    assert answer.headers["content-type"] == "application/problem+json"


def test_examples_are_answers():
    answers.Detected.model_validate(answers.DETECTED_EXAMPLE)
    answers.Embedded.model_validate(answers.EMBEDDED_EXAMPLE)
    answers.Identified.model_validate(answers.IDENTIFIED_EXAMPLE)
    answers.IdentifiedBatch.model_validate(answers.BATCH_EXAMPLE)
    answers.Verified.model_validate(answers.VERIFIED_EXAMPLE)


def test_a_looser_rate_than_the_collections_own_is_for_administrators(tmp_path, hopper_file):
    photo = hopper_file.read_bytes()
    with running_service(tmp_path) as client:
        keys = {role: service_behind(client).keys.create(role).text for role in ("admin", "identify")}

        def asked(role: str, path: str, **form: Any) -> tuple[int, str]:
            body = form or {"content": photo, "headers": {"content-type": "image/jpeg"}}
            headers = {**body.pop("headers", {}), "authorization": f"Bearer {keys[role]}"}
            answer = client.post(path, headers=headers, **body)
            return answer.status_code, answer.json().get("code", "")

        form = {"files": {"photo": photo}}
        assert asked("identify", "/v1/identify?rate=0.3") == (403, "forbidden")
        assert asked("identify", "/v1/identify/batch?rate=0.3", **form) == (403, "forbidden")
        assert asked("identify", "/v1/verify?rate=0.3", **form, data={"person": "1"}) == (403, "forbidden")
        assert asked("identify", "/v1/identify?rate=0.001")[0] == 200
        assert asked("admin", "/v1/identify?rate=0.3")[0] == 200


def test_a_photo_of_more_than_a_thousand_faces(client, hopper_file, monkeypatch):
    n_faces, side = 1200, 24
    faces = [
        Face(
            (40 * (k % 40), 40 * (k // 40), 40 * (k % 40) + side + k / n_faces, 40 * (k // 40) + side), 0.9,
            ((5, 8), (15, 8), (10, 12), (6, 18), (14, 18)), quality=0.8,
        )
        for k in range(n_faces)
    ]  # fmt: skip
    one = service_behind(client).engine.embedder("sface").represent(np.zeros((1, 112, 112, 3), np.uint8))
    drawn = np.random.default_rng(0).standard_normal((n_faces, one.shape[1])).astype(np.float32)
    vectors = Embeddings(
        drawn / np.linalg.norm(drawn, axis=1, keepdims=True), made_by=one.made_by, model=one.model,
        quality=np.full(n_faces, 0.8, np.float32),
    )  # fmt: skip
    found = FoundFaces(faces, np.zeros((n_faces, 112, 112, 3), np.uint8), vectors)
    monkeypatch.setattr("facespace.server.engine.find_faces", lambda images, *_, **__: [found] * len(images))
    answer = client.post("/v1/identify", content=hopper_file.read_bytes(), headers=JPEG, params={"keep_unknown": False})
    assert answer.status_code == 200
    reply = answers.Identified.model_validate(answer.json())
    assert len(reply.faces) == 1000
    widths = [face.box[2] - face.box[0] for face in reply.faces]
    assert all(after <= before + 0.02 for before, after in itertools.pairwise(widths))
    assert sum(face.name is not None for face in reply.faces) <= 2, "two people are enrolled, and each is named once"
    few = client.post("/v1/identify", content=hopper_file.read_bytes(), headers=JPEG, params={"max_faces": 5}).json()
    assert len(few["faces"]) == 5
