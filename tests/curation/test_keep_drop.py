"""The list of files to keep and drop: proposals, writing and reading, and moving without losing a file."""

from __future__ import annotations

import csv
import errno
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from facespace.curation import keep_drop
from facespace.curation.checker import Findings
from facespace.curation.keep_drop import Proposal, apply_list, inside, propose, read_list, relative, write_list
from facespace.errors import DatasetError
from facespace.io.photo_files import LeftOutWarning
from support.findings import EVIL, findings_of_each_kind


@pytest.fixture
def findings(tmp_path: Path) -> Findings:
    return findings_of_each_kind(tmp_path)


def by_name(findings: Findings) -> dict[str, Proposal]:
    return {os.path.relpath(proposal.path, findings.root): proposal for proposal in propose(findings)}


def test_proposals(findings: Findings) -> None:
    proposals = by_name(findings)
    assert len(proposals) == 20
    message = {name: (p.drop, p.reason, p.other) for name, p in proposals.items() if p.reason}
    assert message == {
        "d/bad.png": (True, "unreadable", "not <an> image"),
        "a/0.png": (True, "wrong label", "b"),
        "a/3.png": (True, "exact copy", "a/2.png"),
        "a/5.png": (False, "near copy", "a/4.png"),
        "a/1.png": (True, "copy in other identity", "b/2.png"),  # b/4 is kept, because its copy a/0 is dropped anyway
        "b/0.png": (True, "image in evaluation set", "C./1.png"),
        "c/0.png": (True, "person in evaluation set", "C."),
        "c/1.png": (True, "person in evaluation set", "C."),
        "c/2.png": (True, "person in evaluation set", "C."),
        "d/0.png": (True, "too few images", ""),
    }
    assert list(proposals) == sorted(proposals)


def test_an_equal_name_alone_is_only_noted(findings: Findings) -> None:
    object.__setattr__(findings, "min_images", 1)
    assert by_name(findings)["d/0.png"] == Proposal(
        findings.images.paths[18], False, "same name in evaluation set", "D", 0.1
    )


def by_position(findings: Findings) -> dict[int, Proposal]:
    index = {path: k for k, path in enumerate(findings.images.paths)}
    return {index[proposal.path]: proposal for proposal in propose(findings) if proposal.path in index}


def test_of_two_copies_the_one_that_fits_its_identity_worse_is_dropped(findings: Findings) -> None:
    """Image 5 is in identity a, image 12 is its copy in identity b."""
    for own, dropped in (((0.4, 0.9), 5), ((0.9, 0.4), 12), ((0.5, 0.5), 12), ((np.nan, 0.1), 5), ((0.1, np.nan), 12)):
        findings.labels.own[[5, 12]] = own
        proposals = by_position(findings)
        kept = 17 - dropped
        assert proposals[dropped].reason == "copy in other identity", own
        assert not proposals[kept].drop, own


def test_the_first_reason_that_applies_is_given(findings: Findings) -> None:
    findings.labels.far[[7, 9, 15]] = True  # an exact copy, a near copy, and an image of a person who is shared
    proposals = by_position(findings)
    assert [proposals[k].reason for k in (7, 9, 15)] == ["wrong label", "wrong label", "person in evaluation set"]
    assert proposals[9].drop


def test_a_note_does_not_keep_an_image_that_is_dropped(findings: Findings) -> None:
    object.__setattr__(findings, "min_images", 1)
    findings.labels.far[18] = True  # the only image of a person whose name is in the evaluation set
    findings.labels.own[18] = 0.25
    assert by_position(findings)[18] == Proposal(
        findings.images.paths[18], True, "wrong label", findings.images.names[findings.labels.nearest[18]], 0.25
    )


@pytest.mark.parametrize("min_images", [1, 2, 3, 4, 5])
def test_identities_with_too_few_images_left_are_dropped(findings: Findings, min_images: int) -> None:
    object.__setattr__(findings, "min_images", min_images)
    left = {"d": 1, "a": 3, EVIL: 4, "b": 4}  # no image of c is left, so none is dropped for being too few
    small = [proposal for proposal in propose(findings) if proposal.reason == "too few images"]
    assert Counter((Path(proposal.path).parent.name, proposal.score) for proposal in small) == {
        (name, n): n for name, n in left.items() if n < min_images
    }
    assert all(proposal.drop for proposal in small)


