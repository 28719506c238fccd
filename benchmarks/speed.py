"""Speed compared with facenet-pytorch on the same cores, in alternating rounds; ratios of medians.

facenet-pytorch is peers/facenet_pytorch.py, in an environment that is created the first time. For detection, photos are decoded
beforehand on both sides; the peer's better way of detecting (one by one, or batches of equal sizes) counts. Embedding has
separate rounds, shorter and more of them: the speed of the matrix unit depends on the other programs on the processor
and changes within seconds. The album goes the whole way, from files to names: decoded, all faces found, aligned,
embedded, and identified among 35 people with one enrolled photo each. `bench.py` has more peers and rows.

Runtime and precision depend on the processor: with AMX or AVX512-BF16 and OpenVINO, casia-webface computes
in integers and bfloat16, elsewhere in float32 (see the last lines).
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

import facespace
from side_by_side import machine
from side_by_side.conversation import Conversation
from side_by_side.environments import start_peer

PEOPLE = 35


def rate(work: Callable[[], object], n: int, repeat: int = 3) -> float:
    """Items a second: the median of `repeat` runs."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return n / statistics.median(times)


def photos_a_second(peer: Conversation, paths: list[Path], *, many: bool) -> float:
    """Of one photo a call, or with `many` of batches; the median of two."""
    seconds = [peer.ask("detect", paths=list(map(str, paths)), many=many)["seconds"] for _ in range(3)]
    return len(paths) / statistics.median(seconds[1:])


def best_of_theirs(peer: Conversation, paths: list[Path]) -> float:
    rates = [photos_a_second(peer, paths, many=False)]
    if len({Image.open(path).size for path in paths}) == 1:  # it takes batches of one size alone
        rates.append(photos_a_second(peer, paths, many=True))
    return max(rates)


def processor() -> str:
    """Its name, and which of the features that matter it has."""
    return f"{machine.processor_name()} ({', '.join(machine.features()) or 'features unknown'})"


def enrolled(folder: str, known: list[Path], embedder: facespace.Embedder, detector: facespace.Detector) -> Path:
    """A gallery with the first photo of each person."""
    path = Path(folder, "people.gallery")
    analyzer = facespace.FaceAnalyzer(embedder, detector)
    with facespace.Gallery(path, embedder, create=True) as gallery:
        for person in known:
            analyzer.enroll(gallery, person.name, sorted(person.iterdir())[0], largest=True, any_quality=True)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    sets = {
        "photos": sorted((args.shared / "data/photos").glob("*.jpg")),
        "LFW view 1": sorted((args.shared / "data/lfw_view1/images").rglob("*.jpg"))[::83][:60],
    }
    known = sorted((args.shared / "data/album/known").iterdir())[:PEOPLE]
    probes = [path for person in known for path in sorted(person.iterdir())[6:]]
    probes += sorted(path for path in (args.shared / "data/album/unknown").rglob("*") if path.is_file())
    probes = probes[::4]
    images = {name: [facespace.read(path) for path in paths] for name, paths in sets.items()}
    detectors = {name: facespace.create_detector(name) for name in ("yunet", "mtcnn")}
    embedders = {f"sface {p}": facespace.Embedder.load("sface", precision=p) for p in ("fastest",)}
    embedders |= {
        f"casia-webface {p}": facespace.Embedder.load("casia-webface", precision=p) for p in ("fastest", "float32")
    }
    if embedders["casia-webface fastest"].precision == "float32":
        del embedders["casia-webface fastest"]  # the same
    crops = {
        name: np.random.default_rng(0).integers(0, 256, (32, one.spec.size, one.spec.size, 3), np.uint8)
        for name, one in embedders.items()
    }

    peer = start_peer("facenet-pytorch")
    ours: dict[str, list[float]] = {}
    peers: dict[str, list[float]] = {}

    def compare(turn: int, what: str, measured: dict[str, float], other: float) -> None:
        for key, value in measured.items():
            ours.setdefault(key, []).append(value)
            peers.setdefault(key, []).append(other)
        ratios = ", ".join(f"{value / other:.2f}x" for value in measured.values())
        print(f"round {turn + 1} {what}: {ratios}", flush=True)

    print(f"load of the machine before: {os.getloadavg()[0]:.1f} of {facespace.runtime.cores.usable_cores()} cores")
    for detector in detectors.values():
        for name in sets:
            detector.detect_many(images[name])  # compile for these shapes
    for name, embedder in embedders.items():
        embedder.embed(crops[name])
    for turn in range(args.rounds):
        for name, paths in sets.items():
            measured = {}
            for which, detector in detectors.items():
                measured[f"{which}, {name}"] = rate(lambda d=detector, n=name: d.detect_many(images[n]), len(paths))
                measured[f"{which}, {name}, one a call"] = rate(
                    lambda d=detector, n=name: [d.detect(image) for image in images[n]], len(paths), 1
                )
            compare(turn, name, measured, best_of_theirs(peer, paths))
    sface, yunet = embedders["sface fastest"], detectors["yunet"]
    with (
        tempfile.TemporaryDirectory() as folder,
        facespace.Gallery(enrolled(folder, known, sface, yunet), sface) as gallery,
    ):

        def named() -> int:
            photos = facespace.process(probes, yunet, sface)
            return sum(len(gallery.identify(photo.embeddings, one_photo=True)) for photo in photos)

        n_faces = named()
        peer.ask("enroll", people={person.name: str(sorted(person.iterdir())[0]) for person in known})
        for turn in range(args.rounds):
            measured = {"album, files to names": rate(named, len(probes), 1)}
            other = peer.ask("identify", paths=list(map(str, probes)))
            compare(turn, "album", measured, len(probes) / other["seconds"])
    print(f"album: {len(probes)} photos, {n_faces} faces found by us, {sum(other['faces'])} by them")
    for turn in range(4 * args.rounds):
        measured = {
            f"embed 32, {name}": rate(lambda e=one, n=name: e.embed(crops[n]), 32, 5) for name, one in embedders.items()
        }
        compare(turn, "embedding, batch 32", measured, 32 / peer.ask("embed", batch=32, repeat=5)["seconds"])
    peer.close()

    print(
        f"\n{processor()}, {facespace.runtime.cores.usable_cores()} cores, load now {os.getloadavg()[0]:.1f}; "
        f"medians of {args.rounds} rounds, of {4 * args.rounds} for embedding"
    )
    print("detectors in float32: " + ", ".join(f"{name} {one.runtime}" for name, one in detectors.items()))
    print("embedders: " + ", ".join(f"{name} = {one.runtime} {one.precision}" for name, one in embedders.items()))
    print(f"{'':<40}{'ours/s':>9}{'theirs/s':>10}{'ratio':>8}")
    for key in ours:
        a, b = statistics.median(ours[key]), statistics.median(peers[key])
        print(f"{key:<40}{a:>9.1f}{b:>10.1f}{a / b:>8.2f}")


if __name__ == "__main__":
    main()
