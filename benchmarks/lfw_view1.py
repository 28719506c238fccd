"""Accuracy on LFW view 1, end to end: the model's detector and crop, threshold from pairsDevTrain, accuracy on pairsDevTest.

Also the error rates, on pairsDevTest, of the thresholds that `compare` uses.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import facespace
import lfw
from facespace.defaults import DEFAULT_MODEL


def best_threshold(similarity: np.ndarray, same: np.ndarray) -> float:
    """The midpoint between neighbouring similarities with the fewest errors."""
    order = np.sort(similarity)
    candidates = (order[1:] + order[:-1]) / 2
    accuracy = [((similarity >= t) == same).mean() for t in candidates]
    return float(candidates[int(np.argmax(accuracy))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--precision", choices=["fastest", "float32"], default="fastest")
    args = parser.parse_args()
    embedder = facespace.Embedder.load(args.model, precision=args.precision)
    view = lfw.embed(args.shared, embedder, facespace.create_detector(embedder.detector))
    centered = view.mirror - embedder.calibration.center
    centered /= np.linalg.norm(centered, axis=1, keepdims=True)
    train = lfw.pairs(args.shared / "data/lfw_view1/pairsDevTrain.txt")
    test = lfw.pairs(args.shared / "data/lfw_view1/pairsDevTest.txt")
    print(f"{embedder.name}, {embedder.runtime} {embedder.precision}; {len(view.names)} photos with a face")
    print(f"{'embedding':<40}{'threshold':>10}{'train':>8}{'test':>8}{'pairs used':>12}")
    for label, vectors in (
        ("photo alone", view.plain),
        ("photo + mirror image", view.mirror),
        ("photo + mirror image, centered (represent)", centered),
    ):
        similarity, same = lfw.similarities(view, vectors, train)
        used = ~np.isnan(similarity)
        threshold = best_threshold(similarity[used], same[used])
        tested, same_test = lfw.similarities(view, vectors, test)
        # A pair with an undetected face counts as wrong.
        train_accuracy = ((similarity >= threshold) == same)[used].sum() / len(same)
        good = ~np.isnan(tested)
        accuracy = ((tested >= threshold) == same_test)[good].sum() / len(same_test)
        print(f"{label:<40}{threshold:>10.4f}{train_accuracy:>8.4f}{accuracy:>8.4f}{good.sum():>12}")
    print("\nthresholds of `compare` on pairsDevTest (represent):")
    print(f"{'wanted FMR':>12}{'threshold':>11}{'FMR measured':>14}{'FNMR measured':>15}")
    different, genuine = tested[good & ~same_test], tested[good & same_test]
    for rate in (1e-1, 1e-2, 1e-3, 1e-4):
        t = embedder.calibration.match_threshold(rate, float(np.median(view.quality)))
        print(f"{rate:>12g}{t:>11.4f}{(different >= t).mean():>14.4f}{(genuine < t).mean():>15.4f}")


if __name__ == "__main__":
    main()
