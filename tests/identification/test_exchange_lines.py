"""The JSON lines and the header of an export."""

from __future__ import annotations

import json
from typing import Any

import pytest

from facespace.errors import GalleryError
from facespace.identification import exchange_lines
from facespace.identification.exchange_lines import (
    Header,
    checked_model,
    checked_settings,
    person_line,
    photo_line,
    read_header,
    read_json,
    read_line,
)
from support.gallery_people import MODEL, everybody, person, photo

PERSON: dict[str, Any] = {"name": "Ada", "added": "2026-01-02T03:04:05Z", "photos": 1}
PHOTO: dict[str, Any] = {"digest": "0" * 64, "source": "a.jpg", "made_by": "x", "added": "2026-01-02T03:04:05Z"}
HEADER: dict[str, Any] = {
    "format": "facespace-gallery", "version": 1, "model": MODEL, "collection": "default", "settings": {},
    "counts": {"people": 1, "photos": 2, "crops": 0},
}  # fmt: skip
CALIBRATION = {"rate": 0.01, "offset": 0.1, "evidence": {"n_known": 3}}


def line(value: Any) -> Any:
    return read_line(json.dumps(value).encode() + b"\n", "line 7")


def test_lines_are_read_as_they_were_written() -> None:
    for one in everybody():
        found = read_line(person_line(one), "line 1").as_person("")
        assert (found.state, found.added, found.n_photos) == (one.state, one.added, len(one.photos))
        for each in one.photos:
            entry = each.entry
            assert read_line(photo_line(each), "line 2").as_photo() == (
                entry.digest, entry.source, entry.made_by, each.added, entry.quality, entry.metadata, entry.crop is not None,
                each.actor,
            )  # fmt: skip


def test_letters_are_written_as_they_are() -> None:
    assert '"王小明"'.encode() in person_line(person("王小明", 1))
    lone = photo(1, metadata={"half": "\ud83d"})
    assert read_line(photo_line(lone), "line").as_photo().metadata == {"half": "\ud83d"}


def test_a_person_of_too_many_rejections_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange_lines, "MAX_LINE", 1000)
    with pytest.raises(GalleryError, match=r"Ada: a line of an export must have at most 1000 bytes, got"):
        person_line(person("Ada", 1, rejected=tuple(f"{k:064x}" for k in range(20))))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": None}, "name"),
        ({"name": ""}, "name"),
        ({"name": " Ada"}, "name"),
        ({"name": "x" * 201}, "name"),
        ({"name": "Zoe\u0308"}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "a\x00b"}, "name"),
        ({"name": "\ud800"}, "name"),
        ({"name": ["Ada"]}, "name"),
        ({"external_id": 5}, "external id"),
        ({"external_id": "x" * 201}, "external id"),
        ({"external_id": "a\x1b[2J"}, "external id"),
        ({"metadata": []}, "metadata must be a JSON object"),
        ({"metadata": {"x": "y" * 20_000}}, "at most 16384 characters"),
        ({"metadata": {"x": 1e999}}, "not JSON|JSON object"),
        ({"rejected": "00"}, "digest"),
        ({"rejected": ["g" * 64]}, "digest"),
        ({"rejected": [5]}, "digest"),
        ({"templates": "median"}, "templates"),
        ({"templates": ["best"]}, "templates"),
        ({"added": "yesterday"}, "time must be"),
        ({"added": 5}, "time must be"),
        ({"added": []}, "time must be"),
        ({"added": "1960-01-01T00:00:00Z"}, "after 1970"),
        ({"photos": 0}, "number of the person's photos"),
        ({"photos": True}, "number of the person's photos"),
        ({"photos": 1.5}, "number of the person's photos"),
        ({"photos": 2**50}, "number of the person's photos"),
        ({"strange": 1}, "the field 'strange' is not known"),
        ({"": 1}, "is not known"),
    ],
)
def test_invalid_people(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"(?s)line 7: .*({said})"):
        line(PERSON | changes).as_person("")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"digest": "0" * 63}, "digest must be"),
        ({"digest": "A" * 64}, "digest must be"),
        ({"digest": 0}, "digest must be"),
        ({"source": None}, "source must be text"),
        ({"source": "a\x07"}, "source must be text"),
        ({"source": "x" * 70_000}, "source must be text"),
        ({"made_by": 5}, "made_by must be text"),
        ({"quality": -0.1}, "between 0 and 1"),
        ({"quality": 1.01}, "between 0 and 1"),
        ({"quality": True}, "between 0 and 1"),
        ({"quality": "good"}, "between 0 and 1"),
        ({"metadata": "x"}, "JSON object"),
        ({"crop": 1}, "crop must be"),
        ({"crop": "../../etc/passwd"}, "crop must be"),
        ({"added": ""}, "time must be"),
        ({"actor": "a\n"}, "actor must be text"),
        ({"vector": [1]}, "is not known"),
    ],
)
def test_invalid_photos(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"line 7: .*{said}"):
        line(PHOTO | changes).as_photo()


