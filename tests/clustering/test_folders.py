"""Folders of groups: safe names, renamed folders, damaged marks."""

from __future__ import annotations

import dataclasses
import os
import urllib.parse
from pathlib import Path

import numpy as np
import pytest

from facespace.clustering import folders
from facespace.clustering.folders import keep_picture, tidy, write_folders, write_sheet, write_table
from facespace.clustering.groups import FaceGroups
from facespace.errors import DatasetError
from facespace.pipeline.photos import Photo
from support.forks import in_child
from support.html_pages import Page


def faces(folder: Path, *groups: int, name: str = "photo.jpg") -> FaceGroups:
    """Return groups with one photo per face, each of its own gray."""
    from facespace.faces.face import Face

    points = ((20, 20), (30, 20), (25, 25), (21, 30), (29, 30))
    found = FaceGroups(4)
    for k, _ in enumerate(groups):
        photo = Photo(str(folder / f"{k}-{name}"), faces=[Face((10.0, 10.0, 40.0, 40.0), 0.9, points)],
                      embeddings=np.eye(4, dtype=np.float32)[:1], pixels=np.full((60, 60, 3), k, np.uint8))  # fmt: skip
        digest = f"{k:064x}"
        found.add(photo, digest)
        folder.mkdir(exist_ok=True)
        keep_picture(folder, photo, digest)
    found.group, found.id = np.array(groups), "one"
    return found


def held(folder: Path) -> dict[str, int]:
    return {
        entry.name: len(list(entry.glob("*.jpg")))
        for entry in sorted(folder.iterdir())
        if entry.is_dir() and entry.name != "faces"
    }


def test_the_largest_groups_come_first_and_single_faces_last(tmp_path):
    write_folders(tmp_path, faces(tmp_path, 4, 7, 7, 7, 9, 9), {})
    assert held(tmp_path) == {"alone": 1, "person-0001": 3, "person-0002": 2}
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize(
    "name",
    [
        "a/b",
        "..",
        "CON:",
        "alone",
        "faces",
        ".hidden",
        "x" * 300,
        "王小明",
        "a\nb",
        "index.html",
        "groups.csv",
        "Faces.safetensors",
    ],
)
def test_any_name_becomes_one_folder(tmp_path, name):
    places = write_folders(tmp_path, faces(tmp_path, 1, 1), {1: name})
    (place,) = set(places.values())
    assert place.parent == tmp_path
    assert place.is_dir()
    assert place.name not in ("alone", "faces")
    assert not place.name.startswith(".")
    assert held(tmp_path) == {place.name: 2}


def test_folders_of_another_grouping_contain_other_people(tmp_path):
    """Its state was removed but its folders were not, so the new group 1 is another person."""
    old = faces(tmp_path, 1, 1, 1)
    write_folders(tmp_path, old, {})
    new = faces(tmp_path, 1, 1, name="new.jpg")
    new.id = "two"
    write_folders(tmp_path, new, {})
    assert held(tmp_path) == {"person-0001": 3, "person-0002": 2}
    write_folders(tmp_path, new, {})
    assert held(tmp_path) == {"person-0001": 3, "person-0002": 2}


def test_stopped_at_any_step_it_is_completed_by_the_next_call(tmp_path, monkeypatch):
    """No picture is in a wrong folder, no number is skipped, and no temporary file is left."""
    expected = {"alone": 1, "person-0001": 3, "person-0002": 2}
    stopped = 0
    for step in range(100):
        folder = tmp_path / str(step)
        groups = faces(folder, 4, 7, 7, 7, 9, 9)
        left = step

        def dies(function):
            def counted(*arguments, **options):
                nonlocal left
                left -= 1
                if left < 0:
                    os._exit(9)
                return function(*arguments, **options)

            return counted

        def dying(folder=folder, groups=groups):
            for owner, name in (
                (Path, "rename"),
                (Path, "mkdir"),
                (os, "link"),
                (os, "replace"),
                (Path, "write_bytes"),
            ):
                setattr(owner, name, dies(getattr(owner, name)))
            write_folders(folder, groups, {})

        killed = in_child(dying)
        tidy(folder)
        places = write_folders(folder, groups, {})
        write_table(folder, groups, places)
        assert held(folder) == expected, step
        assert not list(folder.rglob(".facespace-*"))
        if not killed:
            break
        stopped += 1
    assert 10 < stopped < 99


