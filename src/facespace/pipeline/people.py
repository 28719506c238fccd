"""Reads class folders of people into names and embeddings; embeddings that are already known by content are reused."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from facespace.datasets.formats.class_folders import read_class_folders
from facespace.detection.factory import create_detector
from facespace.detection.protocol import Detector
from facespace.embedding.embedder import Embedder
from facespace.errors import ImageError
from facespace.faces.crops import fit, holds_crops
from facespace.faces.portraits import portrait
from facespace.io import image
from facespace.io.checksums import sha256_or_error
from facespace.io.prefetch import map_ahead
from facespace.io.text import clean_name, plain_text
from facespace.pipeline.photos import process

Progress = Callable[[Iterable[Any], int, str], Iterator[Any]]
Embeddings = npt.NDArray[np.float32]

_CROP, _PHOTO = "crop:", "photo:"  # prefixes of digests
_BATCH = 64
_READ_AHEAD = 8
_THREADS = 2


@dataclass(frozen=True, slots=True, eq=False)
class People:
    """The N faces of class folders, one per file, in order of name and file.

    `names` (N,) are the people's names, `embeddings` (N,D) come from `Embedder.represent`, `digests` (N,) are SHA-256
    of the files, prefixed with how they were read, and `paths` (N,) the files. `failed` lists (path, reason) of files
    that gave no face, `without` the people without any face, and `copies` (path, earlier path with the same content).
    `n_known` faces were not computed again. `prepared` counts how crops were brought to the model's size, keyed by a
    description.
    """

    names: tuple[str, ...]
    embeddings: Embeddings
    digests: tuple[str, ...]
    paths: tuple[str, ...]
    failed: tuple[tuple[str, str], ...]
    without: tuple[str, ...]
    copies: tuple[tuple[str, str], ...]
    n_known: int
    prepared: dict[str, int]


def read_people(
    root: str | os.PathLike[str],
    embedder: Embedder,
    *,
    detector: Detector | None = None,
    aligned: bool = False,
    known: Mapping[str, Embeddings] | None = None,
    only: Container[str] | None = None,
    progress: Progress,
) -> People:
    """Read class folders of crops, or of photos, whose largest face is used.

    `detector` finds the faces of photos and defaults to the one that the model's crops come from. `known` maps digests
    of files to embeddings (D,) of the same model; these files are not embedded again. `only`, if given, contains the
    paths of the files to read. A file with the same content as an earlier file of the same person is left out. Raises
    `DatasetError` if there are no class folders, or if the crops do not fit the model.
    """
    crops = holds_crops(root, embedder.spec, aligned=aligned)
    folders = [(clean_name(plain_text(name)), files) for name, files in read_class_folders(root)]
    listed = [(name, path) for name, files in folders for path in files if only is None or path in only]
    kind = _CROP if crops else _PHOTO
    known = known or {}
    failed: list[tuple[str, str]] = []
    copies: list[tuple[str, str]] = []
    names, paths, digests = [], [], []
    first: dict[tuple[str, str], str] = {}
    hashed = map_ahead(sha256_or_error, (path for _, path in listed), threads=_THREADS, ahead=_READ_AHEAD)
    for (name, path), digest in zip(listed, hashed, strict=True):
        if isinstance(digest, OSError):
            failed.append((path, digest.strerror or str(digest)))
        elif (name, digest) in first:
            copies.append((path, first[name, digest]))
        else:
            first[name, digest] = path
            names.append(name)
            paths.append(path)
            digests.append(f"{kind}{digest}")
    new = [k for k, digest in enumerate(digests) if digest not in known]
    prepared: Counter[str] = Counter()
    found: dict[int, Embeddings] = {k: known[digests[k]] for k in range(len(paths)) if digests[k] in known}
    todo = [paths[k] for k in new]
    if crops:
        read = _read_crops(todo, embedder, prepared)
    else:
        read = _read_photos(todo, embedder, detector or create_detector(embedder.detector))
    for k, vector in zip(new, progress(read, len(new), "embedding"), strict=True):
        if isinstance(vector, str):
            failed.append((paths[k], vector))
        else:
            found[k] = vector
    kept = [k for k in range(len(paths)) if k in found]
    present = {names[k] for k in kept}
    return People(
        names=tuple(names[k] for k in kept),
        embeddings=np.stack([found[k] for k in kept]) if kept else np.empty((0, embedder.dimension), np.float32),
        digests=tuple(digests[k] for k in kept),
        paths=tuple(paths[k] for k in kept),
        failed=tuple(failed),
        without=tuple(sorted({name for name, _ in folders} - present)),
        copies=tuple(copies),
        n_known=len(paths) - len(new),
        prepared=dict(prepared.most_common()),
    )


def _read_crops(paths: list[str], embedder: Embedder, prepared: Counter[str]) -> Iterator[Embeddings | str]:
    """Yield the embedding (D,) of each file, or the reason why it has no embedding."""
    waiting: list[image.RGB | str] = []

    def embedded() -> Iterator[Embeddings | str]:
        pixels = [crop for crop in waiting if not isinstance(crop, str)]
        vectors = iter(embedder.represent(np.stack(pixels)) if pixels else ())
        for crop in waiting:
            yield crop if isinstance(crop, str) else next(vectors)
        waiting.clear()

    for pixels in map_ahead(_decode, paths, threads=_THREADS, ahead=_READ_AHEAD):
        if isinstance(pixels, str):
            waiting.append(pixels)
        else:
            crop, how = fit(pixels, embedder.spec.size)
            prepared[how] += 1
            waiting.append(crop)
        del pixels  # free it before the next one is decoded
        if len(waiting) == _BATCH:
            yield from embedded()
    yield from embedded()


def _decode(path: str) -> image.RGB | str:
    try:
        return image.read(path)
    except ImageError as error:
        return error.reason


def _read_photos(paths: list[str], embedder: Embedder, detector: Detector) -> Iterator[Embeddings | str]:
    """Yield the embedding (D,) of the largest face of each photo, or the reason why it has no embedding."""
    for photo in process(paths, detector, embedder, largest=True):
        yield photo.error or (photo.embeddings[0] if photo.faces else "no face found")


def portraits(
    people: People, templates: Mapping[str, npt.NDArray[Any]], detector: Detector, *, side: int
) -> dict[str, Image.Image]:
    """Return for each person in `templates` the picture of the face that is most similar to the person's template (D,).

    People without a face are left out. Pictures are at most `side` pixels wide and high. A crop is shown whole; a photo
    is cut around its largest face. Files that can no longer be read are skipped.
    """
    rows: dict[str, int] = {}
    best: dict[str, float] = {}
    for row, name in enumerate(people.names):
        if name in templates and (like := float(people.embeddings[row] @ templates[name])) > best.get(name, -np.inf):
            rows[name], best[name] = row, like
    photos = [name for name, row in rows.items() if people.digests[row].startswith(_PHOTO)]
    found = {}
    for name in rows.keys() - set(photos):
        with contextlib.suppress(ImageError):
            found[name] = Image.fromarray(image.read(people.paths[rows[name]]))
            found[name].thumbnail((side, side))
    looked_at = process([people.paths[rows[name]] for name in photos], detector, largest=True, keep_pixels=True)
    for name, photo in zip(photos, looked_at, strict=True):
        if photo.faces and photo.pixels is not None:
            found[name] = portrait(photo.pixels, photo.faces[0].box, side)
    return found


def split_people(
    names: Sequence[str], *, n_train: int | None, min_images: int, seed: int
) -> tuple[list[int], list[int], list[str]]:
    """Split rows into training and test rows person by person, and list the people with too few images.

    Returns (training rows, test rows, people left out). `n_train` rows of each person are drawn from `seed` for
    training and the rest are for testing; without `n_train` all rows are for training. People with fewer than
    `min_images` are left out.

    >>> learn, test, too_few = split_people(["a", "a", "a", "b"], n_train=2, min_images=2, seed=0)
    >>> len(learn), len(test), too_few
    (2, 1, ['b'])
    """
    rng = np.random.default_rng(seed)
    learn: list[int] = []
    test: list[int] = []
    too_few = []
    every = np.array(names, dtype=object)
    for name in sorted(set(names)):
        rows = np.flatnonzero(every == name)
        if len(rows) < min_images:
            too_few.append(name)
            continue
        if n_train is not None:
            rows = rng.permutation(rows)
        learn += rows[:n_train].tolist()
        test += [] if n_train is None else rows[n_train:].tolist()
    return sorted(learn), sorted(test), too_few
