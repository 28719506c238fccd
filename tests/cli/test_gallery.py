"""`facespace gallery`: showing, changing and checking people, and giving the gallery on the command line."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import facespace
from facespace.identification.gallery import Gallery
from support.calibrations import DIMENSION, StubEmbedder, crop
from support.commands import Outcome

Cli = Callable[..., Outcome]


@pytest.fixture
def people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A gallery of Ada with photos 1 to 3 and Ben with photo 4, in the current folder."""
    monkeypatch.chdir(tmp_path)
    with Gallery("people.gallery", StubEmbedder(), create=True) as gallery:  # type: ignore[arg-type]
        for k, name in enumerate(("Ada", "Ada", "Ada", "Ben")):
            vector = np.eye(DIMENSION, dtype=np.float32)[k]
            gallery.add(name, vector, crop(k), source=f"{name}{k + 1}.jpg", quality=0.5 if k == 0 else None)
    return tmp_path / "people.gallery"


def enroll(cli: Cli, people: Path, *words: str | os.PathLike[str]) -> Outcome:
    """Enroll with the model that the tests have loaded already."""
    return cli("enroll", "--gallery", people, "--model", "casia-webface", *words)


def names(cli: Cli) -> dict[str, int]:
    return {one["name"]: one["photos"] for one in cli("gallery", "list", "people.gallery", "--json").json}


# Which gallery


def test_the_gallery_is_an_option_or_the_first_word(cli: Cli, people: Path) -> None:
    expected = ["    3  Ada", "    1  Ben", "2 people"]
    for words in (
        ["list", "people.gallery"],
        ["list", "--gallery", "people.gallery"],
        ["list", "--gallery=people.gallery"],
        ["list", "--collection", "default", "people.gallery"],
        ["list", "--", "people.gallery"],
    ):
        assert cli("gallery", *words).lines == expected, words
    assert cli("gallery", "rename", "people.gallery", "Ben", "Bea").out == "Ben is now Bea\n"
    assert cli("gallery", "rename", "Bea", "--gallery", "people.gallery", "Ben").out == "Bea is now Ben\n"
    assert cli("gallery", "rename", "people.gallery", "--", "Ben", "-x").out == "Ben is now -x\n"
    assert cli("gallery", "remove", "--gallery", "people.gallery", "people.gallery").errors == [
        "facespace: people.gallery: no person is called 'people.gallery'"
    ]


