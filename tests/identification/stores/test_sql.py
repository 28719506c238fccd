"""Values in a gallery's tables that facespace does not write: each gives an error of one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from facespace.identification import edits
from facespace.identification.stores import sql
from facespace.identification.stores.sqlite import SQLiteStore
from support.galleries import damage, entry, made_null, read_everything, refused

DEEP = '{"metadata": ' + '{"a":' * 100_000 + "1" + "}" * 100_000 + "}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file of a gallery with three people and all kinds of data."""
    path = tmp_path / "people.gallery"
    store = SQLiteStore(path, create=True)
    store.add("Ada", entry(0, quality=0.5, metadata={"camera": 1}, crop=b"picture"))
    store.add("Ada", entry(1))
    store.add("Bob", entry(2))
    store.add("Eve", entry(3))
    edits.edit(store, "Ada", external_id="a", metadata={"x": 1})
    edits.rename(store, "Bob", "Zoë")
    store.set("embedder", {"model": "stub"})
    store.close()
    read_everything(path)
    return path


VALUES = {
    "an embedding of one byte": ("UPDATE face SET vector = x'00' WHERE id = 2", "an embedding is not of 8 numbers"),
    "an empty embedding": ("UPDATE face SET vector = x''", "an embedding is not of 8 numbers"),
    "an embedding too long": ("UPDATE face SET vector = zeroblob(20000000) WHERE id = 2", "an embedding is not of 8 numbers"),
    "a number as embedding": ("UPDATE face SET vector = 7 WHERE id = 2", "an embedding is not|is not bytes"),
    "a text as embedding": ("UPDATE face SET vector = '0123456789abcdef' WHERE id = 2", "an embedding is not|is not bytes"),
    "zeros": ("UPDATE face SET vector = zeroblob(16) WHERE id = 2", "an embedding is not of length 1"),
    "NaN": ("UPDATE face SET vector = x'007e' || zeroblob(14) WHERE id = 2", "an embedding is not"),
    "NaN as bytes": (f"UPDATE face SET vector = x'{'007e' * 8}' WHERE id = 2", "an embedding is not of length 1"),
    "infinity": (f"UPDATE face SET vector = x'007c{'0000' * 7}' WHERE id = 2", "an embedding is not of length 1"),
    "length 2": (f"UPDATE face SET vector = x'0040{'0000' * 7}' WHERE id = 2", "an embedding is not of length 1"),
    "a name with NUL": ("UPDATE person SET name = 'A' || char(0) || 'da' WHERE id = 1", "a name in it is not valid"),
    "a name with a newline": ("UPDATE person SET name = 'A' || char(10) || 'da' WHERE id = 1", "a name in it is not valid"),
    "a name that clears terminals": ("UPDATE person SET name = char(27) || '[2J' WHERE id = 1", "a name in it is not valid"),
    "an empty name": ("UPDATE person SET name = '' WHERE id = 1", "a name must have 1 to 200 characters"),
    "blanks round a name": ("UPDATE person SET name = ' Ada' WHERE id = 1", "a name in it is not valid"),
    "a name that is not composed": ("UPDATE person SET name = 'Zoe' || char(776) WHERE id = 1", "a name in it is not valid"),
    "a name of 1 MB": ("UPDATE person SET name = printf('%.*c', 1000000, 'x') WHERE id = 1", "1 to 200 characters, got 'x{40}'"),
    "bytes as name": ("UPDATE person SET name = x'416461' WHERE id = 1", "a name in it is not valid"),
    "a name that is not UTF-8": ("UPDATE person SET name = CAST(x'ff41' AS TEXT) WHERE id = 1", "not UTF-8"),
    "a name that is not UTF-8 and clears terminals": (
        "UPDATE person SET name = CAST(x'ff1b5b324a' AS TEXT) WHERE id = 1", r"damaged \(a text in it is not UTF-8\)$",
    ),
    "an external id with a newline": ("UPDATE person SET external_id = char(10) WHERE id = 1", "an external id must be"),
    "an external id of 1 MB": ("UPDATE person SET external_id = printf('%.*c', 1000000, 'x') WHERE id = 1", "must be text of at"),
    "bytes as external id": ("UPDATE person SET external_id = x'00' WHERE id = 1", "an external id must be"),
    "no JSON of a person": ("UPDATE person SET extra = '{' WHERE id = 1", "the data of a person is not JSON"),
    "JSON bytes of a person": ("UPDATE person SET extra = x'7b7d' WHERE id = 1", "a text in it is not text"),
    "a list of a person": ("UPDATE person SET extra = '[]' WHERE id = 1", "the data of a person is not a JSON object"),
    "deep JSON of a person": (f"UPDATE person SET extra = '{DEEP}' WHERE id = 1", "not JSON|too long"),
    "JSON nested 30,000 times": (
        "UPDATE person SET extra = printf('%.*c', 30000, '[') || printf('%.*c', 30000, ']') WHERE id = 1", "is not JSON",
    ),
    "an integer of 50,000 digits": (
        "UPDATE person SET extra = '{\"a\": ' || printf('%.*c', 50000, '9') || '}' WHERE id = 1", "is not JSON",
    ),
    "metadata that is no object": ("UPDATE person SET extra = '{\"metadata\": 3}' WHERE id = 1", "metadata must be a JSON object"),
    "metadata with NaN": ("UPDATE person SET extra = '{\"metadata\": {\"a\": NaN}}' WHERE id = 1", "metadata must be a JSON object"),
    "much metadata": (
        "UPDATE person SET extra = '{\"metadata\": {\"a\": \"' || printf('%.*c', 40000, 'x') || '\"}}' WHERE id = 1",
        "metadata must have at most",
    ),
    "rejected that are no digests": ("UPDATE person SET extra = '{\"rejected\": [\"a\"]}' WHERE id = 1", "rejected photo is not a digest"),
    "rejected that is no list": ("UPDATE person SET extra = '{\"rejected\": 3}' WHERE id = 1", "rejected photo is not a digest"),
    "other templates": ("UPDATE person SET extra = '{\"templates\": \"x\"}' WHERE id = 1", "must be mean or best"),
    "templates that are a list": ("UPDATE person SET extra = '{\"templates\": []}' WHERE id = 1", "must be mean or best"),
    "a person added before 1970": ("UPDATE person SET added = -1 WHERE id = 1", "a number in it is not valid"),
    "a person added in the far future": ("UPDATE person SET added = 1 << 50 WHERE id = 1", "a time in it is not valid"),
    "a person added at a text": ("UPDATE person SET added = 'x' WHERE id = 1", "a number in it is not valid"),
    "a stamp that is a text": ("UPDATE person SET stamp = 'x' WHERE id = 1", "a number in it is not valid"),
    "a short digest": ("UPDATE face SET digest = zeroblob(31) WHERE id = 2", "a digest is not 32 bytes"),
    "a text as digest": ("UPDATE face SET digest = printf('%.*c', 32, 'a') WHERE id = 2", "a digest is not 32 bytes"),
    "bytes as source": ("UPDATE face SET source = x'00' WHERE id = 2", "a text in it is not text"),
    "a source of 1 MB": ("UPDATE face SET source = printf('%.*c', 1000000, 'x') WHERE id = 2", "not text, or too long"),
    "a quality above 1": ("UPDATE face SET quality = 1.5 WHERE id = 2", "the quality of a face is not between 0 and 1"),
    "an infinite quality": ("UPDATE face SET quality = 9e999 WHERE id = 2", "the quality of a face is not between 0 and 1"),
    "a text as quality": ("UPDATE face SET quality = 'x' WHERE id = 2", "the quality of a face is not between 0 and 1"),
    "an unknown making": ("UPDATE face SET making = 99 WHERE id = 2", "a text in it is not text"),
    "a photo added before 1970": ("UPDATE face SET added = -1 WHERE id = 2", "a number in it is not valid"),
    "metadata of a photo that is no JSON": ("UPDATE face SET extra = 'x' WHERE id = 1", "the data of a photo is not JSON"),
    "a photo without an owner": ("UPDATE face SET person = 99 WHERE id = 2", "3 people and 3 photos, but its counts are 3 and 4"),
    "a photo of another one": ("UPDATE face SET person = 2 WHERE id = 2", "from two different states"),
    "a photo of a text": ("UPDATE face SET person = 'x' WHERE id = 2", "but its counts are"),
    "a removed person with photos": ("UPDATE person SET gone = 5 WHERE id = 1", "2 people and 2 photos, but its counts are 3 and 4"),
    "a text as crop": ("UPDATE crop SET data = 'x'", "bytes"),
    "a log that is no JSON": ("UPDATE log SET change = 'x'", "a change in the log is not JSON"),
    "a log that is a list": ("UPDATE log SET change = '[]'", "a change in the log is not a JSON object"),
    "a log of one value": ("UPDATE log SET change = '{\"people\": [[1]]}' WHERE kind = 'rename'", "must have three values"),
    "a log of other people": ("UPDATE log SET change = '{\"people\": [[1, 3, 3]]}' WHERE kind = 'rename'", "a person in the log is not an object"),
    "a log of numbers": ("UPDATE log SET change = '{\"photos\": [[1.5, 1, 2]]}' WHERE kind = 'rename'", "an id in the log is not a number"),
    "a log that enrolled texts": ("UPDATE log SET change = '{\"photo\": \"x\"}' WHERE kind = 'enroll'", "a number in it is not valid"),
    "a log at no time": ("UPDATE log SET at = 'x'", "a number in it is not valid"),
    "a log by bytes": ("UPDATE log SET actor = x'00'", "a text in it is not text"),
    "a log entry of 1 MB": ("UPDATE log SET text = printf('%.*c', 1000000, 'x') WHERE kind = 'rename'", "not text, or too long"),
    "a setting that is no JSON": ("UPDATE setting SET value = '{'", "the setting embedder is not JSON"),
    "a setting of bytes": ("UPDATE setting SET value = x'7b7d'", "the setting embedder is not JSON"),
    "a deep setting": ("UPDATE setting SET value = printf('%.*c', 100000, '[')", "the setting embedder is not JSON"),
    "no head": ("DELETE FROM head", "incomplete"),
    "two heads": ("INSERT INTO head VALUES (2, 6)", "incomplete"),
    "another head": ("UPDATE head SET seq = 3", "incomplete"),
    "a head of text": ("UPDATE head SET seq = 'x'", "incomplete"),
    "no collection": ("DELETE FROM collection", "no collection 'default'; it has: none"),
    "a negative count": ("UPDATE collection SET n_people = -1", "a number in it is not valid"),
    "a text as count": ("UPDATE collection SET n_photos = 'x'", "a number in it is not valid"),
    "another count": ("UPDATE collection SET n_people = 7", "3 people and 4 photos, but its counts are 7 and 4"),
    "another tally": ("UPDATE collection SET tally = tally + 1", "from two different states"),
    "encryption parameters": ("INSERT INTO setting VALUES (0, 'sealing', '3')", "encrypted; set the variable"),
}  # fmt: skip