def test_a_folder_whose_name_is_not_valid_text_is_in_table_and_page(tmp_path):
    groups = faces(tmp_path, 1, 1)
    (place,) = set(write_folders(tmp_path, groups, {}).values())
    try:
        os.rename(place, os.fsencode(tmp_path) + b"/caf\xe9")
    except OSError:
        pytest.skip("file names are text here")
    places = write_folders(tmp_path, groups, {})
    write_table(tmp_path, groups, places)
    page = write_sheet(tmp_path, groups, places).read_text(encoding="utf-8")
    assert "caf\\xe9" in page and "caf%E9/" in page
    assert "caf\\xe9" in (tmp_path / "groups.csv").read_text(encoding="utf-8")


def test_two_groups_of_one_name_share_its_folder(tmp_path):
    groups = faces(tmp_path, 1, 1, 2, 2)
    write_folders(tmp_path, groups, {1: "Anna", 2: "Anna"})
    assert held(tmp_path) == {"Anna": 4}
    (tmp_path / "Anna").rename(tmp_path / "Annabel")
    write_folders(tmp_path, groups, {})
    assert held(tmp_path) == {"Annabel": 4}


def test_a_number_taken_is_not_taken_again(tmp_path):
    (tmp_path / "Person-0001").mkdir()
    write_folders(tmp_path, faces(tmp_path, 1, 1), {})
    assert "person-0002" in held(tmp_path)


def test_a_damaged_mark_is_reported(tmp_path):
    groups = faces(tmp_path, 1, 1)
    write_folders(tmp_path, groups, {})
    for text in ("", "[]", '{"groups": "x"}', "\x00"):
        (tmp_path / "person-0001" / ".group.json").write_text(text)
        with pytest.raises(DatasetError, match=r"group\.json: damaged; remove it"):
            write_folders(tmp_path, groups, {})


def test_photos_are_linked_or_copied_once(tmp_path):
    photos = tmp_path / "photos"
    groups = faces(photos, 1, 1)
    for path, _, _ in groups.photos:
        Path(path).write_bytes(b"a photo")
    write_folders(photos, groups, {}, photos="link")
    links = list((photos / "person-0001" / "photos").iterdir())
    assert len(links) == 2
    assert all(link.is_symlink() and link.read_bytes() == b"a photo" for link in links)
    write_folders(photos, groups, {}, photos="copy")
    assert all(link.is_symlink() for link in links), "existing files are not changed"


def test_table_and_page_are_safe_for_any_name(tmp_path):
    groups = faces(tmp_path, 1, 1, name="<b>&'\".jpg")
    groups.photos.append(("=broken.jpg", "f" * 64, "cut short"))
    places = write_folders(tmp_path, groups, {1: "<script>alert(1)</script>"})
    write_table(tmp_path, groups, places)
    page = write_sheet(tmp_path, groups, places).read_text(encoding="utf-8")
    assert "<script>" not in page
    assert "<b>" not in page
    assert "cut short" in (tmp_path / "groups.csv").read_text(encoding="utf-8")


HOSTILE = [
    "a b.jpg", "#1.jpg", "who?.jpg", "50%.jpg", "%41.jpg", "it's.jpg", '"x" onclick=alert(1).jpg', "<script>alert(1)<script>.jpg",
    "javascript:alert(1)", "data:text,x", "C:\\photo.jpg", "&lt;&amp;.jpg", "a\nb.jpg", " .jpg", "王小明.jpg", "~;+=@,.jpg", "..jpg",
]  # fmt: skip


def linked(page: Path) -> list[str]:
    """Return the files that a browser would open for the links to photos in a page."""
    files = []
    for source in Page(page.read_text(encoding="utf-8")).sources:
        address = urllib.parse.urlsplit(urllib.parse.urljoin(page.as_uri(), source))
        assert (address.scheme, address.netloc, address.query, address.fragment) == ("file", "", "", ""), source
        if not source.startswith(("faces/", "alone/", "person-")):
            files.append(os.fsdecode(urllib.parse.unquote_to_bytes(address.path)))
    return files


