"""The whole way from files to names compared with its stages: how much of their speed remains when they run together.

Stages are measured alone, at their fastest on the same photos, on all cores: decoding in as many threads as there are cores,
detecting all photos in one call, cutting crops and rating their quality in threads, embedding all crops in one call,
identifying. If nothing is lost between them, a photo takes the sum of their times. Rounds alternate: stages, whole.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

import facespace
from facespace.faces.quality import face_quality
from facespace.runtime.cores import usable_cores

PEOPLE = 35
T = TypeVar("T")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    known = sorted((args.shared / "data/album/known").iterdir())[:PEOPLE]
    probes = [path for person in known for path in sorted(person.iterdir())[6:]]
    probes += sorted(path for path in (args.shared / "data/album/unknown").rglob("*") if path.is_file())
    probes = probes[::4]
    detector, embedder = facespace.create_detector(), facespace.Embedder.load()
    wall: dict[str, list[float]] = {}
    processor: dict[str, list[float]] = {}

    def timed(stage: str, work: Callable[[], T]) -> T:
        start, used = time.perf_counter(), time.process_time()
        result = work()
        wall.setdefault(stage, []).append(time.perf_counter() - start)
        processor.setdefault(stage, []).append(time.process_time() - used)
        return result

    with (
        tempfile.TemporaryDirectory() as folder,
        facespace.Gallery(Path(folder, "people.gallery"), embedder, create=True) as gallery,
        ThreadPoolExecutor(usable_cores()) as pool,
    ):
        analyzer = facespace.FaceAnalyzer(embedder, detector)
        for person in known:
            analyzer.enroll(gallery, person.name, sorted(person.iterdir())[0], largest=True, any_quality=True)

        def whole() -> list[list[str | None]]:
            photos = facespace.process(probes, detector, embedder)
            return [[m.name for m in gallery.identify(photo.embeddings, one_photo=True)] for photo in photos]

        def cut(pair: tuple[np.ndarray, list[facespace.Face]]) -> list[np.ndarray]:
            image, faces = pair
            crops = [facespace.align(image, face, embedder.spec) for face in faces]
            for face, crop in zip(faces, crops, strict=True):
                face_quality(image, face, crop)
            return crops

        names: list[list[str | None]] = []
        for turn in range(args.rounds + 1):
            images = timed("decode", lambda: list(pool.map(facespace.read, probes)))
            faces = timed("detect", lambda i=images: detector.detect_many(i))  # type: ignore[misc]
            found = list(zip(images, faces, strict=True))
            crops = timed("align, quality", lambda f=found: list(pool.map(cut, f)))  # type: ignore[misc]
            stacked = np.stack([crop for of_photo in crops for crop in of_photo])
            vectors = timed("embed", lambda c=stacked: embedder.represent(c))  # type: ignore[misc]
            bounds = np.cumsum([0, *map(len, faces)])
            parts = [vectors[a:b] for a, b in itertools.pairwise(bounds)]
            timed("identify", lambda p=parts: [gallery.identify(one, one_photo=True) for one in p])  # type: ignore[misc]
            names = timed("whole", whole)
            if turn == 0:  # what is compiled at first
                wall.clear(), processor.clear()
    medians = {stage: statistics.median(times) / len(probes) for stage, times in wall.items()}
    print(
        f"{len(probes)} photos, {sum(map(len, names))} faces, {usable_cores()} cores, {embedder.runtime} "
        f"{embedder.precision}, medians of {args.rounds} rounds"
    )
    print(f"{'stage':<16}{'ms a photo':>11}{'of processor':>14}")
    for stage, each in medians.items():
        print(f"{stage:<16}{each * 1000:>11.2f}{statistics.median(processor[stage]) / len(probes) * 1000:>14.2f}")
    whole_time = medians.pop("whole")
    total = sum(medians.values())
    ratios = [sum(wall[stage][k] for stage in medians) / wall["whole"][k] for k in range(args.rounds)]
    print(f"sum of the stages {total * 1000:.2f} ms: {1 / total:.1f} photos/s; the whole {1 / whole_time:.1f} photos/s")
    print(
        f"the whole has {statistics.median(ratios):.2f} of the speed of its stages (median; {min(ratios):.2f} to {max(ratios):.2f})"
    )


if __name__ == "__main__":
    main()
