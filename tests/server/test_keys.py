from __future__ import annotations

import hashlib
import hmac
import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest

from facespace.server import keys as keys_module
from facespace.server.keys import GRANTS, ROLES, Keys, NewKey
from facespace.server.state import State


@pytest.fixture
def keys(state: State) -> Keys:
    return Keys(state)


def test_a_key_is_found_by_its_text(keys: Keys):
    new = keys.create("enroll", "staff", label="front door", created_by="ada")
    record = keys.check(new.text)
    assert record is not None
    assert (record.id, record.role, record.collection, record.label, record.created_by) == (
        new.id, "enroll", "staff", "front door", "ada",
    )  # fmt: skip
    assert abs(record.created - time.time()) < 60


def test_a_secret_has_256_bits_and_is_never_the_same(keys: Keys):
    secrets = {keys.create("read").text.split("_", 2)[2] for _ in range(20)}
    assert len(secrets) == 20
    assert {len(secret) for secret in secrets} == {43}


def test_only_a_hash_is_stored(keys: Keys, state: State):
    new = keys.create("read")
    secret = new.text.split("_", 2)[2]
    files = b"".join(path.read_bytes() for path in state.folder.iterdir())
    assert secret.encode() not in files
    assert hashlib.sha256(secret.encode()).hexdigest().encode() in files


def test_the_text_of_a_key_is_not_shown_by_accident(keys: Keys, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.DEBUG):
        new = keys.create("read")
        keys.check(new.text)
    assert new.text not in repr(new) + repr(keys.list()) + caplog.text
    assert isinstance(new, NewKey)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:-1] + ("A" if text[-1] != "A" else "B"),
        lambda text: text[:-1],
        lambda text: text + "A",
        lambda text: text.upper(),
        lambda text: " " + text,
        lambda text: text + "\n",
        lambda text: text.replace("fsk_", "fsk_0"),
        lambda text: "fsk_000000000000_" + text.split("_", 2)[2],
        lambda text: "",
        lambda text: "ä" * 60,
        lambda text: text * 1000,
        lambda text: "fsk_' OR 1=1 --_" + "a" * 43,
    ],
)
def test_a_wrong_key_is_none(keys: Keys, change):
    assert keys.check(change(keys.create("admin").text)) is None


def test_a_key_of_another_service_is_none(keys: Keys, tmp_path: Path):
    other = State(tmp_path / "other")
    text = Keys(other).create("admin").text
    other.close()
    assert keys.check(text) is None


def test_an_expired_key_is_none(keys: Keys, monkeypatch: pytest.MonkeyPatch):
    now = time.time()
    new = keys.create("read", expires=now + 60)
    assert keys.check(new.text) is not None
    monkeypatch.setattr(keys_module.time, "time", lambda: now + 60)
    assert keys.check(new.text) is None
    assert [record.id for record in keys.list()] == [new.id]


def test_a_revoked_key_is_none_at_once_in_every_process(keys: Keys, state: State):
    new, stays = keys.create("admin"), keys.create("read")
    worker = State(state.folder)
    there = Keys(worker)
    assert there.check(new.text) is not None
    assert keys.revoke(new.id)
    assert there.check(new.text) is None
    assert keys.check(new.text) is None
    assert there.check(stays.text) is not None
    assert not keys.revoke(new.id)
    assert not keys.revoke("missing")
    worker.close()


def test_a_key_that_another_process_makes_is_valid_at_once(keys: Keys, state: State):
    assert not keys.any()
    code = "import sys; from facespace.server import keys, state; print(keys.Keys(state.State(sys.argv[1])).create('read').text)"
    command = [sys.executable, "-c", code, str(state.folder)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert keys.check(text) is not None
    assert keys.any()


def test_keys_are_read_again_only_after_changes(keys: Keys, state: State, monkeypatch: pytest.MonkeyPatch):
    text = keys.create("read").text
    keys.check(text)
    asked: list[str] = []
    rows = state.rows
    monkeypatch.setattr(state, "rows", lambda sql, values=(): asked.append(sql) or rows(sql, values))
    keys.check(text)
    assert asked == ["PRAGMA data_version"]
    state.set("something else", 1)
    keys.check(text)
    assert not [sql for sql in asked if "FROM key" in sql]


def test_secrets_are_compared_in_constant_time(keys: Keys, monkeypatch: pytest.MonkeyPatch):
    new = keys.create("read")
    compared: list[tuple[str, str]] = []
    compare = hmac.compare_digest
    monkeypatch.setattr(keys_module.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or compare(a, b))
    for text in (new.text, f"fsk_{'0' * 12}_{'a' * 43}", "nonsense"):
        keys.check(text)
    assert len(compared) == 3  # an unknown id and an invalid text take the same path
    assert {len(a) for pair in compared for a in pair} == {64}


def test_keys_that_were_all_revoked_do_not_open_the_service(keys: Keys):
    assert not keys.any()
    keys.revoke(keys.create("admin").id)
    assert keys.any()


def test_invalid_keys_are_not_made(keys: Keys, monkeypatch: pytest.MonkeyPatch):
    for role in ("root", "", None):
        with pytest.raises(ValueError, match="must be one of identify, read, enroll, admin"):
            keys.create(role)  # type: ignore[arg-type]
    for expires in (time.time() - 1, float("nan"), float("inf"), 1e300):
        with pytest.raises(ValueError, match="must be in the future"):
            keys.create("read", expires=expires)
    with pytest.raises(ValueError, match="at most 100 characters, got 101"):
        keys.create("read", label="a" * 101)
    monkeypatch.setattr(keys_module, "MAX_KEYS", 2)
    first = keys.create("read")
    keys.create("read")
    with pytest.raises(ValueError, match="there are 2 valid keys already"):
        keys.create("read")
    keys.revoke(first.id)
    keys.create("read")


def test_an_unknown_role_in_the_file_has_no_rights(keys: Keys, state: State):
    new = keys.create("read")
    with state.transaction() as connection:
        connection.execute("UPDATE key SET role = 'root'")
        connection.execute("UPDATE setting SET value = '99' WHERE key = 'keys'")
    record = keys.check(new.text)
    assert record is not None
    assert not any(record.may(need) for need in ROLES)


def test_what_the_roles_include():
    assert {role: set(grants) for role, grants in GRANTS.items()} == {
        "identify": {"identify"},
        "read": {"read"},
        "enroll": {"identify", "read", "enroll"},
        "admin": {"identify", "read", "enroll", "admin"},
    }
