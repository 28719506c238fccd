"""`enroll --server` and `identify --server` in processes of their own, against a real service."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from facespace.client.client import Client
from support.commands import Outcome, run_facespace
from support.fake_service import answering, fake_service, problem
from support.waiting import wait_until

N_PHOTOS = 14


@pytest.fixture
def staff(tmp_path: Path, hopper_file: Path, collins_file: Path) -> Path:
    """A folder of two people."""
    folder = tmp_path / "staff"
    for name, file in (("Eileen Collins", collins_file), ("Grace Hopper", hopper_file)):
        (folder / name).mkdir(parents=True)
        shutil.copy(file, folder / name)
    return folder


def run(*arguments: str | os.PathLike[str], home: Path, **environment: str) -> Outcome:
    there = {**os.environ, "HOME": str(home), "XDG_STATE_HOME": str(home / "state"), **environment}
    there.pop("FACESPACE_GALLERY", None)
    return run_facespace(*arguments, cwd=home, env=there)


def names(client: Client) -> dict[str, int]:
    return {person.name: person.n_photos for person in client.people()}


def test_a_day_with_a_server(client: Client, staff: Path, tmp_path: Path, hopper_file: Path, cat_file: Path) -> None:
    shutil.copy(cat_file, staff / "Grace Hopper")
    (staff / "Eileen Collins" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(50))
    enroll = ("enroll", "--server", f"{client.url}/", "--folder", "staff")
    done = run(*enroll, home=tmp_path)
    assert done.code == 1
    assert done.lines == [
        "Eileen Collins: staff/Eileen Collins/astronaut.png enrolled",
        "Grace Hopper: staff/Grace Hopper/grace_hopper.jpg enrolled",
        f"2 photos added to default at {client.url}",
    ]
    first, second = done.errors
    assert re.fullmatch(r"facespace: staff/Eileen Collins/broken.jpg: .*; left out \(unreadable_image\)", first)
    assert second == "facespace: staff/Grace Hopper/chelsea.png: no face found; left out (no_face)"
    assert names(client) == {"Eileen Collins": 1, "Grace Hopper": 1}

    again = run(*enroll, home=tmp_path)
    assert again.code == 1
    assert again.lines == [f"0 photos added to default at {client.url}"]
    (journal,) = (tmp_path / "state" / "facespace").iterdir()
    assert (
        again.errors[-1]
        == f"facespace: 2 photos were sent by an earlier run and are skipped; to send them again, remove {journal}"
    )
    for private in ("Grace", "Hopper", "staff", "127.0.0.1"):
        assert private not in journal.read_text()

    journal.unlink()
    third = run(*enroll, home=tmp_path)
    assert third.lines[-1] == f"2 photos added to default at {client.url}"  # the service repeats its first answer
    assert names(client) == {"Eileen Collins": 1, "Grace Hopper": 1}

    photo = tmp_path / "other.png"
    Image.open(hopper_file).convert("RGB").rotate(5).save(photo)
    one = ("enroll", "--server", client.url, "Grace Hopper", photo, "--external-id", "N-1", "--metadata", '{"a": 1}')
    done = run(*one, home=tmp_path)
    assert (done.code, done.err) == (0, "")
    person = client.person_called("Grace Hopper")
    assert (person.n_photos, person.external_id) == (2, "N-1")
    assert client.photos(person)[1].metadata == {"a": 1}
    assert client.photos(person)[1].source == "other.png"

    done = run("identify", "--server", client.url, "other.png", cat_file, "no.jpg", home=tmp_path)
    assert done.code == 1
    assert re.fullmatch(
        r"  1: Grace Hopper  similarity \d\.\d+ \(threshold 0\.\d+\) at \d+,\d+, \d+x\d+ px", done.lines[1]
    ), done.lines
    assert [done.lines[0], done.lines[2]] == ["other.png: 1 face", f"{cat_file}: no faces"]
    assert done.errors == ["facespace: no.jpg: no such file"]
    done = run("identify", "--server", client.url, "other.png", "--json", "--draw", "drawn", home=tmp_path)
    (entry,) = done.json
    assert entry["image"] == "other.png"
    assert [(face["number"], face["name"]) for face in entry["faces"]] == [(1, "Grace Hopper")]
    assert list(entry["faces"][0]) == ["number", "box", "score", "landmarks", "quality", "name", "similarity"]
    (drawn,) = (tmp_path / "drawn").iterdir()
    with Image.open(drawn) as copy, Image.open(photo) as original:
        assert copy.size == original.size


def test_identify_prints_the_same_with_a_server_and_a_gallery(
    client: Client, tmp_path: Path, hopper_file: Path, stranger_file: Path
) -> None:
    client.enroll("Grace Hopper", hopper_file)
    done = run("enroll", "--gallery", "own.gallery", "Grace Hopper", hopper_file, home=tmp_path)
    assert done.code == 0
    photos = (hopper_file, stranger_file)
    far = run("identify", "--server", client.url, *photos, home=tmp_path)
    near = run("identify", "--gallery", "own.gallery", *photos, home=tmp_path)
    assert [re.sub(r"\d", "0", line) for line in far.lines] == [re.sub(r"\d", "0", line) for line in near.lines]
    assert "unknown" in far.out


@pytest.mark.parametrize("n_seen", [1, 4])
def test_killed_and_started_again_everything_is_there_once(
    client: Client, tmp_path: Path, hopper_file: Path, n_seen: int
) -> None:
    folder = tmp_path / "staff" / "Grace"
    folder.mkdir(parents=True)
    with Image.open(hopper_file) as photo:
        for n in range(N_PHOTOS):
            photo.convert("RGB").rotate(n - N_PHOTOS / 2).save(folder / f"{n:02}.jpg")
    journal = tmp_path / "journal"
    command = ["enroll", "--server", client.url, "--folder", str(folder.parent), "--journal", str(journal)]
    process = subprocess.Popen(
        [sys.executable, "-m", "facespace", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: names(client).get("Grace", 0) >= n_seen, "nothing is enrolled", seconds=20)
    finally:
        process.kill()
        process.wait(30)
    assert 0 < names(client)["Grace"] < N_PHOTOS, "it was not killed in the middle"
    done = run(*command, home=tmp_path)
    assert (done.code, [line for line in done.errors if "earlier run" not in line]) == (0, [])
    photos = client.photos(client.person_called("Grace"))
    assert sorted(photo.source for photo in photos) == [f"{n:02}.jpg" for n in range(N_PHOTOS)]
    done = run(*command, home=tmp_path)
    assert done.lines == [f"0 photos added to default at {client.url}"]


def test_a_key_comes_from_the_environment_and_is_never_shown(staff: Path, tmp_path: Path) -> None:
    key = "fsk_abc_" + "s" * 43
    with fake_service(problem(403, "forbidden", "the key's role is identify")) as service:
        done = run("enroll", "--server", service.url, "--folder", "staff", home=tmp_path, FACESPACE_KEY=key)
        assert service.requests[0].headers["authorization"] == f"Bearer {key}"
    assert done.code == 1
    assert done.errors == [
        f"facespace: {service.url}: the key's role is identify (code forbidden); photos added before: 0; run the same "
        "command again to resume"
    ]
    assert key not in done.out + done.err + str(list(tmp_path.rglob("*")))


def test_no_server_there(staff: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_service(answering()) as service:
        pass
    done = run("identify", "--server", service.url, "staff", home=tmp_path)
    assert done.code == 1
    (line,) = done.errors
    assert line.startswith(f"facespace: {service.url}: cannot be reached")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["enroll", "Ada", "a.jpg"], "--gallery: is missing; give --gallery FILE, or --server URL"),
        (["identify", "a.jpg"], "--gallery: is missing; give --gallery FILE, or --server URL"),
        (
            ["enroll", "--server", "http://a", "--gallery", "b", "Ada", "a.jpg"],
            "--gallery: cannot be used with --server",
        ),
        (
            ["enroll", "--server", "http://a", "--min-size", "30", "Ada", "a.jpg"],
            "--min-size: cannot be used with --server",
        ),
        (["identify", "--server", "http://a", "--top", "3", "a.jpg"], "--top: cannot be used with --server"),
    ],
)
def test_options_that_do_not_go_together(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = run(*arguments, home=tmp_path)
    assert done.code == 2
    assert message in done.err


def test_the_gallery_of_the_environment_does_not_disturb_a_server(client: Client, staff: Path, tmp_path: Path) -> None:
    there = {
        **os.environ,
        "FACESPACE_GALLERY": str(tmp_path / "own.gallery"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }
    done = run_facespace("enroll", "--server", client.url, "--folder", "staff", cwd=tmp_path, env=there)
    assert done.code == 0
    assert not (tmp_path / "own.gallery").exists()
    assert names(client) == {"Eileen Collins": 1, "Grace Hopper": 1}
