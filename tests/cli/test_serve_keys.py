from __future__ import annotations

import json
import re
import time
from datetime import datetime, timezone
from pathlib import Path

import pytest
import typer

from facespace.cli.serve_keys import _end
from facespace.server.audit import Audit
from facespace.server.keys import Keys
from facespace.server.state import State, serving

NOW = datetime(2027, 1, 1, tzinfo=timezone.utc)


@pytest.fixture
def state(tmp_path: Path) -> str:
    return str(tmp_path / "state")


def test_a_key_is_printed_once_and_is_valid(cli, state: str):
    done = cli(
        "serve", "key", "create", "--role", "enroll", "--collection", "staff", "--label", "door", "--state", state
    )
    assert done.code == 0, done.err
    assert re.fullmatch(r"fsk_[0-9a-f]{12}_[\w-]{43}\n", done.out)
    opened = State(state)
    record = Keys(opened).check(done.out.strip())
    assert record is not None
    assert (record.role, record.collection, record.label) == ("enroll", "staff", "door")
    (entry,) = Audit(opened).entries()
    opened.close()
    assert (entry.action, entry.details["key"]) == ("create_key", record.id)
    assert entry.actor.endswith(" at the command line")
    listed = cli("serve", "key", "list", "--state", state)
    assert listed.out == f"{record.id}  enroll    staff  valid  door\n1 key\n"
    assert (
        done.out.strip().split("_", 2)[2]
        not in listed.out + cli("serve", "key", "list", "--json", "--state", state).out
    )


def test_a_key_is_revoked_by_its_id_or_its_text(cli, state: str):
    texts = [cli("serve", "key", "create", "--role", "admin", "--state", state).out.strip() for _ in range(2)]
    identifiers = [text.split("_")[1] for text in texts]
    assert cli("serve", "key", "revoke", identifiers[0], "--state", state).out == f"{identifiers[0]} revoked\n"
    assert cli("serve", "key", "revoke", texts[1], "--state", state).out == f"{identifiers[1]} revoked\n"
    assert cli("serve", "key", "revoke", texts[1], "--state", state).out == f"{identifiers[1]} was already revoked\n"
    opened = State(state)
    assert [Keys(opened).check(text) for text in texts] == [None, None]
    opened.close()
    again = cli(
        "serve", "key", "create", "--role", "admin", "--state", state
    )  # works although the last key was revoked
    assert again.code == 0
    listed = [json.loads(line) for line in cli("serve", "key", "list", "--json", "--state", state).out.splitlines()]
    assert [one["revoked"] is not None for one in listed] == [False, True, True]


def test_the_state_folder_is_beside_the_gallery(cli, tmp_path: Path):
    gallery = tmp_path / "people.gallery"
    assert cli("serve", "key", "create", "--role", "read", "--gallery", str(gallery)).code == 0
    assert (tmp_path / "people.gallery.service" / "service.sqlite").is_file()
    assert not gallery.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["key", "create", "--role", "root"], "'root' is not one of"),
        (["key", "create"], "Missing option '--role'"),
        (["key", "create", "--role", "read", "--expires", "soon"], "must be like 12h, 30d, 8w, 1y or 2027-12-31"),
        (["key", "create", "--role", "read", "--expires", "2001-01-01"], "must be in the future"),
        (["key", "create", "--role", "read", "--label", "a" * 101], "at most 100 characters"),
        (["key", "list"], "not the state folder of a service; give it with --state, or its gallery with --gallery"),
        (["key", "revoke", "123"], "not the state folder of a service"),
        (["--gallery", "x", "key", "list"], "must come after the command: facespace serve key list --gallery"),
    ],
)
def test_wrong_options_are_reported(cli, tmp_path: Path, monkeypatch, arguments: list[str], message: str):
    monkeypatch.chdir(tmp_path)
    done = cli("serve", *arguments)
    assert done.code in (1, 2)
    assert message in " ".join(done.err.split())
    assert "Traceback" not in done.err


def test_an_unknown_key_is_reported(cli, state: str):
    cli("serve", "key", "create", "--role", "read", "--state", state)
    done = cli("serve", "key", "revoke", "000000000000", "--state", state)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "no key with the id 000000000000; see facespace serve key list" in done.err


def test_a_wrong_state_folder_is_one_line(cli, tmp_path: Path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(0o777)
    done = cli("serve", "key", "create", "--role", "read", "--state", str(tmp_path / "state"))
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "other users can write to it" in done.err


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1h", 3600),
        ("30d", 30 * 86400),
        ("8w", 56 * 86400),
        ("1y", 365 * 86400),
        ("2027-01-01", 86400),
        ("2027-01-01T02:00", 7200),
    ],
)
def test_when_a_key_expires(text: str, seconds: float):
    assert _end(text, NOW) - NOW.timestamp() == seconds


@pytest.mark.parametrize("text", ["", "1", "h", "1m", "-1d", "2027-13-01", "tomorrow", "2026-12-30"])
def test_invalid_times(text: str):
    with pytest.raises(typer.BadParameter):
        _end(text, NOW)


def test_an_expired_key_is_listed_as_such(cli, state: str):
    cli("serve", "key", "create", "--role", "read", "--expires", "1h", "--state", state)
    assert "valid until 20" in cli("serve", "key", "list", "--state", state).out
    opened = State(state)
    with opened.transaction() as connection:
        connection.execute("UPDATE key SET expires = ?", (time.time() - 1,))
    opened.close()
    assert "expired 20" in cli("serve", "key", "list", "--state", state).out


@pytest.mark.parametrize("options", [["--host", "0.0.0.0"], ["--root-path", "/faces"], ["--proxy", "10.0.0.1"]])
def test_serving_others_needs_a_key_first(cli, tmp_path: Path, options: list[str]):
    done = cli("serve", "--gallery", str(tmp_path / "people.gallery"), "--port", "0", *options)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "make one: facespace serve key create --role admin --state" in done.err


def test_a_second_server_on_the_state_folder_is_one_line(cli, state: str):
    with serving(Path(state)):
        done = cli("serve", "--state", state, "--port", "0")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "another facespace serve uses this state folder" in done.err


@pytest.mark.parametrize("damage", [b"no database" * 1000, None])
def test_a_state_file_that_cannot_be_used_ends_serve_with_one_line(cli, state: str, damage: bytes | None):
    opened = State(state)
    if damage is None:
        with opened.transaction() as connection:
            connection.execute("PRAGMA user_version = 99")
    opened.close()
    if damage is not None:
        opened.path.write_bytes(damage)
    for arguments in (["serve", "--state", state, "--port", "0"], ["serve", "key", "list", "--state", state]):
        done = cli(*arguments)
        assert (done.code, done.err.count("\n")) == (1, 1)
        assert ("damaged" if damage else "made by a newer version of facespace") in done.err
