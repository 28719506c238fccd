"""Findings of a fictitious dataset check, with at least one of each kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from facespace.curation.checker import Findings, Shared, wrong_labels
from facespace.curation.duplicates import Copy
from facespace.curation.images import Images

EVIL = "<img src=x onerror=alert(1)>"


def images_of(root: Path, people: dict[str, int], first: int = 0) -> Images:
    """Return plain-coloured pictures, one folder per person; all embeddings of a person are equal."""
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


def findings_of_each_kind(folder: Path) -> Findings:
    """Each kind of finding in a dataset of 20 images: 6 of a, 5 of b, 3 of c, 2 of d (one damaged), 4 of `EVIL`."""
    root = folder / "data"
    images = images_of(root, {"a": 6, "b": 5, "c": 3, "d": 1, EVIL: 4})
    assert images.names == (EVIL, "a", "b", "c", "d")  # images 0–3, 4–9, 10–14, 15–17, 18
    (root / "d" / "bad.png").write_bytes(b"?")
    object.__setattr__(images, "unreadable", ((4, str(root / "d" / "bad.png"), "not <an> image"),))
    labels = wrong_labels(images.embeddings, images.labels, 5)
    labels.far[4] = True  # a/0
    labels.nearest[4] = 2
    labels.own[[5, 12]] = 0.4, 0.9  # a/1 fits worse than b/2, its copy
    labels.same_people.append((0, 2, 0.97))
    evaluation = images_of(folder / "evaluation", {"C.": 2, "D": 1}, first=8)
    return Findings(
        root=str(root), model="net", images=images, groups=np.arange(19), labels=labels, min_images=2,
        copies=[Copy(6, 7, True, 1, 1), Copy(8, 9, False, 0.97, 0.9), Copy(5, 12, True, 1, 1), Copy(4, 14, True, 1, 1)],
        against=str(folder / "evaluation"), evaluation=evaluation,
        shared=[Shared(3, 0, 0.8, 0.7, False), Shared(4, 1, 0.1, 0.7, True)],
        shared_copies=[Copy(1, 10, True, 1, 1)],
    )  # fmt: skip
