from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from facespace.identification.stores.sealing import VARIABLE
from facespace.server.answers import Answer, Answers
from facespace.server.events import Events
from facespace.server.state import FILE, VERSION, State, StateError, serving
from facespace.server.webhooks import Webhooks
from support.waiting import wait_until

PRIVATE = [stat.S_IRUSR | stat.S_IWUSR]


@pytest.fixture
def state(tmp_path: Path):
    opened = State(tmp_path / "state")
    yield opened
    opened.close()


def test_other_users_cannot_read_the_folder_and_the_files(state: State):
    state.set("a", 1)
    assert stat.S_IMODE(state.folder.stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in state.folder.iterdir()} == {
        FILE: 0o600, f"{FILE}-wal": 0o600, f"{FILE}-shm": 0o600,
    }  # fmt: skip


def test_rights_of_other_users_are_removed(state: State):
    state.close()
    state.path.chmod(0o644)
    State(state.folder).close()
    assert stat.S_IMODE(state.path.stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_folder_that_others_can_write_is_refused(tmp_path: Path, mode: int):
    tmp_path.chmod(mode)
    with pytest.raises(StateError, match=r"other users can write to it and could add keys; run chmod 700"):
        State(tmp_path)
    tmp_path.chmod(0o700)
    State(tmp_path).close()


def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    if tmp_path.stat().st_uid == 0:
        os.chown(tmp_path, 4321, -1)
    with pytest.raises(StateError, match="belongs to another user"):
        State(tmp_path)


def test_a_folder_in_no_folder_and_a_file_are_refused(tmp_path: Path):
    with pytest.raises(StateError, match=r"the folder .*missing does not exist; make it, or give another \(--state\)"):
        State(tmp_path / "missing" / "state")
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="must be a folder, got a file"):
        State(tmp_path / "file")


def test_a_change_is_whole_or_not_at_all(state: State):
    state.table("CREATE TABLE IF NOT EXISTS t (n INTEGER); CREATE INDEX IF NOT EXISTS t_n ON t (n)")
    with pytest.raises(ZeroDivisionError), state.transaction() as connection:
        connection.execute("INSERT INTO t VALUES (1)")
        _ = 1 / 0
    assert state.rows("SELECT * FROM t") == []
    with state.transaction() as connection:
        connection.execute("INSERT INTO t VALUES (1)")
        with state.transaction() as inner:
            inner.execute("INSERT INTO t VALUES (2)")
        assert state.rows("SELECT * FROM t") == []  # nothing is written before the outer transaction ends
    assert state.rows("SELECT * FROM t") == [(1,), (2,)]


def test_a_table_is_made_once_and_only_where_it_is_missing(state: State):
    with pytest.raises(ValueError, match="IF NOT EXISTS"):
        state.table("CREATE TABLE t (n INTEGER)")
    with pytest.raises(ValueError, match="IF NOT EXISTS"):
        state.table("DROP TABLE setting")


@pytest.mark.parametrize("durable", [True, False])
def test_changes_are_synchronised_as_asked(state: State, durable: bool):
    with state.transaction(durable=durable) as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (2 if durable else 1,)


def test_the_version_follows_changes_of_this_and_of_other_processes(state: State):
    before = state.version()
    assert state.version() == before
    state.set("a", 1)
    after = state.version()
    assert after != before
    other = State(state.folder)
    other.set("a", 2)
    other.close()
    assert state.version() != after
    assert state.setting("a") == 2
    assert state.setting("b", "nothing") == "nothing"


def test_readers_do_not_wait_for_a_change(state: State):
    state.set("a", 1)
    found = []
    with state.transaction() as connection:
        connection.execute("UPDATE setting SET value = '2'")
        thread = threading.Thread(target=lambda: found.append(state.setting("a")))
        thread.start()
        thread.join(5)
    assert found == [1]
    assert state.setting("a") == 2


