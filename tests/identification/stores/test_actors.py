from __future__ import annotations

import asyncio
import getpass
import threading
from pathlib import Path

import numpy as np
import pytest

from facespace.identification.edits import rename
from facespace.identification.stores.actors import act_as, acting_as, actor_name, user_name
from facespace.identification.stores.protocol import Entry
from facespace.identification.stores.sqlite import SQLiteStore


def test_the_default_actor_is_the_user():
    assert actor_name() == user_name() == getpass.getuser()


def test_a_user_without_a_name_is_unknown(monkeypatch: pytest.MonkeyPatch):
    def no_user() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr(getpass, "getuser", no_user)
    assert user_name() == "unknown"


def test_the_name_holds_in_the_block_and_is_made_plain():
    with acting_as("door\n" + "a" * 200):
        assert actor_name() == ("door\\n" + "a" * 200)[:100]
        with acting_as("inner"):
            assert actor_name() == "inner"
        assert actor_name().startswith("door")
    assert actor_name() == user_name()


def test_tasks_and_threads_have_names_of_their_own():
    found: list[str] = []

    async def task(name: str) -> None:
        act_as(name)
        await asyncio.sleep(0)
        found.append(actor_name())
        found.append(await asyncio.to_thread(actor_name))

    async def both() -> None:
        await asyncio.gather(task("one"), task("two"))

    asyncio.run(both())
    assert sorted(found) == ["one", "one", "two", "two"]
    with acting_as("here"):
        thread = threading.Thread(target=lambda: found.append(actor_name()))
        thread.start()
        thread.join()
    assert found[-1] == user_name()


def test_the_log_and_the_photos_of_a_gallery_say_who_it_was(tmp_path: Path):
    store = SQLiteStore(tmp_path / "people.gallery", create=True)
    vector = np.eye(1, 4, dtype=np.float32)[0]
    with acting_as("door (key 3f)"):
        store.add("Ada", Entry(vector, "0" * 64, "a.jpg", "cpu"))
        rename(store, "Ada", "Ben")
    rename(store, "Ben", "Cleo")
    person = store.find("Cleo")
    assert person is not None
    assert [photo.actor for photo in store.photos(person.id)] == ["door (key 3f)"]
    assert [entry.actor for entry in store.log()] == [user_name(), "door (key 3f)", "door (key 3f)"]
    store.close()
