"""The commands `facespace gallery export`, `import`, `copy` and `migrate`."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from facespace.identification import edits, gallery_copy
from facespace.identification.gallery_copy import contents
from facespace.identification.stores.bulk import people_of
from facespace.identification.stores.sqlite import SQLiteStore
from support.commands import Outcome
from support.gallery_people import MODEL, OtherStore, everybody, open_people, person, photo, told
from support.tiny_model import tiny_model

Cli = Callable[..., Outcome]
Opened = Callable[..., SQLiteStore]


@pytest.fixture
def gallery(tmp_path: Path) -> Path:
    path = tmp_path / "people.gallery"
    open_people(path).close()
    return path


@pytest.fixture
def opened() -> Iterator[Opened]:
    """Opens galleries until the end of the test."""
    with contextlib.ExitStack() as until_the_end:

        def open_one(path: Path, **options: Any) -> SQLiteStore:
            return until_the_end.enter_context(contextlib.closing(SQLiteStore(path, **options)))

        yield open_one


def test_export_and_import(cli: Cli, gallery: Path, opened: Opened, tmp_path: Path) -> None:
    file, other = tmp_path / "people.facespace", tmp_path / "other.gallery"
    done = cli("gallery", "export", "--gallery", gallery, file)
    assert (done.code, done.lines, done.err) == (0, [f"{file}: 17 people, 33 photos, 18 crops"], "")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["people.facespace", "people.gallery"]
    for expected in (
        ["17 people added, 0 known already", "33 photos added, 0 known already"],
        ["0 people added, 17 known already", "0 photos added, 33 known already"],
    ):
        done = cli("gallery", "import", "--gallery", other, file)
        assert (done.code, done.lines, done.err) == (0, expected, "")
    assert told(opened(other)) == told(everybody())


def test_import_reports_what_was_left_out(cli: Cli, gallery: Path, tmp_path: Path) -> None:
    file, other = tmp_path / "people.facespace", tmp_path / "other.gallery"
    open_people(tmp_path / "a.gallery", [person("Ada", 1, 2, external_id="x"), person("Eve", 7)]).close()
    rejecting = person("Ada", 3, rejected=(photo(2).entry.digest,))
    open_people(other, [rejecting, person("\u202eBob", 4, external_id="x")]).close()
    cli("gallery", "export", "--gallery", tmp_path / "a.gallery", file)
    done = cli("gallery", "import", "--gallery", other, file, "--skip-known")
    assert done.lines == ["1 people added, 1 known already", "1 photos added, 0 known already"]
    done = cli("gallery", "import", "--gallery", other, file)
    assert done.errors == ["facespace: Ada: another person has the external id 'x'; it was left out"]
    assert done.lines[1] == "1 photos added, 1 known already, 1 left out because they are rejected for that person"


def test_collections(cli: Cli, gallery: Path, opened: Opened, tmp_path: Path) -> None:
    open_people(gallery, [person("Friend", 1)], collection="friends").close()
    file = tmp_path / "friends.facespace"
    assert "1 people, 1 photos" in cli("gallery", "export", "--gallery", gallery, file, "--collection", "friends").out
    assert cli("gallery", "import", "--gallery", gallery, file, "--collection", "more").code == 0
    assert opened(gallery, collection="more").count() == 1
    done = cli("gallery", "copy", gallery, tmp_path / "b.gallery", "--collection", "more")
    assert len(done.lines) == 1 and done.lines[0].startswith("more: 1 people, 1 photos, checksum ")


def test_the_gallery_may_be_the_first_word_or_named_by_a_variable(
    cli: Cli, gallery: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "people.facespace"
    assert cli("gallery", "export", gallery, file).code == 0
    assert cli("gallery", "import", tmp_path / "b.gallery", file).lines[0] == "17 people added, 0 known already"
    monkeypatch.setenv("FACESPACE_GALLERY", str(gallery))
    assert cli("gallery", "export", file).code == 0
    # With one word, that word is the file to import.
    assert cli("gallery", "import", file).lines[0] == "0 people added, 17 known already"
    assert cli("gallery", "import", tmp_path / "b.gallery", file).lines[0] == "0 people added, 17 known already"
    assert cli("gallery", "import", tmp_path / "c.gallery", file, "--collection", "x").code == 0
    assert cli("gallery", "migrate", "--model", "no-such-model").err.startswith("facespace: no-such-model")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["export", "--gallery", "missing.gallery", "a.facespace"], "missing.gallery: no such gallery"),
        (
            ["export", "--gallery", "people.gallery", "people.gallery"],
            "people.gallery: already exists and is not an export",
        ),
        (["export", "--gallery", "people.gallery", "no/such/a.facespace"], "no/such"),
        (
            ["export", "--gallery", "people.gallery", "a.facespace", "--collection", "x"],
            "no collection 'x'; it has: default",
        ),
        (["import", "--gallery", "new.gallery", "missing.facespace"], "missing.facespace: no such file"),
        (
            ["import", "--gallery", "new.gallery", "people.gallery"],
            "people.gallery: damaged, or not an export of a gallery",
        ),
        (["import", "--gallery", "new.gallery", "."], ".: no such file"),
        (["copy", "people.gallery", "people.gallery"], "people.gallery: the collection 'default' already has people"),
        (
            ["copy", "people.gallery", "nonsense://x"],
            "a gallery must be a file, postgresql:// or qdrant://, got nonsense://",
        ),
        (["copy", "people.gallery", "no/such/folder.gallery"], "no/such/folder.gallery"),
        (["migrate", "--gallery", "people.gallery", "--model", "no-such-model"], "no-such-model"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    cli: Cli, gallery: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(gallery.parent)
    before = gallery.read_bytes()
    done = cli("gallery", *words)
    assert done.code == 1 and done.out == "" and len(done.errors) == 1
    assert done.err.startswith("facespace: ") and message in done.err
    assert gallery.read_bytes() == before and [one.name for one in gallery.parent.iterdir()] == ["people.gallery"]


def test_copy(cli: Cli, gallery: Path, opened: Opened, tmp_path: Path) -> None:
    expected = contents(people_of(opened(gallery)))
    done = cli("gallery", "copy", gallery, tmp_path / "copy.gallery")
    line = f"default: 17 people, 33 photos, 18 crops, checksum {expected.checksum[:16]}"
    assert (done.code, done.lines, done.err) == (0, [line], "")


def test_a_gallery_that_changes_meanwhile(
    cli: Cli, gallery: Path, opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of a file is a snapshot; a server may change while it is read, which is reported."""
    real = SQLiteStore.copy_to

    def copy_to(self: SQLiteStore, target: Path) -> None:
        real(self, target)
        edits.rename(self, "Ada", "Ada Lovelace")

    with monkeypatch.context() as patch:
        patch.setattr(SQLiteStore, "copy_to", copy_to)
        done = cli("gallery", "copy", gallery, tmp_path / "copy.gallery")
    assert done.code == 0 and done.errors == [
        "facespace: the gallery was changed while it was copied; the copy does not contain the latest changes"
    ]
    names = [one.state.name for one in opened(tmp_path / "copy.gallery").people()]
    assert "Ada" in names and "Ada Lovelace" not in names

    class Server(OtherStore):
        def count(self) -> int:
            edits.rename(self._inner, "Ada Lovelace", "Ada")
            return self._inner.count()

    server: Any = Server(opened(gallery))
    monkeypatch.setattr("facespace.identification.stores.opening.open_store", lambda *_, **__: server)
    done = cli("gallery", "export", "--gallery", gallery, tmp_path / "a.facespace")
    assert done.code == 0 and "was changed during the export" in done.err and "export again" in done.err
    assert gallery_copy.open_store is not None


