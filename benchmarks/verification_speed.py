"""Time and peak memory of a whole evaluation: ten folds, angles, mean subtracted, intervals over people.

Each size runs in a separate process, on 512 random numbers per photo; the peak includes the embeddings.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path

SIZES = {6_000: 7_700, 1_000_000: 100_000}  # pairs, and photos they are of; 7,700 photos are in the pairs of LFW
WIDTH = 512
PHOTOS_EACH = 4
FOLDS = 10


def resident() -> float:
    """What the process holds now, in MB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def measure(n_pairs: int, n_photos: int) -> None:
    import numpy as np

    from facespace.metrics.bootstrap import bootstrap
    from facespace.metrics.verification import evaluate

    rng = np.random.default_rng(0)
    person = np.arange(n_photos) // PHOTOS_EACH
    embeddings = rng.standard_normal((n_photos, WIDTH), dtype=np.float32)
    # A fifth of the variance is the person's own: some errors of both kinds, as in a benchmark.
    own = rng.standard_normal((person[-1] + 1, WIDTH), dtype=np.float32)
    for start in range(0, n_photos, 1000):
        embeddings[start : start + 1000] += 0.5 * own[person[start : start + 1000]] + np.float32(0.3)
    del own
    first = rng.integers(n_photos // PHOTOS_EACH * PHOTOS_EACH, size=n_pairs)
    same = np.arange(n_pairs) % 2 == 0
    step = rng.integers(1, PHOTOS_EACH, n_pairs)
    within = first // PHOTOS_EACH * PHOTOS_EACH + (first + step) % PHOTOS_EACH
    second = np.where(same, within, (first + rng.integers(PHOTOS_EACH, n_photos - PHOTOS_EACH, n_pairs)) % n_photos)
    same = person[first] == person[second]
    fold = np.arange(n_pairs) * FOLDS // n_pairs
    before = resident()
    began = time.perf_counter()
    result = evaluate(embeddings, first, second, same, fold=fold, distance="angle", subtract_mean=True)
    evaluated = time.perf_counter()
    found = bootstrap(result.distances, same, person[first], person[second], correct=result.correct)
    done = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    low, high = found["accuracy"]
    print(
        f"{n_pairs:>9,} {n_photos:>8,} {evaluated - began:>9.2f} {done - evaluated:>10.2f} {done - began:>7.2f}"
        f" {before:>10.0f} {peak:>8.0f}   {result.accuracy:.4f} ({low:.4f} to {high:.4f})"
    )


def main() -> None:
    if len(sys.argv) > 1:
        measure(int(sys.argv[1]), int(sys.argv[2]))
        return
    print(f"embeddings of {WIDTH} float32, {FOLDS} folds, angle, mean subtracted; seconds and MB")
    print("    pairs   photos  evaluate  intervals   whole  MB before  MB peak   accuracy")
    for n_pairs, n_photos in SIZES.items():
        command = [sys.executable, __file__, str(n_pairs), str(n_photos)]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout, end="", flush=True)


if __name__ == "__main__":
    main()