@pytest.mark.parametrize("key", ["name", "added", "photos"])
def test_a_field_that_is_missing(key: str) -> None:
    with pytest.raises(ValueError, match=f"'{key}' is missing"):
        line({k: v for k, v in PERSON.items() if k != key}).as_person("")


def test_names_ascend() -> None:
    assert line(PERSON).as_person("Aba").state.name == "Ada"
    for before in ("Ada", "Bob"):
        with pytest.raises(ValueError, match="names must be unique and in ascending order"):
            line(PERSON).as_person(before)


def test_photos_of_a_person_differ_and_are_not_rejected() -> None:
    told = line(PERSON | {"rejected": ["1" * 64]}).as_person("")
    told.check_photos(["0" * 64, "2" * 64])
    with pytest.raises(ValueError, match="a photo twice"):
        told.check_photos(["0" * 64, "0" * 64])
    with pytest.raises(ValueError, match="was rejected"):
        told.check_photos(["1" * 64])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'{"a": NaN}', "NaN is not a number"),
        (b'{"a": -Infinity}', "-Infinity is not a number"),
        (b'{"a": ' + b"9" * 100_000 + b"}", "100000 digits"),
        (b"[" * 200_000, "nested too deep"),
        (b'{"a":' * 200_000, "nested too deep"),
    ],
    ids=str,
)
def test_invalid_json(data: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=f"there: .*{said}"):
        read_json(data, "there")


def test_a_line_that_is_too_long_or_not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"line 3: longer than .*, or truncated"):
        read_line(b"{}", "line 3")
    monkeypatch.setattr(exchange_lines, "MAX_LINE", 10)
    with pytest.raises(ValueError, match="line 3: longer than 10"):
        read_line(b'{"aaaaaaaaaa": 1}\n', "line 3")
    with pytest.raises(ValueError, match="a line must be a JSON object"):
        read_line(b"[]\n", "line 3").as_person("")


def test_a_header() -> None:
    data = json.dumps(HEADER | {"settings": {"templates": "best", "calibration": CALIBRATION}}).encode()
    found = read_header(data, 1, "a.facespace")
    assert found == Header(MODEL, "default", {"templates": "best", "calibration": CALIBRATION}, 1, 2, 0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": "other"}, "not facespace's"),
        ({"version": "1"}, "no version"),
        ({"version": 0}, "no version"),
        ({"collection": 5}, "no valid name"),
        ({"collection": "x" * 101}, "no valid name"),
        ({"collection": "a\x00"}, "no valid name"),
        ({"counts": None}, "counts are missing"),
        ({"counts": {"people": 1, "photos": -1, "crops": 0}}, "not valid numbers"),
        ({"counts": {"people": 1, "photos": 1}}, "not valid numbers"),
        ({"counts": {"people": 10**15, "photos": 1, "crops": 0}}, "not valid numbers"),
        ({"model": None}, "not complete"),
        ({"settings": None}, "unknown fields"),
        ({"settings": {"embedder": {}}}, "unknown fields"),
    ],
)
def test_invalid_headers(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_header(json.dumps(HEADER | changes).encode(), 1, "a.facespace")


def test_a_newer_format_names_the_remedy() -> None:
    with pytest.raises(
        GalleryError, match=r"a.facespace: written by a newer facespace \(format 2, .* up to 1\); upgrade"
    ):
        read_header(json.dumps(HEADER | {"version": 2, "model": "of another kind"}).encode(), 1, "a.facespace")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": ""}, "name of its model"),
        ({"model": "a\x1b"}, "name of its model"),
        ({"fingerprint": "f"}, "fingerprint"),
        ({"dimension": 0}, "1 to 65536"),
        ({"dimension": 2**40}, "1 to 65536"),
        ({"dimension": 128.0}, "1 to 65536"),
        ({"centered": 1}, "not complete"),
        ({"input_spec": []}, "not complete"),
        ({"input_spec": {}}, "size"),
        ({"input_spec": {"size": 10**9, "template": "box"}}, "size"),
        ({"input_spec": {"size": 16, "template": "box", "eval": "x"}}, "eval"),
        ({"more": 1}, "not complete"),
    ],
)
def test_invalid_models(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        checked_model(MODEL | changes)


@pytest.mark.parametrize(
    "changes",
    [{"rate": 0}, {"rate": 1.0}, {"rate": "1 %"}, {"offset": -1.1}, {"offset": None}, {"offset": True}, {"evidence": []},
     {"evidence": {"x": "y" * 70_000}}, {"more": 1}],
)  # fmt: skip
def test_a_calibration_that_calibrate_cannot_give(changes: dict[str, Any]) -> None:
    assert checked_settings({"calibration": CALIBRATION})
    with pytest.raises(ValueError, match="calibration"):
        checked_settings({"calibration": CALIBRATION | changes})


def test_invalid_templates() -> None:
    with pytest.raises(ValueError, match="mean or best"):
        checked_settings({"templates": "median"})