def test_migrate(cli: Cli, opened: Opened, tmp_path: Path) -> None:
    gallery, model = tmp_path / "people.gallery", tmp_path / "tiny.onnx"
    open_people(gallery, [person("Ada", 1, 2, crop=True), person("Bob", 3), person("Eve", 4, crop=True)]).close()
    model.write_bytes(tiny_model())
    model.with_suffix(".json").write_text(json.dumps(MODEL["input_spec"]))
    done = cli("gallery", "migrate", "--gallery", gallery, "--model", model)
    assert done.code == 1, "somebody is left out"
    assert "facespace: Bob: left out (no crop is stored)" in done.errors
    assert done.lines[0] == "2 of 3 people, 3 photos, by tiny.onnx"
    assert done.lines[1] == f"use it with --gallery {gallery} --collection default-tiny-onnx"
    assert [one.state.name for one in opened(gallery, collection="default-tiny-onnx").people()] == ["Ada", "Eve"]
    assert opened(gallery).count() == 3
    shutil.copy(gallery, tmp_path / "before.gallery")
    done = cli("gallery", "migrate", "--gallery", gallery, "--model", model)
    assert done.code == 1 and "the collection 'default-tiny-onnx' already has people" in done.err
    edits.remove(opened(gallery), "Bob")
    done = cli("gallery", "migrate", "--gallery", gallery, "--model", model, "--to", tmp_path / "new.gallery")
    assert done.code == 0 and done.lines[-1] == f"use it with --gallery {tmp_path / 'new.gallery'}"
    assert opened(tmp_path / "new.gallery").count() == 2


def test_help_describes_each_command(cli: Cli) -> None:
    for name in ("export", "import", "copy", "migrate"):
        done = cli("gallery", name, "--help")
        assert done.code == 0 and done.out.startswith(f"Usage: facespace gallery {name} ")
        assert name in cli("gallery", "--help").out