def test_the_gallery_of_the_variable(cli: Cli, people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(people, "other.gallery")
    shutil.copy(people, "without an ending")
    monkeypatch.setenv("FACESPACE_GALLERY", "people.gallery")
    assert cli("gallery", "rename", "Ada", "Ida").out == "Ada is now Ida\n"
    assert cli("gallery", "list").lines == ["    1  Ben", "    3  Ida", "2 people"]
    for other in ("other.gallery", "without an ending"):
        assert cli("gallery", "list", other).lines == ["    3  Ada", "    1  Ben", "2 people"], (
            "the first word takes precedence"
        )
    assert cli("gallery", "list", "missing.gallery").code == 1
    assert cli("gallery", "list", "--gallery", "other.gallery").lines[0] == "    3  Ada"
    outcome = cli("gallery", "list", "mysql://host/people")
    assert outcome.errors == ["facespace: a gallery must be a file, postgresql:// or qdrant://, got mysql://"]


def test_the_variable_serves_every_command(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hopper_file: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FACESPACE_GALLERY", "mine.gallery")
    assert (
        cli("enroll", "Grace", hopper_file, "--model", "casia-webface").lines[-1]
        == "1 photos added; 1 people in mine.gallery"
    )
    assert ": Grace  similarity" in cli("identify", hopper_file).out
    assert cli("gallery", "check").lines == ["1 person checked; nothing found"]
    cli("cluster", hopper_file, "--output", "groups", "--model", "casia-webface")
    assert cli("cluster", hopper_file, "--output", "groups", "--gallery", "missing").errors == [
        "facespace: missing: no such gallery; create one with facespace enroll"
    ]


def test_collections(cli: Cli, people: Path, hopper_file: Path) -> None:
    assert enroll(cli, people, "--collection", "guests", "Grace", hopper_file).code == 0
    assert cli("gallery", "collections", people).lines == [
        "      2 people  default  (model stub)",
        "      1 people  guests  (model casia-webface)",
    ]
    assert cli("gallery", "collections", people, "--json").json[1] == {
        "collection": "guests", "people": 1, "model": "casia-webface",
    }  # fmt: skip
    assert cli("gallery", "list", people, "--collection", "guests").lines == ["    1  Grace", "1 person"]
    assert ": Grace  similarity" in cli("identify", "--gallery", people, "--collection", "guests", hopper_file).out
    outcome = cli("gallery", "list", people, "--collection", "nobody")
    assert (outcome.code, outcome.errors) == (
        1, [f"facespace: {people}: no collection 'nobody'; it has: default, guests"],
    )  # fmt: skip


def test_a_remark_is_reported_once(cli: Cli, people: Path, monkeypatch: pytest.MonkeyPatch, hopper_file: Path) -> None:
    remarks = iter([("a remark",)])
    monkeypatch.setattr(Gallery, "remarks", property(lambda self: next(remarks, ())))
    outcome = cli("identify", "--gallery", people, hopper_file, "--model", "casia-webface")
    assert outcome.errors[0] == "facespace: a remark"
    assert outcome.err.count("a remark") == 1


# Looking


def test_show(cli: Cli, people: Path) -> None:
    cli(
        "gallery", "set", people, "Ada", "--external-id", "E-1", "--metadata", '{"team": "blue"}', "--templates", "best"
    )
    cli("gallery", "reject", people, "Ada", "--photo", "3")
    lines = cli("gallery", "show", people, " Ada ").lines
    assert re.fullmatch(r"Ada  \(E-1\), enrolled \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", lines[0])
    assert lines[1:4] == [
        '  metadata {"team": "blue"}',
        "  compared by the best of the photos",
        "  rejected photos, never enrolled under this name: 1",
    ]
    assert re.fullmatch(r"      1     0\.50  \S+  onnxruntime float32, Ada1\.jpg", lines[5])
    assert re.fullmatch(r"      2        -  \S+  onnxruntime float32, Ada2\.jpg", lines[6])
    (entry,) = cli("gallery", "show", people, "Ada", "--json").json
    assert (entry["photos"], entry["rejected"], entry["external_id"], entry["templates"]) == (2, 1, "E-1", "best")
    assert [(one["number"], one["source"], one["quality"], one["crop"]) for one in entry["details"]] == [
        (1, "Ada1.jpg", 0.5, False), (2, "Ada2.jpg", None, False),
    ]  # fmt: skip
    assert cli("gallery", "list", people).lines[0] == "    2  Ada  (E-1)"


def test_a_long_list_is_read_in_pages(cli: Cli, people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facespace.cli.gallery._PAGE", 1)
    assert cli("gallery", "list", people).lines == ["    3  Ada", "    1  Ben", "2 people"]


def test_nothing_of_a_gallery_reorders_a_terminal(cli: Cli, people: Path) -> None:
    strange = "Ben\u202e\u2066gpj\u2029.\u200f"
    escaped = r"Ben\u202e\u2066gpj\u2029.\u200f"
    assert cli("gallery", "rename", people, "Ben", strange).out == f"Ben is now {escaped}\n"
    cli("gallery", "set", people, strange, "--metadata", json.dumps({"note": "\u202e\x9b2J"}))
    outputs = [
        cli("gallery", "list", people).out,
        cli("gallery", "show", people, strange).out,
        cli("gallery", "log", people).out,
        cli("gallery", "list", people, "--json").out,
        cli("gallery", "rename", people, strange, "Ada").err,
    ]
    for output in outputs:
        assert escaped in output and output.isascii(), output
    assert cli("gallery", "list", people, "--json").json[1]["name"] == strange, "JSON keeps the name"
    assert cli("gallery", "list", people, "--json").json[1]["metadata"] == {"note": "\u202e\x9b2J"}


# Changing


def test_rename_onto_a_taken_name_offers_to_merge(cli: Cli, people: Path) -> None:
    outcome = cli("gallery", "rename", people, "Ben", "Ada")
    assert outcome.errors == [
        f"facespace: {people}: the name 'Ada' is already taken; use --merge to merge 'Ben' into it"
    ]
    outcome = cli("gallery", "rename", people, "Ben", "Ada", "--merge")
    assert outcome.lines == ["1 photo of Ben moved to Ada, who has 4 photos now"]
    assert cli("gallery", "rename", people, "Ada", "Ida", "--merge").lines == ["Ada is now Ida"]


def test_remove_and_undo(cli: Cli, people: Path) -> None:
    outcome = cli("gallery", "remove", people, "Ada", "Nobody")
    assert (outcome.code, outcome.out) == (1, "") and names(cli) == {"Ada": 3, "Ben": 1}
    assert cli("gallery", "remove", people, "Ada", "Ben").lines == ["Ada: 3 photos removed", "Ben: 1 photo removed"]
    assert names(cli) == {}
    log = cli("gallery", "log", people, "--limit", "2", "--json").json
    assert [(one["kind"], one["text"], one["can_be_undone"]) for one in log] == [
        ("remove", "Ben", True), ("remove", "Ada", True),
    ]  # fmt: skip
    number = log[1]["number"]
    assert cli("gallery", "undo", people, str(number)).out == f"undone: {number}, remove Ada\n"
    assert cli("gallery", "undo", people).out == f"undone: {number + 1}, remove Ben\n"
    assert names(cli) == {"Ada": 3, "Ben": 1}
    assert re.search(r"remove  Ada  \(undone\)$", cli("gallery", "log", people).out, re.MULTILINE)
    assert cli("gallery", "undo", people, "999").errors == [f"facespace: {people}: no change has the number 999"]


def test_remove_photos(cli: Cli, people: Path) -> None:
    assert cli("gallery", "remove", people, "Ada", "--photo", "1,3").lines == ["Ada: 2 photos removed"]
    assert names(cli) == {"Ada": 1, "Ben": 1}
    assert cli("gallery", "remove", people, "Ada", "--photo", "2").lines == [
        "Ada: 1 photo removed",
        "Ada has no photos left and is removed",
    ]
    assert cli("gallery", "remove", people, "Ben", "--photo", "1").errors == [
        f"facespace: {people}: 'Ben' has no photo 1; facespace gallery show lists them"
    ]
    assert cli("gallery", "remove", people, "Ada", "Ben", "--photo", "4").code == 2


def test_merge_split_and_reject(cli: Cli, people: Path) -> None:
    assert cli("gallery", "merge", people, "Ada", "Ben", "--into", "Ada").lines == [
        "1 photo of Ben moved to Ada, who has 4 photos now"
    ]
    assert cli("gallery", "merge", people, "Ada", "--into", "Ada").errors == [
        f"facespace: {people}: 'Ada' cannot be merged into the same person"
    ]
    assert cli("gallery", "split", people, "Ada", "--photo", "3-4", "--to", "Eve").lines == [
        "2 photos of Ada moved to Eve, who has 2 photos now"
    ]
    assert cli("gallery", "reject", people, "Ada", "--photo", "1", "--to", "Eve").lines == [
        "1 photo moved to Eve, and excluded from enrolment as Ada"
    ]
    assert cli("gallery", "reject", people, "Eve", "--photo", "3").lines == [
        "1 photo removed, and excluded from enrolment as Eve"
    ]
    assert names(cli) == {"Ada": 1, "Eve": 2}


def test_set(cli: Cli, people: Path) -> None:
    assert cli("gallery", "set", people, "Ada", "--external-id", "1").out == "Ada: external id set\n"
    assert cli("gallery", "set", people, "Ben", "--external-id", "1").errors == [
        f"facespace: {people}: 'Ada' has the external id '1' already"
    ]
    cli("gallery", "set", people, "Ada", "--metadata", '{"a": 1}', "--templates", "best")
    cli("gallery", "set", people, "Ada", "--templates", "default")
    (entry,) = cli("gallery", "show", people, "Ada", "--json").json
    assert (entry["metadata"], entry["templates"]) == ({"a": 1}, "")
    for text in ("{", "[]", "NaN", '{"a": NaN}', '{"a": "' + "x" * 17_000 + '"}', "[" * 100_000):
        assert cli("gallery", "set", people, "Ada", "--metadata", text).code == 2, text[:20]
    assert cli("gallery", "set", people, "Ada").code == 2


def test_templates(cli: Cli, people: Path) -> None:
    assert cli("gallery", "templates", people).out == "faces are compared with the mean of a person's photos\n"
    assert cli("gallery", "templates", people, "best").out == "faces are compared with the best of a person's photos\n"
    assert cli("gallery", "templates", people).out == "faces are compared with the best of a person's photos\n"
    assert cli("gallery", "templates", people, "median").code == 2


@pytest.mark.parametrize("number", ["", "x", "0", "-1", "3-2", "1-", "1-1000000", "9" * 30, "1.5"])
def test_invalid_numbers_of_photos(cli: Cli, people: Path, number: str) -> None:
    outcome = cli("gallery", "remove", people, "Ada", f"--photo={number}")
    assert outcome.code == 2 and "must be numbers as gallery show prints them" in outcome.err
    assert names(cli) == {"Ada": 3, "Ben": 1}


# Erasing


def test_erase_asks_first(cli: Cli, people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli("gallery", "erase", people).lines == ["nothing to erase"]
    cli("gallery", "remove", people, "Ben")
    cli("gallery", "remove", people, "Ada", "--photo", "1")
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert cli("gallery", "erase", people).errors == [
        f"facespace: {people}: this would permanently erase 1 person (Ben) and 2 photos; confirm with --yes"
    ]
    cli("gallery", "undo", people)  # photo 1
    for answer, code, line in (("n\n", 1, "nothing erased"), ("y\n", 0, "1 photo erased")):
        stdin = io.StringIO(answer)
        monkeypatch.setattr(stdin, "isatty", lambda: True)
        monkeypatch.setattr(sys, "stdin", stdin)
        outcome = cli("gallery", "erase", people)
        assert (outcome.code, outcome.lines[-1].rpartition(": ")[2]) == (code, line)
        assert "Permanently erase 1 person (Ben) and 1 photo?" in outcome.out
    assert cli("gallery", "undo", people, "5").code == 1, "an erased removal cannot be undone"
    assert "Ben" not in cli("gallery", "log", people).out
    assert names(cli) == {"Ada": 3}


def test_erase_what_was_removed_long_ago(cli: Cli, people: Path) -> None:
    cli("gallery", "remove", people, "Ben")
    assert cli("gallery", "erase", people, "--older-than", "1", "--yes").lines == ["nothing to erase"]
    assert cli("gallery", "erase", people, "--older-than", "1").lines == ["nothing to erase"]
    outcome = cli("gallery", "erase", people, "--yes")
    assert outcome.lines == ["1 photo erased"]
    assert outcome.errors == ["facespace: backups, copies and exports of this gallery may still contain them"]


def test_retention(cli: Cli, people: Path) -> None:
    assert cli("gallery", "retention", people).out == "removed photos are kept until gallery erase\n"
    assert cli("gallery", "retention", people, "30").out == "removed photos are erased after 30 days\n"
    assert cli("gallery", "retention", people, "never").out == "removed photos are kept until gallery erase\n"
    for days in ("soon", "nan", "36500"):
        assert cli("gallery", "retention", people, days).code == 2


# Checking


def test_check(cli: Cli, tmp_path: Path, hopper_file: Path, collins_file: Path) -> None:
    people = tmp_path / "g"
    enroll(cli, people, "Grace", hopper_file)
    enroll(cli, people, "Eileen", collins_file)
    assert cli("gallery", "check", people).lines == ["2 people checked; nothing found"]
    enroll(cli, people, "G. Hopper", hopper_file)
    outcome = cli("gallery", "check", people)
    assert outcome.code == 1
    assert outcome.lines[0] == "same photo: photo 1 of Grace is also a photo of G. Hopper"
    assert re.fullmatch(
        r"alike: G\. Hopper and Grace are alike \(similarity 1\.000, threshold 0\.\d{3}\)", outcome.lines[1]
    )
    assert outcome.lines[2:] == ["3 people checked; 2 found"]
    same, alike = cli("gallery", "check", people, "--json").json
    assert same == {
        "kind": "same photo", "text": "photo 1 of Grace is also a photo of G. Hopper", "people": ["Grace", "G. Hopper"],
        "photos": [1],
    }  # fmt: skip
    assert (alike["kind"], alike["people"]) == ("alike", ["G. Hopper", "Grace"]) and alike["similarity"] > 0.99
    assert len(cli("gallery", "check", people, "--quick", "--json").json) == 1
    assert cli("gallery", "check", people, "--rate", "2").code == 2


# Enrolling and identifying


@pytest.fixture
def group_file(tmp_path: Path, hopper_file: Path, collins_file: Path) -> Path:
    """Hopper on the left, Collins on the right, of about the same size."""
    picture = Image.new("RGB", (940, 512))
    with Image.open(hopper_file) as hopper, Image.open(collins_file) as collins:
        picture.paste(hopper.convert("RGB").resize((428, 500)), (0, 0))
        picture.paste(collins.convert("RGB"), (428, 0))
    picture.save(tmp_path / "group.png")
    return tmp_path / "group.png"


def test_a_later_group_photo_enrols_the_person_in_it(
    cli: Cli, tmp_path: Path, group_file: Path, hopper_file: Path, stranger_file: Path
) -> None:
    people = tmp_path / "g"
    outcome = enroll(cli, people, "Grace", group_file)
    assert outcome.errors == [f"facespace: {group_file}: 2 faces, one expected; left out (--largest takes the largest)"]
    outcome = enroll(cli, people, "Grace", hopper_file, group_file)
    assert (outcome.code, outcome.err) == (0, "")
    assert re.search(r"group\.png enrolled \(the one of 2 faces at \d+,\d+, \d+x\d+ px\)$", outcome.lines[1])
    assert outcome.lines[-1] == f"2 photos added; 1 people in {people}"
    enroll(cli, people, "A photographer", stranger_file)
    outcome = enroll(cli, people, "A photographer", group_file)
    assert outcome.code == 1
    assert re.fullmatch(
        r"facespace: .*group\.png: 2 faces, none like A photographer's other photos \(similarity -?0\.\d{3}, threshold 0\.\d{3}\); "
        r"left out \(--largest takes the largest\)",
        outcome.errors[0],
    )


def test_enroll_reports_other_people_whom_a_face_resembles(
    cli: Cli, tmp_path: Path, hopper_file: Path, collins_file: Path
) -> None:
    people = tmp_path / "g"
    enroll(cli, people, "Grace", hopper_file)
    outcome = enroll(cli, people, "G. H.", hopper_file)
    assert outcome.errors == [
        f"facespace: {hopper_file}: the same photo is enrolled as Grace; is G. H. the same person?"
    ]
    outcome = enroll(cli, people, "Grace", collins_file)
    assert outcome.code == 0
    assert re.fullmatch(
        r"facespace: .*: unlike the other photos of Grace \(similarity -?0\.\d{3}, threshold 0\.\d{3}\); is it the same person\?",
        outcome.errors[0],
    )


def test_a_rejected_photo_is_not_enrolled_again(
    cli: Cli, tmp_path: Path, hopper_file: Path, collins_file: Path
) -> None:
    people = tmp_path / "g"
    enroll(cli, people, "Grace", hopper_file, collins_file)
    cli("gallery", "reject", people, "Grace", "--photo", "2")
    outcome = enroll(cli, people, "Grace", collins_file)
    assert (outcome.code, outcome.errors) == (
        1,
        [f"facespace: {collins_file}: somebody said that this photo does not show Grace; left out (gallery reject)"],
    )


def test_enroll_with_what_is_known(cli: Cli, tmp_path: Path, hopper_file: Path, collins_file: Path) -> None:
    people = tmp_path / "g"
    known = ["--external-id", "E-1", "--metadata", '{"event": "party"}', "--keep-crops"]
    assert enroll(cli, people, "Grace", hopper_file, *known).code == 0
    (entry,) = cli("gallery", "show", people, "Grace", "--json").json
    assert (entry["external_id"], entry["details"][0]["metadata"], entry["details"][0]["crop"]) == (
        "E-1", {"event": "party"}, True,
    )  # fmt: skip
    assert cli("gallery", "show", people, "Grace").lines[-1].endswith(' (crop kept) {"event": "party"}')
    outcome = enroll(cli, people, "Eileen", collins_file, "--external-id", "E-1")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.errors == [f"facespace: {people}: 'Grace' already has the external id 'E-1'"]
    assert enroll(cli, people, "--folder", tmp_path, "--external-id", "E-1").code == 2
    assert enroll(cli, people, "Eileen", collins_file, "--metadata", "[]").code == 2


def test_identify_top(cli: Cli, tmp_path: Path, hopper_file: Path, collins_file: Path, cat_file: Path) -> None:
    people = tmp_path / "g"
    enroll(cli, people, "Grace", hopper_file)
    enroll(cli, people, "Eileen", collins_file)
    lines = cli("identify", "--gallery", people, hopper_file, cat_file, "--top", "5").lines
    assert re.match(r"  1: Grace  similarity 1\.000", lines[1])
    assert re.fullmatch(r"       Eileen  similarity -?0\.\d{3} \(threshold 0\.\d{3}\)", lines[2])
    assert lines[3:] == [f"{cat_file}: no faces"]
    hopper, cat = cli("identify", "--gallery", people, hopper_file, cat_file, "--top", "1", "--json").json
    (one,) = hopper["faces"][0]["most_similar"]
    assert (list(one), one["name"], round(one["similarity"], 2)) == (["name", "similarity", "wanted"], "Grace", 1.0)
    assert cat["faces"] == []
    assert cli("identify", "--gallery", people, hopper_file, "--top", "0").code == 2
    assert cli("identify", "--gallery", people, "--camera", "0", "--top", "2").code == 2
    (tmp_path / "film").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(99))
    assert cli("identify", "--gallery", people, tmp_path / "film", "--top", "2").code == 2


def test_calibrate_reports_the_threshold_of_each_person(
    cli: Cli, tmp_path: Path, embedder: facespace.Embedder, hopper_file: Path, collins_file: Path
) -> None:
    """Zoe was enrolled first and is last by name. She has two photos, which allows another threshold."""
    people = tmp_path / "g"
    turned = tmp_path / "turned.png"
    with Image.open(hopper_file) as picture:
        picture.convert("RGB").rotate(4).save(turned)
    enroll(cli, people, "Zoe", hopper_file, turned)
    enroll(cli, people, "Anna", collins_file)
    for name, file in (("Zoe", hopper_file), ("Anna", collins_file)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        with Image.open(file) as picture:
            picture.convert("RGB").rotate(-6).save(tmp_path / "photos" / name / "1.png")
    (found,) = cli("calibrate", people, tmp_path / "photos", "--json").json
    with Gallery(people, embedder) as gallery:
        matches = gallery.identify(gallery.templates())
    assert {match.name: round(match.threshold, 4) for match in matches} == found["thresholds"]
    assert len(set(found["thresholds"].values())) == 2
