"""`cluster` in parts: each part of the photos becomes an `.npz` of faces, and every two shards of faces a file of pairs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facespace.clustering.folders import keep_picture
from facespace.clustering.groups import FINDING
from facespace.clustering.shards import pairs_of_shards, pairs_path
from facespace.distribution.archives import Arrays, as_archive, damaged, read_archives
from facespace.distribution.network_work import NetworkWork
from facespace.distribution.plan import Plan, make_plan, read_pairs, variables
from facespace.distribution.storage import Folder
from facespace.faces.face import Face
from facespace.pipeline.face_batches import IMAGES_IN_PART
from facespace.pipeline.photos import Photo, process
from facespace.runtime.blas_threads import one_blas_thread

PER_PART = IMAGES_IN_PART  # photos
_COLUMNS = ("n_faces", "turned", "error", "box", "score", "landmarks", "quality", "embedding")


@dataclass(frozen=True)
class FindingWork(NetworkWork):
    """Represents the `parts.Work` that finds and embeds the faces in photos, and writes their pictures to `output`.

    Relative paths of photos are relative to `base`. `run` is a hash of the photos and options, which `begin` sets.
    """

    output: str
    base: str
    min_size: float
    try_rotations: bool
    run: str = ""

    @property
    def folder(self) -> Folder:
        """The folder of the plan and the parts until they are added to the groups."""
        return Folder(os.path.join(self.output, FINDING, self.run))

    def settings(self) -> dict[str, Any]:
        """Return everything except the photos that the results depend on."""
        return {
            "command": "cluster",
            "model": self.fingerprint,
            "device": self.device,
            "min_size": self.min_size,
            "try_rotations": self.try_rotations,
            **variables(),
        }

    def compute(self, number: int) -> None:
        """Detect and embed the faces in a part's photos; write a picture of each face, then the part's archive."""
        embedder, detector = self.networks(self.min_size)
        entries = read_pairs(self.folder, number)
        sources = (os.path.join(self.base, path) for path, _ in entries)
        photos: list[Photo] = []
        for photo, (path, digest) in zip(
            process(sources, detector, embedder, keep_pixels=True, try_rotations=self.try_rotations),
            entries,
            strict=True,
        ):
            photo.path = path
            if photo.error is None:
                keep_picture(Path(self.output), photo, digest)
            photo.pixels = None
            photos.append(photo)
        faces = [face for photo in photos for face in photo.faces]
        archive = as_archive(
            n_faces=np.array([len(photo.faces) for photo in photos], np.int64),
            turned=np.array([photo.turned for photo in photos], np.int64),
            error=np.array([photo.error or "" for photo in photos], np.str_),
            box=np.array([face.box for face in faces], np.float64).reshape(-1, 4),
            score=np.array([face.score for face in faces], np.float64),
            landmarks=np.array([face.landmarks for face in faces], np.float64).reshape(-1, 5, 2),
            quality=np.array([math.nan if face.quality is None else face.quality for face in faces], np.float64),
            embedding=np.concatenate(
                [np.empty((0, embedder.dimension), np.float32), *(photo.embeddings for photo in photos if photo.faces)]
            ),
        )
        self.folder.create(self.result(number), archive)


def begin(work: FindingWork, digests: Mapping[str, str]) -> tuple[FindingWork, Plan]:
    """Return `work` with the id of its run, and the plan for the photos in `digests` (path → SHA-256).

    An interrupted run with the same photos and options is continued. The parts of other runs are removed.
    """
    entries = [json.dumps(photo) for photo in digests.items()]
    run = hashlib.sha256(json.dumps([work.settings(), work.base]).encode())
    for entry in entries:
        run.update(entry.encode() + b"\n")
    work = dataclasses.replace(work, run=run.hexdigest()[:16])
    stage = Path(work.output, FINDING)
    for other in stage.iterdir() if stage.is_dir() else ():
        if other.name != work.run:
            shutil.rmtree(other)
    return work, make_plan(work.folder, entries, work.settings(), per_part=PER_PART)


def read_photos(work: FindingWork, plan: Plan) -> Iterator[Photo]:
    """Yield the photos of all parts with their faces and embeddings, in order. Raises `DatasetError` for a damaged part."""
    for number, part in enumerate(read_archives(work, plan, _COLUMNS)):
        paths = [path for path, _ in read_pairs(work.folder, number)]
        try:
            photos = _photos(paths, part)
        except (ValueError, TypeError):
            raise damaged(work.folder, work.result(number)) from None
        yield from photos


def _photos(paths: list[str], part: Arrays) -> list[Photo]:
    columns = (part[name].tolist() for name in ("box", "score", "landmarks", "quality"))
    if not part["n_faces"].sum() == len(part["score"]) == len(part["embedding"]):
        raise ValueError("faces and photos do not fit together")
    faces = [
        Face(tuple(box), score, tuple(map(tuple, points)), quality=None if math.isnan(quality) else quality)
        for box, score, points, quality in zip(*columns, strict=True)
    ]
    photos, begin = [], 0
    rows = zip(paths, *(part[name].tolist() for name in ("n_faces", "turned", "error")), strict=True)
    for path, n_faces, turned, error in rows:
        own = slice(begin, begin + n_faces)
        photos.append(
            Photo(path, error=error or None, faces=faces[own], embeddings=part["embedding"][own], turned=turned)
        )
        begin += n_faces
    return photos


@dataclass(frozen=True)
class PairsWork:
    """Represents the `parts.Work` that finds the similar pairs of faces. A part compares two shards.

    The shards and the results are in the local `folder`.
    """

    folder: Folder
    n_shards: int
    threshold: float

    gpu = False

    def result(self, number: int) -> str:
        """Return the name of the file with the similar pairs that a part finds in its two shards.

        >>> PairsWork(Folder("stages"), n_shards=4, threshold=0.5).result(6)
        'pairs-00001-00002'
        """
        return pairs_path(Path(), *divmod(number, self.n_shards)).name

    def compute(self, number: int) -> None:
        """Find the pairs of two shards."""
        with one_blas_thread():
            pairs_of_shards(Path(self.folder.place), *divmod(number, self.n_shards), self.threshold)