def test_a_full_disk_is_one_line_and_loses_nothing(state: State):
    state.set("a", 1)
    state.table("CREATE TABLE IF NOT EXISTS t (value BLOB)")
    (n_pages,) = state._writer.execute("PRAGMA page_count").fetchone()
    state._writer.execute(f"PRAGMA max_page_count = {n_pages + 2}")
    message = r"service.sqlite: database or disk is full; make room on its disk"
    with pytest.raises(StateError, match=message), state.transaction() as connection:
        connection.execute("UPDATE setting SET value = '2'")
        connection.execute("INSERT INTO t VALUES (zeroblob(1000000))")
    assert state.setting("a") == 1
    state._writer.execute(f"PRAGMA max_page_count = {n_pages + 1000}")
    state.set("a", 3)
    assert state.setting("a") == 3


@pytest.mark.skipif(os.name != "posix", reason="limits of files are POSIX")
def test_a_full_disk_at_the_start_is_one_line(tmp_path: Path):
    code = (
        "import resource, signal, sys\n"
        "from facespace.server.state import State, StateError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n    State(sys.argv[1])\n"
        "except StateError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "state")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    assert "service.sqlite: " in done.stdout
    assert "--state" in done.stdout or "make room" in done.stdout


@pytest.mark.parametrize("damage", ["header", "page", "text"])
def test_a_damaged_file_is_refused_and_left_alone(state: State, damage: str):
    state.table("CREATE TABLE IF NOT EXISTS t (value BLOB); CREATE INDEX IF NOT EXISTS t_value ON t (value)")
    with state.transaction() as connection:
        connection.executemany("INSERT INTO t VALUES (?)", [(os.urandom(600),) for _ in range(50)])
    state.close()
    data = bytearray(state.path.read_bytes())
    if damage == "header":
        data[:16] = b"a" * 16
    elif damage == "page":
        data[8192:12288] = os.urandom(4096)
    else:
        data = bytearray(b"not a database at all, but long enough to look like one" * 100)
    state.path.write_bytes(data)
    with pytest.raises(StateError, match=r"service.sqlite: damaged \(.*restore it from a backup, or move it away"):
        State(state.folder)
    assert state.path.read_bytes() == bytes(data)


def test_a_file_of_a_newer_version_is_refused(state: State):
    with state.transaction() as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    state.close()
    with pytest.raises(
        StateError, match=rf"newer version of facespace \(format {VERSION + 1}, this one reads up to {VERSION}"
    ):
        State(state.folder)


def test_a_file_of_another_program_is_refused(tmp_path: Path):
    connection = sqlite3.connect(tmp_path / FILE)
    connection.execute("CREATE TABLE theirs (n INTEGER)")
    connection.commit()
    connection.close()
    with pytest.raises(StateError, match="not a state file of facespace; give another folder"):
        State(tmp_path)


def test_a_setting_that_is_no_json_is_damage(state: State):
    with state.transaction() as connection:
        connection.execute("INSERT INTO setting VALUES ('a', '{')")
    with pytest.raises(StateError, match="the setting 'a' is not JSON"):
        state.setting("a")


def test_a_closed_file_says_so(state: State):
    state.close()
    with pytest.raises(StateError, match="already closed"):
        state.rows("SELECT 1")


def test_deleted_bytes_are_overwritten_by_scrub(state: State):
    assert state._writer.execute("PRAGMA secure_delete").fetchone() == (1,)
    state.set("secret", "Ada Lovelace")
    assert b"Ada Lovelace" in state.path.read_bytes() + state.path.with_name(f"{FILE}-wal").read_bytes()
    with state.transaction() as connection:
        connection.execute("DELETE FROM setting WHERE key = 'secret'")
    state.scrub()
    assert b"Ada Lovelace" not in state.path.read_bytes() + state.path.with_name(f"{FILE}-wal").read_bytes()


def test_two_servers_on_one_state_folder_are_refused(tmp_path: Path):
    with serving(tmp_path / "state"):
        code = (
            "import sys\nfrom pathlib import Path\nfrom facespace.server.state import State, StateError, serving\n"
            "State(sys.argv[1]).close()  # key create works meanwhile\n"
            "try:\n    with serving(Path(sys.argv[1])): print('served')\n"
            "except StateError as error: print(error)\n"
        )
        command = [sys.executable, "-c", code, str(tmp_path / "state")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.count("\n") == 1
        assert "another facespace serve uses this state folder; end it, or give another folder (--state)" in done.stdout
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "served\n"


def test_the_lock_of_a_killed_server_is_free(tmp_path: Path):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom facespace.server.state import serving\n"
        "with serving(Path(sys.argv[1])):\n    print('served', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "state")], stdout=subprocess.PIPE, text=True
    ) as one:
        assert one.stdout is not None
        assert one.stdout.readline() == "served\n"
        one.kill()
        one.wait()
    with serving(tmp_path / "state"):
        pass


def test_texts_are_sealed_with_the_key_of_the_gallery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plain = State(tmp_path / "state")
    assert plain.sealed("Ada") == "Ada"
    plain.close()
    monkeypatch.setenv(VARIABLE, "correct horse battery")
    first, second = State(tmp_path / "state"), State(tmp_path / "state")  # two workers
    sealed = first.sealed("Ada")
    assert "Ada" not in sealed
    assert (second.opened(sealed), second.opened("Ada")) == ("Ada", "Ada")
    with pytest.raises(StateError, match="damaged"):
        second.opened(sealed[:-8] + "AAAAAAAA")
    first.close()
    second.close()


@pytest.mark.parametrize(("key", "message"), [("", f"set the variable {VARIABLE}"), ("x" * 20, "with another key")])
def test_another_key_is_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, message: str
):
    monkeypatch.setenv(VARIABLE, "correct horse battery")
    state = State(tmp_path / "state")
    state.sealing()
    state.close()
    monkeypatch.setenv(VARIABLE, key)
    again = State(tmp_path / "state")  # keys can be made and listed without it
    with pytest.raises(StateError, match=rf"{message}.* or give another folder \(--state\)"):
        again.sealing()
    again.close()


