"""The report of the dataset doctor, its proposals, and the list carried out: files move, none is lost."""

from __future__ import annotations

import csv
import errno
import html.parser
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facespace.curation import keep_drop as dataset_apply
from facespace.curation.checker import Findings, Shared, wrong_labels
from facespace.curation.duplicates import Copy
from facespace.curation.images import Images
from facespace.curation.keep_drop import Proposal, apply_list, inside, propose, read_list, write_list
from facespace.curation.report import as_json, write_report
from facespace.errors import DatasetError

EVIL = "<img src=x onerror=alert(1)>"


def images_of(root: Path, people: dict[str, int], first: int = 0) -> Images:
    """Pictures of plain colour, one folder a person; all embeddings of a person are equal."""
    paths, labels = [], []
    for label, (name, n) in enumerate(sorted(people.items())):
        (root / name).mkdir(parents=True)
        for number in range(n):
            path = root / name / f"{number}.png"
            Image.new("RGB", (8, 8), (first + label, number, 99)).save(path)
            paths.append(str(path))
            labels.append(label)
    n = len(paths)
    return Images(
        names=tuple(sorted(people)), paths=tuple(paths), labels=np.array(labels),
        embeddings=np.eye(16, dtype=np.float32)[np.array(labels) + first], thumbnails=np.zeros((n, 24, 24), np.uint8),
        digests=tuple(b"%d" % i for i in range(n)), sizes=np.full((n, 2), 8), unreadable=(), faceless=(),
        prepared={"the central 160 px of 182 px crops": n},
    )  # fmt: skip


@pytest.fixture
def findings(tmp_path: Path) -> Findings:
    """Each kind of finding: of a 6, b 5, c 3, d 2 (one damaged), of x 4 images."""
    root = tmp_path / "data"
    images = images_of(root, {"a": 6, "b": 5, "c": 3, "d": 1, EVIL: 4})
    assert images.names == (EVIL, "a", "b", "c", "d")  # images 0–3, 4–9, 10–14, 15–17, 18
    (root / "d" / "bad.png").write_bytes(b"?")
    object.__setattr__(images, "unreadable", ((4, str(root / "d" / "bad.png"), "not <an> image"),))
    labels = wrong_labels(images.embeddings, images.labels, 5)
    labels.far[4] = True  # a/0
    labels.nearest[4] = 2
    labels.own[[5, 12]] = 0.4, 0.9  # a/1 fits worse than b/2, its copy
    labels.same_people.append((0, 2, 0.97))
    evaluation = images_of(tmp_path / "evaluation", {"C.": 2, "D": 1}, first=8)
    return Findings(
        root=str(root), model="net", images=images, groups=np.arange(19), labels=labels, min_images=2,
        copies=[Copy(6, 7, True, 1, 1), Copy(8, 9, False, 0.97, 0.9), Copy(5, 12, True, 1, 1), Copy(4, 14, True, 1, 1)],
        against=str(tmp_path / "evaluation"), evaluation=evaluation,
        shared=[Shared(3, 0, 0.8, 0.7, False), Shared(4, 1, 0.1, 0.7, True)],
        shared_copies=[Copy(1, 10, True, 1, 1)],
    )  # fmt: skip


def by_name(findings: Findings) -> dict[str, Proposal]:
    return {os.path.relpath(proposal.path, findings.root): proposal for proposal in propose(findings)}


