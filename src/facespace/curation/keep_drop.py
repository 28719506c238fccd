"""The list of files to keep and to drop: proposed from findings, edited by a person, applied by moving files.

`keep_drop.csv` has a line for each file: `action,file,reason,other,score`. Applying the list uses only action and file.
Files are relative to the dataset's folder, with slashes, escaped as by `plain_text`; a name that a spreadsheet could
interpret as a formula gets the prefix `./`.
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
    """The proposal for one file: whether to drop it, the reason, the other file or person concerned, and a score or None."""

    path: str
    drop: bool
    reason: str = ""
    other: str = ""
    score: float | None = None


@dataclass(slots=True)
class Applied:
    """The result of applying a list: how many files were kept, moved now, and moved by an earlier call.

    `unknown` are listed files that the dataset does not have; `failed` are (file, reason) of files that were not moved.
    """

    n_kept: int = 0
    n_moved: int = 0
    n_moved_before: int = 0
    unknown: tuple[str, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()


def propose(findings: Findings) -> list[Proposal]:
    """Return a proposal for each file of a dataset, in order of path. A file is dropped for the first reason that applies:

    `unreadable` · `person in evaluation set` (the whole identity) · `image in evaluation set` · `wrong label` ·
    `copy in other identity` (the copy that fits its identity worse, unless one of the two is already dropped) ·
    `exact copy`, except the first · `too few images` left in the identity. Files are kept but marked for inspection for
    two reasons: `near copy` of an earlier image of the identity, and `same name in evaluation set` for people who look
    different.
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
    return own if own == own else -2.0  # NaN for the only image of an identity


def _file(findings: Findings, index: int) -> str:
    return relative(findings.images.paths[index], findings.root)


def relative(path: str, root: str) -> str:
    """Return a path as lists of files give it: relative to `root`, with slashes, but not yet escaped."""
    return os.path.relpath(path, root).replace(os.sep, "/")


def write_list(proposals: Iterable[Proposal], root: str, path: Path) -> None:
    """Write `keep_drop.csv`, UTF-8 with a byte order mark for spreadsheets; if a different list exists, rename it."""
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
        if path.is_file() and path.read_bytes() != data:  # only after the new list has been written
            number = 1
            while os.path.lexists(before := path.with_name(f"{path.stem}-{number}{path.suffix}")):
                number += 1
            os.rename(path, before)


def _cell(text: str) -> str:
    plain = plain_text(text)
    return f"./{plain}" if plain.startswith(_FORMULA) else plain


def read_list(path: Path) -> list[tuple[bool, str]]:
    """Read an edited list; return (whether to drop the file, file as written) for each file.

    The list may be in any form that spreadsheets write: separated by commas, semicolons or tabs, with any line ends, in
    UTF-8 with or without a byte order mark or in UTF-16 with one. It must have the columns action and file, in any
    order, and may have other columns and empty lines. Raises `DatasetError` for any other content, for an action that
    is neither keep nor drop, and for a file with both actions.
    """
    name = plain_text(str(path))
    if not path.is_file():
        raise DatasetError(f"{name}: no such file")
    if path.stat().st_size > _MAX_BYTES:
        raise DatasetError(f"{name}: too large for a list of files to keep and drop")
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
            raise DatasetError(f"{name}: the first line must have the columns action and file, got {header[:6]}")
        action_at, file_at = header.index("action"), header.index("file")
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            action = row[action_at].strip().lower() if action_at < len(row) else ""
            file = row[file_at].removeprefix("./") if file_at < len(row) else ""
            if action not in ("keep", "drop") or not file:
                got = plain_text(repr(action if file else file))
                raise DatasetError(f"{name}: line {rows.line_num}: must be keep or drop, and a file, got {got}")
            if actions.setdefault(file, action == "drop") != (action == "drop"):
                raise DatasetError(f"{name}: line {rows.line_num}: {plain_text(file)} is both kept and dropped")
    except csv.Error as error:
        raise DatasetError(f"{name}: line {rows.line_num}: not CSV ({error})") from None
    return [(drop, file) for file, drop in actions.items()]


def apply_list(
    lines: Sequence[tuple[bool, str]],
    root: str | os.PathLike[str],
    moved_to: str | os.PathLike[str],
    *,
    progress: Callable[[Iterable[Any], int, str], Iterator[Any]] = lambda items, _total, _what: iter(items),
) -> Applied:
    """Move the files that `lines` drop from the class folders of `root` to folders of the same names in `moved_to`.

    Files that an earlier call moved are only counted. A file stays and is reported if `moved_to` has a different file
    of that name, if several files have its escaped name, or if it is not an image of the dataset. A class folder that
    becomes empty is removed, because it would be a class without images. Raises `DatasetError` before anything is moved
    if a name leads out of `root`, also through links, or if `moved_to` is inside `root`.
    """
    root, moved_to = os.fspath(root), os.fspath(moved_to)
    if inside(moved_to, root):
        raise DatasetError(f"{plain_text(moved_to)}: the folder for dropped files must not be inside the dataset")
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
            failed.append((file, "several files have this escaped name; move them by hand"))
            continue
        try:
            _move(os.path.join(root, here[file][0]), os.path.join(moved_to, here[file][0]))
            applied.n_moved += 1
        except OSError as error:
            if error.errno in FULL:  # the other files would fail too
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
    """Return whether a path is a folder or inside it, after following links.

    >>> inside("/a/b/../b/c", "/a/b"), inside("/a/bc", "/a/b")
    (True, False)
    """
    real, outer = os.path.realpath(path), os.path.realpath(folder)
    return real == outer or real.startswith(os.path.join(outer, ""))


def _files(root: str) -> dict[str, list[str]]:
    """Return the images in class folders as {escaped name as in a list: paths relative to `root`}."""
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
    """Return True, or raise `DatasetError` if a name leads out of the dataset; does not access the file system."""
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
    """Move one file. If an interrupted move left a complete copy at `target`, only remove `source`.

    Raises `FileExistsError` if `target` is another file, and other `OSError` if the move fails.
    """
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.lexists(target):
        same = os.path.isfile(target) and not os.path.samefile(source, target)
        if not (same and filecmp.cmp(source, target, shallow=False)):
            raise FileExistsError(errno.EEXIST, "another file of this name was moved before; this one is not moved")
        os.unlink(source)
        return
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:  # EXDEV: the target is on another file system
            raise
        with atomic_path(Path(target)) as copy:
            shutil.copy2(source, copy)
            if not filecmp.cmp(source, copy, shallow=False):
                raise OSError(errno.EIO, "the copy differs from the file") from None
        os.unlink(source)
