"""The list of files to keep and to drop: proposed from findings, edited by a person, carried out by moving files.

`keep_drop.csv` has a line for each file: `action,file,reason,other,score`. Only the first two count when it is carried
out. Files are named from the dataset's folder on, with slashes, escaped as `plain_text` does; a name that a
spreadsheet could take for a formula gets a `./` in front.
"""

from __future__ import annotations

import csv
import errno
import filecmp
import io
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from facespace.curation.checker import Findings
from facespace.datasets.formats.class_folders import read_class_folders
from facespace.errors import DatasetError
from facespace.io.files import FULL, atomic_path
from facespace.io.text import plain_text

_COLUMNS = ("action", "file", "reason", "other", "score")
_MAX_BYTES = 2_000_000_000
_FORMULA = ("=", "+", "-", "@", "'")


@dataclass(frozen=True, slots=True)
class Proposal:
    """What to do with one file: its path, `drop` or keep, why, with regard to what other, and how sure (or None)."""

    path: str
    drop: bool
    reason: str = ""
    other: str = ""
    score: float | None = None


@dataclass(slots=True)
class Applied:
    """What became of a list: numbers of files, the lines whose file is unknown, and (file, reason) of failures."""

    n_kept: int = 0
    n_moved: int = 0
    n_moved_before: int = 0
    unknown: tuple[str, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()


def propose(findings: Findings) -> list[Proposal]:
    """What to do with each file of a dataset, in order of path. The first reason that holds counts:

    `unreadable` · `person in evaluation set` (the whole identity) · `image in evaluation set` · `wrong label` ·
    `copy in other identity`: of two, the one that fits its identity worse, unless the other is dropped already ·
    `exact copy` but the first · `too few images` left in the identity. Kept, but with a reason to look:
    `near copy`, of an earlier image of the identity, and `same name in evaluation set`, of people who look different.
    """
    images, labels = findings.images, findings.labels
    found = {path: Proposal(path, True, "unreadable", reason) for _, path, reason in images.unreadable}

    def drop(index: int, reason: str, other: str, score: float | None) -> None:
        path = images.paths[index]
        if path not in found or not found[path].drop:
            found[path] = Proposal(path, True, reason, other, score)

    def note(index: int, reason: str, other: str, score: float) -> None:
        found.setdefault(images.paths[index], Proposal(images.paths[index], False, reason, other, score))

    members: dict[int, list[int]] = {}
    for index, label in enumerate(images.labels.tolist()):
        members.setdefault(label, []).append(index)
    if findings.evaluation is not None:
        people = findings.evaluation.names
        for shared in findings.shared:
            for index in members.get(shared.first, []):
                if shared.is_match:
                    drop(index, "person in evaluation set", people[shared.second], shared.similarity)
                else:
                    note(index, "same name in evaluation set", people[shared.second], shared.similarity)
        for copy in findings.shared_copies:
            theirs = relative(findings.evaluation.paths[copy.first], str(findings.against))
            drop(copy.second, "image in evaluation set", theirs, copy.similarity)
    for index in labels.wrong.nonzero()[0].tolist():
        nearest = int(labels.nearest[index])
        drop(index, "wrong label", images.names[nearest] if nearest >= 0 else "", float(labels.own[index]))
    dropped = {index for index, path in enumerate(images.paths) if path in found and found[path].drop}
    for copy in findings.copies:
        pair = (copy.first, copy.second)
        if images.labels[copy.first] != images.labels[copy.second] and not dropped.intersection(pair):
            worse, better = sorted(pair, key=lambda index: (_fit(findings, index), -index))
            drop(worse, "copy in other identity", _file(findings, better), copy.similarity)
            dropped.add(worse)
    for copy in findings.copies:
        if images.labels[copy.first] == images.labels[copy.second]:
            other = _file(findings, copy.first)
            if copy.exact:
                drop(copy.second, "exact copy", other, copy.similarity)
            else:
                note(copy.second, "near copy", other, copy.similarity)
    for indices in members.values():
        left = [i for i in indices if images.paths[i] not in found or not found[images.paths[i]].drop]
        if len(left) < findings.min_images:
            for index in left:
                drop(index, "too few images", "", len(left))
    paths = sorted([*images.paths, *(path for _, path, _ in images.unreadable)])
    return [found.get(path, Proposal(path, False)) for path in paths]


def _fit(findings: Findings, index: int) -> float:
    own = float(findings.labels.own[index])
    return own if own == own else -2.0  # an image alone in its identity speaks for nobody


def _file(findings: Findings, index: int) -> str:
    return relative(findings.images.paths[index], findings.root)


def relative(path: str, root: str) -> str:
    """The name of a file in a list: from `root` on, with slashes; not yet escaped."""
    return os.path.relpath(path, root).replace(os.sep, "/")


def write_list(proposals: Iterable[Proposal], root: str, path: Path) -> None:
    """Write `keep_drop.csv`, UTF-8 with the mark by which spreadsheets know it; an edited one is kept beside it."""
    text = io.StringIO()
    lines = csv.writer(text)
    lines.writerow(_COLUMNS)
    for proposal in proposals:
        score = "" if proposal.score is None else f"{proposal.score:.4f}"
        name = _cell(relative(proposal.path, root))
        lines.writerow(["drop" if proposal.drop else "keep", name, proposal.reason, _cell(proposal.other), score])
    data = text.getvalue().encode("utf-8-sig")
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
        if path.is_file() and path.read_bytes() != data:  # not before there is a new one
            number = 1
            while os.path.lexists(before := path.with_name(f"{path.stem}-{number}{path.suffix}")):
                number += 1
            os.rename(path, before)


def _cell(text: str) -> str:
    plain = plain_text(text)
    return f"./{plain}" if plain.startswith(_FORMULA) else plain


def read_list(path: Path) -> list[tuple[bool, str]]:
    """The lines of an edited list: (whether to drop, file as written).

    Takes what spreadsheets write: commas, semicolons or tabs, any line ends, UTF-8 with or without its mark, UTF-16
    with it; columns in any order, more of them, empty lines. Raises `DatasetError` for anything else, for an action
    that is neither keep nor drop, and for a file with both.
    """
    name = plain_text(str(path))
    if not path.is_file():
        raise DatasetError(f"{name}: no such file")
    if path.stat().st_size > _MAX_BYTES:
        raise DatasetError(f"{name}: no list of files to keep and drop (it is too long)")
    data = path.read_bytes()
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        raise DatasetError(f"{name}: not UTF-8; save it from the spreadsheet as “CSV UTF-8”") from None
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    actions: dict[str, bool] = {}
    try:
        header = [cell.strip().lower() for cell in next(rows, [])]
        if "action" not in header or "file" not in header:
            raise DatasetError(f"{name}: the first line wants the columns action and file; got {header[:6]}")
        action_at, file_at = header.index("action"), header.index("file")
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            action = row[action_at].strip().lower() if action_at < len(row) else ""
            file = row[file_at].removeprefix("./") if file_at < len(row) else ""
            if action not in ("keep", "drop") or not file:
                said = plain_text(repr(action if file else file))
                raise DatasetError(f"{name}: line {rows.line_num}: wants keep or drop, and a file; got {said}")
            if actions.setdefault(file, action == "drop") != (action == "drop"):
                raise DatasetError(f"{name}: line {rows.line_num}: {plain_text(file)} is both to keep and to drop")
    except csv.Error as error:
        raise DatasetError(f"{name}: line {rows.line_num}: no CSV ({error})") from None
    return [(drop, file) for file, drop in actions.items()]


def apply_list(
    lines: Sequence[tuple[bool, str]],
    root: str | os.PathLike[str],
    moved_to: str | os.PathLike[str],
    *,
    progress: Callable[[Iterable[Any], int, str], Iterator[Any]] = lambda items, _total, _what: iter(items),
) -> Applied:
    """Move the files of `root` that are to be dropped into the same class folders of `moved_to`.

    A file that was moved before is counted; one whose place is taken by another is left and reported, as is a name
    that is no image of the dataset. A class folder that has become empty is removed, for it would be a class without
    images. Raises `DatasetError`, with nothing moved, for a name that leads out of `root`, by links too, and when
    `moved_to` lies in `root`.
    """
    root, moved_to = os.fspath(root), os.fspath(moved_to)
    if inside(moved_to, root):
        raise DatasetError(f"{plain_text(moved_to)}: the folder for dropped files must not lie inside the dataset")
    here, there = _files(root), _files(moved_to) if os.path.isdir(moved_to) else {}
    applied = Applied(n_kept=sum(not drop for drop, _ in lines))
    unknown = [file for _, file in lines if file not in here and file not in there and _stays_inside(file)]
    todo = [file for drop, file in lines if drop and file in here]
    applied.n_moved_before = sum(drop and file not in here and file in there for drop, file in lines)
    for file in todo:
        if len(here[file]) == 1:
            _check_no_link(root, here[file][0])
    failed = []
    for file in progress(todo, len(todo), "moving"):
        if len(here[file]) > 1:
            failed.append((file, "several files are written like this; move them by hand"))
            continue
        try:
            _move(os.path.join(root, here[file][0]), os.path.join(moved_to, here[file][0]))
            applied.n_moved += 1
        except OSError as error:
            if error.errno in FULL:  # nor is there room for the others
                raise
            failed.append((file, error.strerror or str(error)))
    for folder in {os.path.dirname(here[file][0]) for file in todo}:
        with os.scandir(os.path.join(root, folder)) as entries:
            is_empty = next(entries, None) is None
        if is_empty:
            os.rmdir(os.path.join(root, folder))
    applied.unknown, applied.failed = tuple(unknown), tuple(failed)
    return applied


def inside(path: str, folder: str) -> bool:
    """Whether a path is a folder or lies in it, all links followed.

    >>> inside("/a/b/../b/c", "/a/b"), inside("/a/bc", "/a/b")
    (True, False)
    """
    real, outer = os.path.realpath(path), os.path.realpath(folder)
    return real == outer or real.startswith(os.path.join(outer, ""))


def _files(root: str) -> dict[str, list[str]]:
    """The images of class folders: name as a list writes it → paths from `root` on."""
    try:
        folders = read_class_folders(root)
    except DatasetError:
        if os.path.isdir(root):  # every folder may have been moved
            return {}
        raise
    files: dict[str, list[str]] = {}
    for _, paths in folders:
        for path in paths:
            files.setdefault(plain_text(relative(path, root)), []).append(os.path.relpath(path, root))
    return files


def _stays_inside(file: str) -> bool:
    """True; `DatasetError` for a name that leads out of the dataset, before anything is looked up."""
    windows, posix = PureWindowsPath(file), PurePosixPath(file)
    if posix.is_absolute() or windows.drive or windows.root or ".." in windows.parts:
        raise DatasetError(f"{plain_text(file)}: leads out of the dataset; nothing was moved")
    return True


def _check_no_link(root: str, file: str) -> None:
    for path in (os.path.join(root, os.path.dirname(file)), os.path.join(root, file)):
        if os.path.islink(path):
            raise DatasetError(
                f"{plain_text(path)}: a symbolic link, which may lead out of the dataset; nothing was moved"
            )


def _move(source: str, target: str) -> None:
    """Move one file; an existing target stays as it is, unless it is this file, whole, from a move cut short."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.lexists(target):
        same = os.path.isfile(target) and not os.path.samefile(source, target)
        if not (same and filecmp.cmp(source, target, shallow=False)):
            raise FileExistsError(errno.EEXIST, "another file of this name was moved before; it is left where it is")
        os.unlink(source)
        return
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:  # any other reason than another file system
            raise
        with atomic_path(Path(target)) as copy:
            shutil.copy2(source, copy)
            if not filecmp.cmp(source, copy, shallow=False):
                raise OSError(errno.EIO, "the copy differs from the file") from None
        os.unlink(source)
