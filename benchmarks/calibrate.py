"""Measure a model's false match rates on all cross-identity pairs of LFW view 1 and write its calibration.

With `--look-alikes`, pairs within one photo are measured too, on group photos, and thresholds depend on the quality of the
faces (see look_alikes.py); similarities are then given for faces of quality 1. Embeddings are compared as in facespace: photo and
mirror image are added and the mean over people is subtracted. The mean is computed over the people who are not in pairsDevTest.
Templates of several photos are drawn at random from one person's.

    python benchmarks/calibrate.py --model casia-webface --output src/facespace/embedding/calibrations/casia-webface.json
    python benchmarks/calibrate.py --model sface --look-alikes --output src/facespace/embedding/calibrations/sface.json
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np

import facespace
import lfw
import look_alikes
from facespace.models.zoo import MODELS

# Quarter decades from 0.5 down to one in a hundred thousand, which some 120 pairs of LFW view 1 reach. Beyond, they are few, and
# a dozen of them are one person under two names: the labels of LFW are wrong there.
FMR = [0.5, 0.25, *(10 ** -(k / 4) for k in range(4, 21))]
TEMPLATES = (1, 2, 3, 4, 6)
SHIFT_FMR = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4)  # where every template size has hundreds of pairs or more


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def impostors(probes: np.ndarray, owners: np.ndarray, templates: np.ndarray, people: np.ndarray) -> np.ndarray:
    """Similarities of every probe with every template of somebody else."""
    parts = []
    for start in range(0, len(probes), 512):
        block = probes[start : start + 512] @ templates.T
        parts.append(block[owners[start : start + 512, None] != people[None, :]])
    return np.concatenate(parts)


def measure(vectors: np.ndarray, person: np.ndarray, seed: int = 0) -> dict[str, object]:
    single = impostors(vectors, person, vectors, person)  # every pair counts twice, which changes no rate
    levels = [float(value) for value in np.quantile(single, [1 - rate for rate in FMR])]
    shifts = []
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(person == k) for k in range(person.max() + 1)]
    base = np.quantile(single, [1 - rate for rate in SHIFT_FMR])
    for size in TEMPLATES:
        chosen = [
            (k, rng.choice(rows, size, replace=False))
            for k, rows in enumerate(members)
            if len(rows) >= size
            for _ in range(4)
        ]
        templates = unit(np.stack([vectors[rows].mean(axis=0) for _, rows in chosen]))
        values = impostors(vectors, person, templates, np.array([k for k, _ in chosen]))
        shift = np.quantile(values, [1 - rate for rate in SHIFT_FMR]) - base
        print(
            f"  templates of {size}: {len({k for k, _ in chosen})} people, {len(values)} pairs, shift {shift.round(4).tolist()}"
        )
        shifts.append([size, 0.0 if size == 1 else round(float(shift.mean()), 4)])
    return {
        "fmr": FMR,
        "similarity": [round(v, 5) for v in levels],
        "template_shift": shifts,
        "n_pairs": len(single) // 2,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--model", required=True)
    parser.add_argument("--look-alikes", action="store_true")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()

    test_people = {
        name.rsplit("_", 1)[0]
        for a, b, _ in lfw.pairs(args.shared / "data/lfw_view1/pairsDevTest.txt")
        for name in (a, b)
    }
    detector = facespace.create_detector(MODELS[args.model].detector)
    measured = []
    for precision in ("float32", "bfloat16", "fastest"):
        os.environ["FACESPACE_PRECISION"] = precision
        embedder = facespace.Embedder.load(args.model)
        if any(entry["precision"] == embedder.precision for entry in measured):
            continue
        view = lfw.embed(args.shared, embedder, detector)
        person = np.unique(view.people, return_inverse=True)[1]
        if not measured:
            outside = ~np.isin(view.people, list(test_people))
            center = np.round(view.mirror[outside].mean(axis=0), 6)
        entry = {"runtime": embedder.runtime, "precision": embedder.precision}
        print(entry)
        measured.append(entry | measure(unit(view.mirror - center), person))
        if args.look_alikes:
            # What faces of LFW's quality reach, told for faces of quality 1.
            less = float(look_alikes.shift(np.median(view.quality)))
            measured[-1]["similarity"] = [round(value - less, 5) for value in measured[-1]["similarity"]]
        print(
            "  fmr 1e-2 1e-3 1e-4 1e-5 at",
            [measured[-1]["similarity"][FMR.index(10 ** -(k / 4))] for k in (8, 12, 16, 20)],
        )
    part = {}
    if args.look_alikes:
        images = {path.name: path for path in look_alikes.group_photos(args.shared)}
        found = look_alikes.look_alikes(look_alikes.group_faces(images, embedder, detector), center)
        part = {"look_alikes": {name: getattr(found, name) for name in found.__dataclass_fields__}}
        print(part)
    table = {
        "model": embedder.name,
        "fingerprint": embedder.fingerprint,
        "data": "LFW view 1, all pairs of photos of different people",
        "n_photos": len(view.names),
        "n_people": int(person.max()) + 1,
        "detector": MODELS[args.model].detector,
        "measured": measured,
        **part,
        "center": [float(f"{value:.6f}") for value in center],
    }
    args.output.write_text(json.dumps(table, indent=1).replace(",\n  ", ", ") + "\n")
    print(f"{len(view.names)} photos, {person.max() + 1} people, {measured[0]['n_pairs']} pairs -> {args.output}")


if __name__ == "__main__":
    main()