def test_what_is_proposed(findings: Findings) -> None:
    proposals = by_name(findings)
    assert len(proposals) == 20
    said = {name: (p.drop, p.reason, p.other) for name, p in proposals.items() if p.reason}
    assert said == {
        "d/bad.png": (True, "unreadable", "not <an> image"),
        "a/0.png": (True, "wrong label", "b"),
        "a/3.png": (True, "exact copy", "a/2.png"),
        "a/5.png": (False, "near copy", "a/4.png"),
        "a/1.png": (True, "copy in other identity", "b/2.png"),  # and b/4, whose copy a/0 goes anyway, stays
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


class Page(html.parser.HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.sources: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not [name for name, _ in attributes if name.startswith("on")]
        if tag not in ("img", "meta"):
            self.open.append(tag)
        self.sources += [value or "" for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_whole_and_self_contained(findings: Findings, tmp_path: Path) -> None:
    write_report(findings, tmp_path / "report")
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == [
        "keep_drop.csv", "report.html", "report.json",
    ]  # fmt: skip
    page = Page((tmp_path / "report" / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert page.sources
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
    for text in (
        EVIL,
        "not <an> image",
        "the central 160 px of 182 px crops",
        "20images",
        "One person under two names",
    ):
        assert text in page.text, text
    assert "Images of the evaluation set 1" in page.text


def test_a_page_without_findings(tmp_path: Path) -> None:
    images = images_of(tmp_path / "data", {"a": 3, "b": 3})
    labels = wrong_labels(images.embeddings, images.labels, 2)
    clean = Findings(str(tmp_path / "data"), "net", images, [], np.arange(6), labels, 2, None, None, [], [])
    proposals = write_report(clean, tmp_path / "report")
    assert not any(proposal.drop or proposal.reason for proposal in proposals)
    page = Page((tmp_path / "report" / "report.html").read_text(encoding="utf-8"))
    assert "evaluation set" not in page.text
    assert page.tags.count("img") == 0


def test_the_json_has_the_same_facts(findings: Findings) -> None:
    report = json.loads(json.dumps(as_json(findings, propose(findings)), allow_nan=False))
    assert report["counts"] == {
        "images": 20, "identities": 5, "proposed to drop": 9, "unreadable": 1, "likely wrong labels": 1,
        "copies in another identity": 2, "exact copies": 1, "near copies": 1, "one person, two names": 1,
        "too small identities": 1, "people in evaluation set": 1, "images in evaluation set": 1,
    }  # fmt: skip
    assert report["unreadable"] == [{"file": "d/bad.png", "reason": "not <an> image"}]
    assert [(w["file"], w["nearest"], w["far"], w["closer"]) for w in report["wrong_labels"]] == [
        ("a/0.png", "b", True, False)
    ]
    assert [(c["file"], c["other"]) for c in report["copies_across"]] == [
        ("b/2.png", "a/1.png"),
        ("b/4.png", "a/0.png"),
    ]
    assert [(c["file"], c["exact"]) for c in report["copies_within"]] == [("a/3.png", True), ("a/5.png", False)]
    assert report["same_people"] == [{"name": EVIL, "other": "b", "similarity": 0.97}]
    assert report["small_identities"] == [{"name": "d", "images": 2, "left": 1}]
    assert [(s["name"], s["other"], s["match"]) for s in report["shared_people"]] == [
        ("c", "C.", True),
        ("d", "D", False),
    ]
    assert [(c["file"], c["other"]) for c in report["shared_images"]] == [("b/0.png", "C./1.png")]


def test_names_no_text_can_hold(tmp_path: Path) -> None:
    images = images_of(tmp_path / "data", {"caf\udce9\n": 2})
    labels = wrong_labels(images.embeddings, images.labels, 1)
    labels.far[0] = True
    odd = Findings(str(tmp_path / "data"), "net", images, [], np.arange(2), labels, 2, None, None, [], [])
    write_report(odd, tmp_path / "report")
    assert "caf\\xe9\\n/0.png" in (tmp_path / "report" / "report.json").read_text().replace("\\\\", "\\")
    lines = read_list(tmp_path / "report" / "keep_drop.csv")
    assert apply_list(lines, tmp_path / "data", tmp_path / "gone").n_moved == 2
    assert (tmp_path / "gone" / "caf\udce9\n" / "1.png").is_file()


# The list


def write(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "list.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_the_list_comes_back(findings: Findings, tmp_path: Path) -> None:
    write_list(propose(findings), findings.root, tmp_path / "list.csv")
    assert (tmp_path / "list.csv").read_bytes().startswith(b"\xef\xbb\xbfaction,file,reason,other,score\r\n")
    expected = [(p.drop, os.path.relpath(p.path, findings.root)) for p in propose(findings)]
    assert read_list(tmp_path / "list.csv") == expected
    with open(tmp_path / "list.csv", encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["score"] for row in rows if row["file"] == "c/0.png"] == ["0.8000"]


def test_no_cell_is_a_formula(tmp_path: Path) -> None:
    proposals = [Proposal(f"/r/{name}/1.png", True, "wrong label", name) for name in ("=1+1", "+a", "-b", "@c", "d")]
    write_list(proposals, "/r", tmp_path / "list.csv")
    with open(tmp_path / "list.csv", encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["other"] for row in rows] == ["./=1+1", "./+a", "./-b", "./@c", "d"]
    assert [row["file"][0] for row in rows] == [".", ".", ".", ".", "d"]
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
def test_what_spreadsheets_write(tmp_path: Path, data: bytes) -> None:
    assert read_list(write(tmp_path, data)) == [(True, "a/1.png"), (False, "b/é 2.png")]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("", "wants the columns action and file"),
        ("file,reason\na/1.png,x\n", "wants the columns action and file"),
        ("action,file\ndrop,a/1.png\nmaybe,b/2.png\n", "line 3: wants keep or drop, and a file; got 'maybe'"),
        ("action,file\ndrop,\n", "line 2: wants keep or drop"),
        ("action,file\ndrop\n", "line 2: wants keep or drop"),
        ("action,file\ndrop,a/1.png\nkeep,./a/1.png\n", "a/1.png is both to keep and to drop"),
        (b"action,file\ndrop,caf\xe9/1.png\n", "not UTF-8"),
        ('action,file\ndrop,"a/1.png\n', "no CSV"),
    ],
)
def test_lists_that_are_refused(tmp_path: Path, data: str | bytes, said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        read_list(write(tmp_path, data))
    with pytest.raises(DatasetError, match="no such file"):
        read_list(tmp_path / "missing.csv")


# Carrying it out


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


def test_files_move_and_none_is_deleted(data: Path, tmp_path: Path) -> None:
    applied = apply_list(LINES, data, tmp_path / "gone")
    assert (applied.n_moved, applied.n_kept, applied.n_moved_before) == (2, 1, 0)
    assert (applied.unknown, applied.failed) == ((), ())
    assert tree(data) == {"a/2.png": "a/2.png"}
    assert tree(tmp_path / "gone") == {"a/1.png": "a/1.png", "b/1.png": "b/1.png"}
    assert not (data / "b").exists()

    again = apply_list(LINES, data, tmp_path / "gone")
    assert (again.n_moved, again.n_moved_before, again.unknown, again.failed) == (0, 2, (), ())


def test_everything_may_be_dropped_and_asked_again(data: Path, tmp_path: Path) -> None:
    everything = [(True, name) for name in tree(data)]
    assert apply_list(everything, data, tmp_path / "gone").n_moved == 3
    assert apply_list(everything, data, tmp_path / "gone").n_moved_before == 3
    assert len(tree(tmp_path / "gone")) == 3


def test_what_is_there_is_not_overwritten(data: Path, tmp_path: Path) -> None:
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
    monkeypatch.setattr(dataset_apply.os, "rename", rename)
    assert apply_list(LINES, data, tmp_path / "gone").n_moved == 2
    assert tree(tmp_path / "gone") == {"a/1.png": "a/1.png", "b/1.png": "b/1.png"}
    assert tree(data) == {"a/2.png": "a/2.png"}
    assert (tmp_path / "gone" / "a" / "1.png").stat().st_mtime == 1e9

    # Cut short between copying and removing, and run again.
    (data / "a" / "1.png").write_text("a/1.png")
    assert apply_list(LINES, data, tmp_path / "gone").n_moved == 1
    assert tree(data) == {"a/2.png": "a/2.png"}


def test_a_disk_that_is_full_loses_nothing(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def rename(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    before = tree(data)
    monkeypatch.setattr(dataset_apply.os, "rename", rename)
    monkeypatch.setattr(dataset_apply.shutil, "copy2", full)
    applied = apply_list(LINES, data, tmp_path / "gone")
    assert [reason for _, reason in applied.failed] == ["No space left on device"] * 2
    assert tree(data) == before
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


def test_the_dropped_do_not_stay_in_the_dataset(data: Path) -> None:
    for place in (data, data / "dropped", data / "a"):
        with pytest.raises(DatasetError, match="must not lie inside the dataset"):
            apply_list(LINES, data, place)
    assert len(tree(data)) == 3


def test_inside_follows_links(data: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(data)
    assert inside(str(tmp_path / "link" / "new"), str(data))
    assert not inside(str(tmp_path), str(data))
