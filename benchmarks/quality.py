"""Fit the formula of faces/quality.py, and measure how well it predicts which faces can be recognized.

The first photo of each genuine pair of pairsDevTrain (View 1 of LFW) is degraded four times: reduced so that its face
has 10 to 130 px, log-uniform; 30 % are blurred before (Gaussian, radius 0.5 to 6 px of the full photo); 20 % darkened, to
0.1 to 0.6; JPEG quality 30 to 95. Then its face is detected again. The target is whether its similarity to the other, unchanged photo
reaches what 1e-3 of random pairs reach with SFace. A logistic regression predicts it from the quantities that faces/quality.py
computes, fitted on every second person and evaluated on the others by the area under the ROC. Faces that are not detected again
have no quality and do not count.
"""

from __future__ import annotations

import argparse
import io
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

import facespace
import lfw
import look_alikes
from facespace.faces import quality
from facespace.faces.face import Face, central_face

REACHED = 0.371  # photo and mirror image added, nothing subtracted: 1e-3 of random pairs of View 1
DRAWS = 4
REFITS = 200  # over draws of people, for the coefficients' errors
NAMES = ("ln size", "ln(1 + sharpness)", "ln(1 + contrast)", "score")
OWN = (quality._SIZE, quality._SHARPNESS, quality._CONTRAST, quality._SCORE, quality._BIAS)


def quantities(crop: np.ndarray, face: Face) -> list[float]:
    """What faces/quality.py weighs; `main` checks that these are the same."""
    size = min(max(face.width, face.height, quality._SIZES[0]), quality._SIZES[1])
    grey = np.asarray(Image.fromarray(crop).convert("L"), np.float32)[16:112, 16:96]
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    sharpness = float((around - 4 * grey[1:-1, 1:-1]).std())
    score = min(face.score, quality._TOP_SCORE)
    return [math.log(size), math.log1p(sharpness), math.log1p(float(grey.std())), score]


def spoilt(pixels: np.ndarray, side: float, rng: np.random.Generator) -> np.ndarray:
    """The photo whose face has that side, made worse."""
    image = Image.fromarray(pixels)
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 6)))
    scale = min(1.0, math.exp(rng.uniform(math.log(10), math.log(130))) / side)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    if rng.random() < 0.2:
        factor = rng.uniform(0.1, 0.6)
        image = image.point(lambda value: value * factor)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(rng.integers(30, 96)))
    return facespace.read(buffer.getvalue())


def central(images: Iterable[object], detector: facespace.Detector) -> Iterator[tuple[Face, np.ndarray] | None]:
    """The central face of each image with the image, or None."""
    for photo in facespace.process(images, detector, keep_pixels=True):
        height, width = photo.pixels.shape[:2]
        yield (central_face(photo.faces, width, height), photo.pixels) if photo.faces else None


def embedded(embedder: facespace.Embedder, crops: list[np.ndarray]) -> np.ndarray:
    parts = (np.stack(crops[k : k + 256]) for k in range(0, len(crops), 256))
    return np.concatenate([look_alikes.uncentred(embedder, part) for part in parts])