def test_no_names_are_readable_in_the_state_of_an_encrypted_gallery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VARIABLE, "correct horse battery")
    state = State(tmp_path / "state")
    events, answers = Events(state), Answers(state)
    webhooks = Webhooks(state, events)
    new = webhooks.create("https://example.com/")
    answers.begin("key", "hash", "request", "default", "owner")
    answers.finish("owner", Answer(200, {}, b'{"name":"Zzyzx"}'))
    events.emit("enrolled", "default", {"person": {"id": "1", "name": "Zzyzx"}})
    wait_until(lambda: webhooks.spread() or bool(webhooks.due(set())), "no delivery was made")
    written = b"".join(path.read_bytes() for path in state.folder.iterdir())
    assert b"Zzyzx" not in written
    assert new.secret.encode() not in written
    (delivery,) = webhooks.due(set())
    assert (delivery.secret, b"Zzyzx" in delivery.body) == (new.secret, True)
    webhooks.failed(delivery, "gone", delays=())
    assert webhooks.dead(new.id)[0].event["person"]["name"] == "Zzyzx"
    assert '"Zzyzx"' in events.after(0)[0].json
    given = answers.begin("key", "hash", "request", "default", "other")
    assert given is not None
    assert given.body == b'{"name":"Zzyzx"}'
    events.close()
    state.close()


def test_exports_left_by_a_killed_server_are_deleted(tmp_path: Path):
    folder = tmp_path / "state"
    (folder / "export-abc").mkdir(parents=True)
    (folder / "export-abc" / "people.facespace").write_text("Ada")
    (folder / "import-abc.facespace").write_text("Ada")
    (folder / "kept").write_text("")
    folder.chmod(0o700)
    with serving(folder):
        assert not list(folder.glob("*port-*"))
        assert (folder / "kept").exists()
