"""Forms and raw bodies."""

from __future__ import annotations

import random

import pytest

from facespace.server import bodies
from facespace.server.bodies import parse_form
from facespace.server.problems import Problem

FILE = b'--x\r\nContent-Disposition: form-data; name="photo"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
FIELD = b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\n'
END = b"\r\n--x--\r\n"


def code_of(body: bytes, *, max_files: int = 10) -> str:
    with pytest.raises(Problem) as raised:
        parse_form(body, b"x", max_files=max_files)
    return raised.value.code


def test_files_and_fields_come_in_order():
    data = bytes(range(256)) * 4
    form = parse_form(FILE + data + b"\r\n" + FIELD + "Zoë".encode() + b"\r\n" + FILE + b"2" + END, b"x", max_files=2)
    assert [one.data for one in form.photos()] == [data, b"2"]
    assert (form.photos()[0].filename, form.photos()[0].content_type) == ("a.jpg", "image/jpeg")
    assert form.text("name") == "Zoë"
    assert form.text("other") is None
    assert form.photos("other") == []


def test_a_field_given_twice():
    form = parse_form(FIELD + b"a\r\n" + FIELD + b"b" + END, b"x", max_files=1)
    assert form.fields["name"] == ["a", "b"]
    with pytest.raises(Problem) as raised:
        form.text("name")
    assert raised.value.code == "invalid"


def test_a_filename_is_made_plain_text():
    path = FILE.replace(b"a.jpg", b"../../etc/passwd\x1b[31m")
    (upload,) = parse_form(path + b"1" + END, b"x", max_files=1).photos()
    assert "\x1b" not in upload.filename
    (long,) = parse_form(FILE.replace(b"a.jpg", b"a" * 2000) + b"1" + END, b"x", max_files=1).photos()
    assert len(long.filename) == 255


def test_too_much_is_refused(monkeypatch):
    assert code_of((FILE + b"1\r\n") * 3 + b"--x--\r\n", max_files=2) == "too_large"
    monkeypatch.setattr(bodies, "MAX_FIELDS", 2)
    assert code_of((FIELD + b"1\r\n") * 3 + b"--x--\r\n") == "too_large"
    monkeypatch.setattr(bodies, "MAX_FIELD", 5)
    assert code_of(FIELD + b"123456" + END) == "too_large"
    assert code_of(b"--x\r\nA: " + b"b" * 10_000 + b"\r\n\r\n1" + END) in (
        "too_large",
        "malformed",
    )  # the parser has its own limit


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nothing",
        FILE,
        FILE + b"1",
        FIELD + b"\xff\xfe" + END,
        b"--x\r\nContent-Type: text/plain\r\n\r\n1" + END,
        b'--x\r\nContent-Disposition: attachment; name="a"\r\n\r\n1' + END,
        b"--x\r\nContent-Disposition: form-data\r\n\r\n1" + END,
        b'--x\r\nContent-Disposition: form-data; name="\xff"\r\n\r\n1' + END,
    ],
    ids=range(9),
)
def test_invalid_forms(body):
    assert code_of(body) == "malformed"


def test_damage_is_a_problem_or_a_form():
    whole = FILE + b"data" * 20 + b"\r\n" + FIELD + b"Ada" + END
    draw = random.Random(0)
    for _ in range(3000):
        damaged = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            damaged[draw.randrange(len(damaged))] = draw.choice(b'\r\n-x":;=\x00\xffA')
        try:
            parse_form(bytes(damaged[: draw.randint(1, len(damaged))]), b"x", max_files=10)
        except Problem as problem:
            assert problem.status in (400, 413)