def fitted(features: np.ndarray, reached: np.ndarray) -> np.ndarray:
    """Coefficients, and the bias last."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1e6, max_iter=1000).fit(features, reached)
    return np.append(model.coef_[0], model.intercept_)


def area(coefficients: np.ndarray, features: np.ndarray, reached: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(reached, features @ coefficients[:-1] + coefficients[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    args = parser.parse_args()
    folder = args.shared / "data/lfw_view1"
    embedder = facespace.Embedder.load("sface")
    detector = facespace.create_detector(embedder.detector)
    pairs = [(a, b) for a, b, same in lfw.pairs(folder / "pairsDevTrain.txt") if same]

    def path(name: str) -> Path:
        return folder / "images" / name.rsplit("_", 1)[0] / f"{name}.jpg"

    names = sorted({name for pair in pairs for name in pair})
    whole = dict(zip(names, central(map(path, names), detector), strict=True))
    pairs = [(a, b) for a, b in pairs if whole[a] is not None and whole[b] is not None]
    others = embedded(embedder, [facespace.align(whole[b][1], whole[b][0], embedder.spec) for _, b in pairs])

    rng = np.random.default_rng(0)
    sides = {name: max(found[0].width, found[0].height) for name, found in whole.items() if found is not None}
    rows = np.repeat(np.arange(len(pairs)), DRAWS)
    worse = (spoilt(whole[pairs[k][0]][1], sides[pairs[k][0]], rng) for k in rows)
    found = list(central(worse, detector))
    kept = np.array([k for k, one in enumerate(found) if one is not None])
    faces = [found[k][0] for k in kept]
    crops = [facespace.align(found[k][1], found[k][0], embedder.spec) for k in kept]
    features = np.array([quantities(crop, face) for crop, face in zip(crops, faces, strict=True)])
    odds = features @ np.array(OWN[:-1]) + OWN[-1]
    own = np.array([face.quality for face in faces])
    assert np.abs(1 / (1 + np.exp(-odds / quality._SPREAD)) - own).max() < 1e-6, "faces/quality.py computes others"

    reached = (embedded(embedder, crops) * others[rows[kept]]).sum(axis=1) >= REACHED
    person = np.array([pairs[k][0].rsplit("_", 1)[0] for k in rows[kept]])
    people = np.unique(person)
    learn = np.isin(person, people[::2])
    print(f"{embedder.name}, {embedder.detector}, {embedder.runtime} {embedder.precision}; similarity {REACHED}")
    print(
        f"{len(rows)} photos spoilt of {len(pairs)} pairs; face found again in {len(kept)}, of {len(people)} people; "
        f"{reached.mean():.4f} of them reach it; {learn.sum()} photos to fit, {(~learn).sum()} to judge"
    )
    print("\narea under the ROC on the people who were not fitted")
    columns = {"size alone": [0], "sharpness alone": [1], "contrast alone": [2], "score alone": [3]}
    columns |= {"size and sharpness": [0, 1], "all four": [0, 1, 2, 3]}
    for name, chosen in columns.items():
        coefficients = fitted(features[learn][:, chosen], reached[learn])
        print(f"  {name:24}{area(coefficients, features[~learn][:, chosen], reached[~learn]):.4f}")
    print(f"  {'faces/quality.py':24}{area(np.array(OWN), features[~learn], reached[~learn]):.4f}")

    # Of people, so that four photos of one pair do not count as four.
    best = fitted(features[learn], reached[learn])
    judged = [np.flatnonzero(person == name) for name in people[1::2]]
    gains = []
    for _ in range(REFITS):
        drawn = np.concatenate([judged[k] for k in rng.integers(0, len(judged), len(judged))])
        gains.append(area(best, features[drawn], reached[drawn]) - area(np.array(OWN), features[drawn], reached[drawn]))
    together = np.corrcoef(features[~learn] @ best[:-1], odds[~learn])[0, 1]
    print(
        f"  fitted here above faces/quality.py: {np.median(gains):+.4f}, 95 % from {np.quantile(gains, 0.025):+.4f} to "
        f"{np.quantile(gains, 0.975):+.4f}; correlation of their log-odds {together:.3f}"
    )

    members = [np.flatnonzero(learn & (person == name)) for name in people[::2]]
    refits = []
    for _ in range(REFITS):
        drawn = np.concatenate([members[k] for k in rng.integers(0, len(members), len(members))])
        refits.append(fitted(features[drawn], reached[drawn]))
    print(f"\n{'coefficient':20}{'fitted':>9}{'error':>8}{'faces/quality.py':>19}")
    rows_of = zip((*NAMES, "bias"), best, np.std(refits, axis=0), OWN, strict=True)
    for name, value, error, now in rows_of:
        print(f"{name:20}{value:9.2f}{error:8.2f}{now:19.2f}")

    print("\nhow often faces of a quality of faces/quality.py reach it, all people")
    for low in np.arange(0, 1, 0.1):
        here = (own >= low) & (own < low + 0.1)
        if here.any():
            print(f"  {low:.1f} to {low + 0.1:.1f}  {here.sum():5} photos  {reached[here].mean():.4f}")


if __name__ == "__main__":
    main()
