"""View 1 of Labeled Faces in the Wild for the other benchmarks: photos to embeddings, and the lists of pairs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

import facespace


class View1(NamedTuple):
    names: np.ndarray  # (N,) "Name_0001"
    people: np.ndarray  # (N,) "Name"
    plain: np.ndarray  # (N,D) embed()
    mirror: np.ndarray  # (N,D) photo and mirror image added, nothing subtracted
    quality: np.ndarray  # (N,) of the faces


def embed(shared: Path, embedder: facespace.Embedder, detector: facespace.Detector) -> View1:
    paths = sorted((shared / "data/lfw_view1/images").rglob("*.jpg"))
    names, plain, mirror, quality = [], [], [], []
    crops: list[np.ndarray] = []

    def flush() -> None:
        if crops:
            stack = np.stack(crops)
            vectors = embedder.embed(stack)
            both = vectors + embedder.embed(np.ascontiguousarray(stack[:, :, ::-1]))
            plain.append(vectors)
            mirror.append(both / np.linalg.norm(both, axis=1, keepdims=True))
            crops.clear()

    photos = facespace.process(map(str, paths), detector, keep_pixels=True)
    for k, photo in enumerate(photos):
        if photo.faces:
            height, width = photo.pixels.shape[:2]
            face = facespace.faces.face.central_face(photo.faces, width, height)
            crops.append(facespace.align(photo.pixels, face, embedder.spec))
            quality.append(face.quality)
            names.append(Path(photo.path).stem)
        else:
            print(f"no face: {photo.path}", file=sys.stderr)
        if len(crops) == 256 or k == len(paths) - 1:
            flush()
    people = np.array([name.rsplit("_", 1)[0] for name in names])
    return View1(np.array(names), people, np.concatenate(plain), np.concatenate(mirror), np.array(quality))


def pairs(path: Path) -> list[tuple[str, str, bool]]:
    """(photo, photo, same) of a view 1 list: a header with the count, then `name a b` or `name a name b`."""
    result = []
    for line in path.read_text().splitlines()[1:]:
        fields = line.split()
        if len(fields) == 3:
            result.append((f"{fields[0]}_{int(fields[1]):04d}", f"{fields[0]}_{int(fields[2]):04d}", True))
        elif len(fields) == 4:
            result.append((f"{fields[0]}_{int(fields[1]):04d}", f"{fields[2]}_{int(fields[3]):04d}", False))
    return result


def similarities(
    view: View1, vectors: np.ndarray, listed: list[tuple[str, str, bool]]
) -> tuple[np.ndarray, np.ndarray]:
    """Cosine of every listed pair, NaN where a photo had no face, and whether it is the same person."""
    row = {name: k for k, name in enumerate(view.names)}
    values = [float(vectors[row[a]] @ vectors[row[b]]) if a in row and b in row else np.nan for a, b, _ in listed]
    return np.array(values), np.array([same for _, _, same in listed])