# The list


def write(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "list.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_the_list_is_read_back(findings: Findings, tmp_path: Path) -> None:
    write_list(propose(findings), findings.root, tmp_path / "list.csv")
    assert (tmp_path / "list.csv").read_bytes().startswith(b"\xef\xbb\xbfaction,file,reason,other,score\r\n")
    expected = [(p.drop, os.path.relpath(p.path, findings.root)) for p in propose(findings)]
    assert read_list(tmp_path / "list.csv") == expected
    with open(tmp_path / "list.csv", encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["score"] for row in rows if row["file"] == "c/0.png"] == ["0.8000"]


def test_no_cell_is_a_formula(tmp_path: Path) -> None:
    proposals = [
        Proposal(f"/r/{name}/1.png", True, "wrong label", name) for name in ("=1+1", "+a", "-b", "@c", "'e", "d")
    ]
    write_list(proposals, "/r", tmp_path / "list.csv")
    with open(tmp_path / "list.csv", encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["other"] for row in rows] == ["./=1+1", "./+a", "./-b", "./@c", "./'e", "d"]
    assert [row["file"][0] for row in rows] == [".", ".", ".", ".", ".", "d"]
    assert [file for _, file in read_list(tmp_path / "list.csv")] == [f"{p.other}/1.png" for p in proposals]


def test_an_edited_list_is_not_overwritten(findings: Findings, tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    write_list(propose(findings), findings.root, path)
    write_list(propose(findings), findings.root, path)
    assert sorted(p.name for p in tmp_path.glob("list*")) == ["list.csv"]
    for number in (1, 2):
        path.write_text(f"mine {number}")
        write_list(propose(findings), findings.root, path)
        assert (tmp_path / f"list-{number}.csv").read_text() == f"mine {number}"
    assert read_list(path)


@pytest.mark.parametrize(
    "data",
    [
        b"action,file\ndrop,a/1.png\nkeep,b/\xc3\xa9 2.png\n",
        b"\xef\xbb\xbfaction;file;reason;other;score\r\ndrop;a/1.png;x;;0,5\r\n KEEP ;b/\xc3\xa9 2.png;;;\r\n;;;;\r\n\r\n",
        b'score,File,ACTION\r0.5,"a/1.png",Drop\r,"b/\xc3\xa9 2.png",keep\r',
        "action\tfile\r\ndrop\ta/1.png\r\nkeep\tb/é 2.png\r\n".encode("utf-16"),
    ],
    ids=["plain", "semicolons", "old Mac, other order", "UTF-16 tabs"],
)
def test_lists_edited_in_spreadsheets(tmp_path: Path, data: bytes) -> None:
    assert read_list(write(tmp_path, data)) == [(True, "a/1.png"), (False, "b/é 2.png")]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "must have the columns action and file"),
        ("file,reason\na/1.png,x\n", "must have the columns action and file"),
        ("action,file\ndrop,a/1.png\nmaybe,b/2.png\n", "line 3: must be keep or drop, and a file, got 'maybe'"),
        ("action,file\ndrop,\n", "line 2: must be keep or drop"),
        ("action,file\ndrop\n", "line 2: must be keep or drop"),
        ("action,file\ndrop,a/1.png\nkeep,./a/1.png\n", "a/1.png is both kept and dropped"),
        (b"action,file\ndrop,caf\xe9/1.png\n", "not UTF-8"),
        ('action,file\ndrop,"a/1.png\n', "not CSV"),
    ],
)
def test_lists_that_are_refused(tmp_path: Path, data: str | bytes, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read_list(write(tmp_path, data))
    with pytest.raises(DatasetError, match="no such file"):
        read_list(tmp_path / "missing.csv")


# Applying it


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Files a/1 a/2 b/1 with their names as content."""
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "data"


def tree(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in sorted(root.rglob("*")) if path.is_file()}


LINES = [(True, "a/1.png"), (False, "a/2.png"), (True, "b/1.png")]


def test_files_are_moved_and_none_is_deleted(data: Path, tmp_path: Path) -> None:
    applied = apply_list(LINES, data, tmp_path / "gone")
    assert (applied.n_moved, applied.n_kept, applied.n_moved_before) == (2, 1, 0)
    assert (applied.unknown, applied.failed) == ((), ())
    assert tree(data) == {"a/2.png": "a/2.png"}
    assert tree(tmp_path / "gone") == {"a/1.png": "a/1.png", "b/1.png": "b/1.png"}
    assert not (data / "b").exists()

    again = apply_list(LINES, data, tmp_path / "gone")
    assert (again.n_moved, again.n_moved_before, again.unknown, again.failed) == (0, 2, (), ())


def test_everything_may_be_dropped_and_the_list_applied_twice(data: Path, tmp_path: Path) -> None:
    everything = [(True, name) for name in tree(data)]
    assert apply_list(everything, data, tmp_path / "gone").n_moved == 3
    assert apply_list(everything, data, tmp_path / "gone").n_moved_before == 3
    assert len(tree(tmp_path / "gone")) == 3


def test_existing_files_are_not_overwritten(data: Path, tmp_path: Path) -> None:
    (tmp_path / "gone" / "a").mkdir(parents=True)
    (tmp_path / "gone" / "a" / "1.png").write_text("another")
    applied = apply_list(LINES, data, tmp_path / "gone")
    assert applied.n_moved == 1
    ((file, reason),) = applied.failed
    assert file == "a/1.png"
    assert "another file of this name" in reason
    assert tree(data) == {"a/1.png": "a/1.png", "a/2.png": "a/2.png"}
    assert tree(tmp_path / "gone")["a/1.png"] == "another"


def test_a_target_that_is_the_file_itself_is_left(data: Path, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "a").symlink_to(data / "a")
    applied = apply_list([(True, "a/1.png")], data, tmp_path / "gone")
    assert len(applied.failed) == 1
    assert tree(data)["a/1.png"] == "a/1.png"


def test_across_file_systems(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rename(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    os.utime(data / "a" / "1.png", (1e9, 1e9))
    monkeypatch.setattr(keep_drop.os, "rename", rename)
    assert apply_list(LINES, data, tmp_path / "gone").n_moved == 2
    assert tree(tmp_path / "gone") == {"a/1.png": "a/1.png", "b/1.png": "b/1.png"}
    assert tree(data) == {"a/2.png": "a/2.png"}
    assert (tmp_path / "gone" / "a" / "1.png").stat().st_mtime == 1e9

    # Interrupted between copying and removing, and run again.
    (data / "a" / "1.png").write_text("a/1.png")
    assert apply_list(LINES, data, tmp_path / "gone").n_moved == 1
    assert tree(data) == {"a/2.png": "a/2.png"}


def test_a_disk_that_is_full_loses_nothing(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def rename(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    before = tree(data)
    monkeypatch.setattr(keep_drop.os, "rename", rename)
    monkeypatch.setattr(keep_drop.shutil, "copy2", full)
    with pytest.raises(OSError, match=r"No space left.*gone"):  # once, not for every file
        apply_list(LINES, data, tmp_path / "gone")
    assert tree(data) == before


def test_a_full_disk_does_not_rename_the_edited_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "list.csv").write_text("edited")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write_list([], "/r", tmp_path / "list.csv")
    assert tree(tmp_path) == {"list.csv": "edited"}
    assert tree(tmp_path / "gone") == {}


@pytest.mark.parametrize("name", ["../out/1.png", "a/../../out/1.png", "/etc/1.png", "C:\\1.png", "\\\\host\\1.png"])
def test_names_that_leave_the_dataset(data: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "1.png").write_text("out")
    before = tree(tmp_path)
    with pytest.raises(DatasetError, match="leads out of the dataset; nothing was moved"):
        apply_list([*LINES, (True, name)], data, tmp_path / "gone")
    assert tree(tmp_path) == before


def test_links_are_not_followed_out(data: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "1.png").write_text("out")
    (data / "linked").symlink_to(tmp_path / "out")
    (data / "a" / "link.png").symlink_to(tmp_path / "out" / "1.png")
    before = tree(tmp_path)
    for name in ("linked/1.png", "a/link.png"):
        with pytest.raises(DatasetError, match="symbolic link"):
            apply_list([*LINES, (True, name)], data, tmp_path / "gone")
    assert tree(tmp_path) == before


def test_unknown_files_are_reported_and_the_rest_moves(data: Path, tmp_path: Path) -> None:
    applied = apply_list([(True, "a/9.png"), (False, "nobody/1.png"), *LINES], data, tmp_path / "gone")
    assert applied.unknown == ("a/9.png", "nobody/1.png")
    assert applied.n_moved == 2


def test_dropped_files_must_not_stay_in_the_dataset(data: Path) -> None:
    for place in (data, data / "dropped", data / "a"):
        with pytest.raises(DatasetError, match="must not be inside the dataset"):
            apply_list(LINES, data, place)
    assert len(tree(data)) == 3


def test_inside_follows_links(data: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(data)
    assert inside(str(tmp_path / "link" / "new"), str(data))
    assert not inside(str(tmp_path), str(data))


def test_a_relative_name_has_slashes() -> None:
    assert relative(os.path.join("data", "a", "1.png"), "data") == "a/1.png"
    assert relative(os.path.join("data", "a", "1.png"), os.path.join("data", "b", "")) == "../a/1.png"


def test_a_list_that_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "action,file\ndrop,a/1.png\n")
    monkeypatch.setattr(keep_drop, "_MAX_BYTES", path.stat().st_size)
    assert read_list(path) == [(True, "a/1.png")]
    monkeypatch.setattr(keep_drop, "_MAX_BYTES", path.stat().st_size - 1)
    with pytest.raises(DatasetError, match="too large"):
        read_list(path)


def test_files_with_equal_escaped_names_are_left(data: Path, tmp_path: Path) -> None:
    for name in ("c\n.png", "c\\n.png"):  # a line break in one, a backslash and an n in the other
        (data / "a" / name).write_text(name)
    applied = apply_list([*LINES, (True, "a/c\\n.png")], data, tmp_path / "gone")
    assert applied.n_moved == 2
    assert [file for file, _ in applied.failed] == ["a/c\\n.png"]
    assert len(tree(data / "a")) == 3


def test_a_folder_that_is_not_empty_is_kept(data: Path, tmp_path: Path) -> None:
    (data / "b" / "notes.txt").write_text("no image")
    with pytest.warns(LeftOutWarning, match=r"1 file that is not a photo \(b/notes\.txt\)"):
        apply_list(LINES, data, tmp_path / "gone")
    assert tree(data) == {"a/2.png": "a/2.png", "b/notes.txt": "no image"}


def test_progress_counts_the_files_to_move(data: Path, tmp_path: Path) -> None:
    seen: list[object] = []

    def progress(items: Iterable[str], total: int, what: str) -> Iterator[str]:
        seen.extend((total, what))
        for item in items:
            seen.append(item)
            yield item

    apply_list([*LINES, (True, "a/9.png")], data, tmp_path / "gone", progress=progress)
    assert seen == [2, "moving", "a/1.png", "b/1.png"]


def test_a_missing_dataset(tmp_path: Path) -> None:
    with pytest.raises(DatasetError):
        apply_list(LINES, tmp_path / "nowhere", tmp_path / "gone")
    assert not (tmp_path / "gone").exists()


def test_random_lists_move_what_they_drop_and_lose_nothing(tmp_path: Path) -> None:
    for seed in range(10):
        random = np.random.default_rng(seed)
        root, gone = tmp_path / f"data {seed}", tmp_path / f"gone {seed}"
        files = {f"p{k % 4}/{k}.png": f"{seed} {k}" for k in range(12)}
        for name, content in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(content)
        lines = [(bool(random.random() < 0.5), name) for name in random.permutation(list(files))[: 3 + seed].tolist()]
        dropped = {name for drop, name in lines if drop}
        applied = apply_list(lines, root, gone)
        assert (applied.n_moved, applied.n_kept) == (len(dropped), len(lines) - len(dropped))
        assert tree(gone) == {name: content for name, content in files.items() if name in dropped}
        assert tree(root) == {name: content for name, content in files.items() if name not in dropped}