@pytest.mark.parametrize(("statement", "match"), VALUES.values(), ids=VALUES)
def test_a_value_that_facespace_does_not_write(path: Path, statement: str, match: str) -> None:
    damage(path, statement)
    refused(path, match)


@pytest.mark.parametrize(
    ("table", "column", "kind"),
    [("face", "vector", "BLOB"), ("face", "digest", "BLOB"), ("person", "name", "TEXT"), ("person", "added", "INTEGER"),
     ("face", "source", "TEXT"), ("log", "text", "TEXT"), ("log", "at", "INTEGER"), ("setting", "value", "TEXT"),
     ("head", "seq", "INTEGER"), ("collection", "n_people", "INTEGER"), ("collection", "tally", "INTEGER"),
     ("person", "stamp", "INTEGER"), ("crop", "data", "BLOB"), ("making", "text", "TEXT")],
)  # fmt: skip
def test_null_where_there_must_be_a_value(path: Path, table: str, column: str, kind: str) -> None:
    made_null(path, table, column, kind)
    refused(path, r"damaged|incomplete")


def test_names_with_direction_marks_are_names(path: Path) -> None:
    """Right-to-left names contain them; code that prints a name escapes them."""
    store = SQLiteStore(path)
    for seed, name in enumerate(["\u202eadA", "\u200fא\u200e", "\ufeffx", "a\u2028b"]):
        assert store.add(name, entry(10 + seed))
        found = store.find(name)
        assert found is not None and found.state.name == name
    store.close()
    assert len(read_everything(path)["people"]) == 7


def test_enrolments_are_kept_in_the_log_up_to_a_number(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "_KEPT_LOG", 5)
    store = SQLiteStore(path)
    n_before = len(store.log())
    for k in range(8):
        store.add(f"person {k}", entry(20 + k))
        edits.edit(store, f"person {k}", metadata={"k": k})
    kinds = [one.kind for one in store.log(100)]
    assert kinds.count("enroll") == 2 + 1, (
        "the enrolments of the last five entries, and one that was already older than the limit"
    )
    assert kinds.count("edit") == 1 + 8 and n_before == 6
    store.close()


def test_a_reader_that_is_far_behind_reads_all_people(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "_KEPT_TOUCHED", 3)
    reader, writer = SQLiteStore(path), SQLiteStore(path)
    reader.nearest(entry(0).embedding[None], 1)
    for k in range(6):
        writer.add(f"person {k}", entry(20 + k))
    assert writer._connection.execute("SELECT count(*) FROM touched WHERE seq > 6").fetchone() == (3,)
    found = reader.nearest(entry(20).embedding[None], 1)
    assert reader.get([int(found.people[0, 0])])[0].state.name == "person 0"
    reader.close(), writer.close()
    read_everything(path)
