"""The effect of storing vectors as float16: names on the album, and decisions on pairs of LFW view 1.

Album: six photos of each known person are enrolled into a gallery file. The names at the default rate are compared
with those computed from float32 vectors by the formula: templates are normalized means, and a face is named if its best person
reaches that person's threshold. Pairs: one vector of each pair is stored and the other is not. Decisions are counted at the default
threshold and at the one that fits pairsDevTrain best; then those of all pairs of photos of different people, at the default threshold.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from pathlib import Path

import numpy as np

import facespace
import lfw
from facespace.defaults import DEFAULT_MODEL, DEFAULT_RATE
from facespace.embedding.calibration import UNKNOWN_QUALITY
from facespace.identification.stores.protocol import Entry
from gallery_strangers import ENROLLED, Faces, real_faces
from lfw_view1 import best_threshold

MOST_CHANGED = 1e-3  # share of decisions


def split(album: Faces) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Rows of the photos that are enrolled, by person, and of those that are looked for."""
    enrolled = {
        str(name): np.flatnonzero(album.people == name)[:ENROLLED]
        for name in np.unique(album.people)
        if str(name).startswith("known")
    }
    looked_for = np.setdiff1d(np.arange(len(album.people)), np.concatenate(list(enrolled.values())))
    return enrolled, looked_for


def fill(gallery: facespace.Gallery, album: Faces, enrolled: dict[str, np.ndarray], model: facespace.Embedder) -> None:
    gallery._check_model(model, create=True)
    for name, rows in enrolled.items():
        for row in rows:
            digest = hashlib.sha256(album.vectors[row].tobytes()).hexdigest()
            entry = Entry(album.vectors[row], digest, "", "float32", float(album.quality[row]))
            gallery.store.add(name, entry)


def by_formula(
    album: Faces, enrolled: dict[str, np.ndarray], looked_for: np.ndarray, model: facespace.Embedder
) -> list[str | None]:
    """Names out of float32 vectors."""
    means = np.stack([album.vectors[rows].astype(np.float64).mean(axis=0) for rows in enrolled.values()])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    quality = np.array([album.quality[rows].mean() for rows in enrolled.values()])
    n_photos = [len(rows) for rows in enrolled.values()]
    assert model.calibration is not None
    least = model.calibration.thresholds_among(
        DEFAULT_RATE, len(means), n_photos, quality, np.full((len(looked_for), 1), UNKNOWN_QUALITY)
    )
    similarity = album.vectors[looked_for] @ means.T
    best, names = similarity.argmax(axis=1), list(enrolled)
    rows = np.arange(len(best))
    good = similarity[rows, best] >= least[rows, best]
    return [names[k] if there else None for k, there in zip(best, good, strict=True)]


def line(what: str, value: str, must: str, good: bool) -> None:
    print(f"{what:<64}{value:>16}   must be {must}{'' if good else '   MISSED'}")


def decisions(model: facespace.Embedder, portraits: Faces, names: np.ndarray, shared: Path) -> None:
    half = portraits.vectors.astype(np.float16).astype(np.float32)
    row = {str(name): k for k, name in enumerate(names)}
    listed = {kind: lfw.pairs(shared / f"data/lfw_view1/pairsDev{kind}.txt") for kind in ("Train", "Test")}

    def both(pairs: list[tuple[str, str, bool]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        used = [(row[a], row[b], same) for a, b, same in pairs if a in row and b in row]
        first, second, same = (np.array(values) for values in zip(*used, strict=True))
        exact = np.einsum("nd,nd->n", portraits.vectors[first], portraits.vectors[second])
        stored = np.einsum("nd,nd->n", half[first], portraits.vectors[second])
        return exact, stored, same

    assert model.calibration is not None
    default = model.calibration.match_threshold(model.calibration.default_rate)
    exact, _, same = both(listed["Train"])
    for what, threshold in (("default", default), ("best on pairsDevTrain", best_threshold(exact, same))):
        changed = n_pairs = 0
        for pairs in listed.values():
            exact, stored, _ = both(pairs)
            changed += int(((exact >= threshold) != (stored >= threshold)).sum())
            n_pairs += len(exact)
        line(
            f"{n_pairs:,} listed pairs, {what} threshold {threshold:.4f}: decisions changed", str(changed),
            "<= 1 in 1,000", changed <= MOST_CHANGED * n_pairs,
        )  # fmt: skip
    changed = n_pairs = 0
    code = np.unique(portraits.people, return_inverse=True)[1]
    for start in range(0, len(half), 512):
        rows = slice(start, start + 512)
        different = code[rows, None] < code[None]
        exact, stored = portraits.vectors[rows] @ portraits.vectors.T, half[rows] @ portraits.vectors.T
        changed += int((((exact >= default) != (stored >= default)) & different).sum())
        n_pairs += int(different.sum())
    line(f"{n_pairs:,} pairs of different people, default threshold", str(changed), "<= 1 in 1,000", changed <= MOST_CHANGED * n_pairs)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--model", nargs="+", default=[DEFAULT_MODEL])
    parser.add_argument("--cache", type=Path, help="folder in which embeddings of the photos are stored between runs")
    args = parser.parse_args()
    for name in args.model:
        portraits, album, told = real_faces(args.shared, name, args.cache)
        model = facespace.Embedder.load(name)
        print(told)
        enrolled, looked_for = split(album)
        with (
            tempfile.TemporaryDirectory() as folder,
            facespace.Gallery(Path(folder, "g"), model, create=True) as gallery,
        ):
            fill(gallery, album, enrolled, model)
            stored = [match.name for match in gallery.identify(album.vectors[looked_for])]
        wanted = by_formula(album, enrolled, looked_for, model)
        changed = sum(one != other for one, other in zip(stored, wanted, strict=True))
        line(f"album, {len(enrolled)} people, {len(looked_for)} faces: names changed", str(changed), "0", not changed)
        decisions(model, portraits, portraits.photos, args.shared)


if __name__ == "__main__":
    main()