@pytest.mark.parametrize("place", ["photos", "#50% of 'them'?"])
def test_pictures_link_to_photos_with_any_name(tmp_path, place):
    out, photos = tmp_path / "out", tmp_path / place
    photos.mkdir()
    groups = FaceGroups(4)
    names = [os.fsencode(name) for name in HOSTILE]
    if os.name == "posix":
        names.append(b"caf\xe9.jpg")
    for k, name in enumerate(names):
        path = os.fsdecode(os.path.join(os.fsencode(photos), name))
        Path(path).write_bytes(b"%d" % k)
        groups.add(Photo(path, faces=[_face()], embeddings=np.eye(4, dtype=np.float32)[:1]), f"{k:08x}" * 8)
    out.mkdir()
    groups.group = np.arange(len(names))
    places = write_folders(out, groups, {}, photos="copy")
    page = write_sheet(out, groups, places)
    found = linked(page)
    assert [Path(path).read_bytes() for path in found] == [b"%d" % k for k in range(len(names))]
    assert [os.path.samefile(os.path.dirname(path), photos) for path in found] == [True] * len(names)
    assert "face at 0,0, 1x1 px" in page.read_text(encoding="utf-8")
    copies = (out / "alone" / "photos").iterdir()
    assert sorted(copy.read_bytes() for copy in copies) == sorted(b"%d" % k for k in range(len(names)))


def test_links_hold_when_page_and_photos_are_moved_together(tmp_path):
    both, elsewhere = tmp_path / "both", tmp_path / "elsewhere"
    (both / "photos").mkdir(parents=True)
    groups = faces(both / "out", 1)
    (digest,) = groups.places
    (both / "photos" / "a.jpg").write_bytes(b"a")
    groups.places[digest] = str(both / "photos" / "a.jpg")
    write_sheet(both / "out", groups, write_folders(both / "out", groups, {}))
    both.rename(elsewhere)
    assert linked(elsewhere / "out" / "index.html") == [str(elsewhere / "photos" / "a.jpg")]


def test_photos_elsewhere_are_linked_by_their_absolute_path(tmp_path):
    groups = faces(tmp_path, 1)
    (digest,) = groups.places
    groups.places[digest] = "/no-such-disk/it's #1.jpg"
    page = write_sheet(tmp_path, groups, write_folders(tmp_path, groups, {}))
    assert 'href="file:///no-such-disk/it%27s%20%231.jpg"' in page.read_text(encoding="utf-8")


def test_a_file_system_without_hard_links_gets_copies(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    write_folders(tmp_path, faces(tmp_path, 1, 1), {})
    assert held(tmp_path) == {"person-0001": 2}


def test_a_face_at_the_border_has_a_picture(tmp_path):
    groups = faces(tmp_path, 1)
    photo = Photo("edge.jpg", pixels=np.zeros((20, 20, 3), np.uint8))
    photo.faces = [
        dataclasses.replace(_face(), box=(-30.0, -30.0, -5.0, -5.0)),
        dataclasses.replace(_face(), box=(15.0, 15.0, 60.0, 60.0)),
    ]
    keep_picture(tmp_path, photo, "e" * 64)
    assert len(list((tmp_path / "faces").glob("e*.jpg"))) == 2
    assert len(groups.photo) == 1


def _face():
    from facespace.faces.face import Face

    return Face((0.0, 0.0, 1.0, 1.0), 0.9, ((0, 0), (1, 0), (0, 1), (1, 1), (2, 2)))


def test_a_page_of_very_many_groups_has_the_largest(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "_GROUPS", 2)
    found = faces(tmp_path, 1, 1, 2, 2, 2, 3, 3, 3, 3, 4)
    places = write_folders(tmp_path, found, {})
    page = write_sheet(tmp_path, found, places).read_text(encoding="utf-8")
    assert "The 2 largest groups are shown. The other 1 are in the folders next to this page" in page
    assert [f"person-000{k}" in page for k in (1, 2, 3)] == [True, True, False]
    assert '<h2><a href="alone/">' in page
    assert page.count("<img") == 4 + 3 + 1
    monkeypatch.setattr(folders, "_GROUPS", 3)
    page = write_sheet(tmp_path, found, places).read_text(encoding="utf-8")
    assert "largest groups" not in page and "person-0003" in page
