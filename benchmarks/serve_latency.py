"""One client, one photo, a gallery of 1,000 people: the time of an answer over HTTP, compared with a single call of the library.

The library's call is `FaceAnalyzer` on the bytes of the file and `Gallery.identify`, in this process, with the same gallery.
Blocks of calls alternate, so that threads of one side that still spin do not slow the other. Medians over all calls count.
The gallery has 35 people of the album and 965 simulated ones. The photos have one face: 250 px of LFW, and 1 megapixel, made from a
photo of the album with Pillow.
"""

from __future__ import annotations

import argparse
import http.client
import io
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

import facespace
from served import album_gallery, album_probes, lfw, percentile, served
from speed import processor

PEOPLE = 1_000
PIXELS = 1_000_000
WARM = 10  # calls of each side before any counts


def one_face(paths: list[Path], analyzer: facespace.FaceAnalyzer) -> Path:
    return next(path for path in paths if len(analyzer(path)) == 1)


def megapixel(path: Path) -> bytes:
    with Image.open(path) as photo:
        scale = (PIXELS / (photo.width * photo.height)) ** 0.5
        larger = photo.convert("RGB").resize(
            (round(photo.width * scale), round(photo.height * scale)), Image.Resampling.BICUBIC
        )
    data = io.BytesIO()
    larger.save(data, "JPEG", quality=90)
    return data.getvalue()


def add_drawn(gallery: facespace.Gallery, embedder: facespace.Embedder, n: int) -> None:
    """People with vectors drawn evenly from the sphere; they cost a search what real ones cost."""
    rng = np.random.default_rng(0)
    for k in range(n):
        vector = rng.standard_normal(embedder.dimension).astype(np.float32)
        crop = rng.integers(0, 256, (embedder.spec.size, embedder.spec.size, 3), np.uint8)
        gallery.add(f"Drawn {k:04d}", vector / np.linalg.norm(vector), crop)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--calls", type=int, default=300, help="number of calls for each side and photo")
    parser.add_argument("--block", type=int, default=20)
    args = parser.parse_args()
    analyzer = facespace.FaceAnalyzer()
    photos = {
        "250 px": one_face(lfw(args.shared), analyzer).read_bytes(),
        "1 megapixel": megapixel(one_face(album_probes(args.shared), analyzer)),
    }
    load = os.getloadavg()[0]
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "people.gallery")
        album_gallery(args.shared, path, analyzer)
        with facespace.Gallery(path, analyzer.embedder) as gallery:
            add_drawn(gallery, analyzer.embedder, PEOPLE - len(gallery))
        with served(path) as server, facespace.Gallery(path, analyzer.embedder) as gallery:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)

            def over_http(photo: bytes) -> None:
                connection.request("POST", "/v1/identify", photo, {"Content-Type": "image/jpeg"})
                with connection.getresponse() as answer:
                    body = answer.read()
                    if answer.status != 200:
                        sys.exit(f"{answer.status}: {body[:500]!r}")

            def own(photo: bytes) -> None:
                gallery.identify([face.embedding for face in analyzer(photo)], one_photo=True)

            print(
                f"{processor()}; load {load:.1f} before; {len(gallery)} people, {args.calls} calls of each side and photo"
            )
            print(
                f"{'':<14}{'HTTP p50':>10}{'p99':>10}{'library p50':>14}{'p99':>10}{'ratio of p50':>14}   must be at most 1.25"
            )
            for name, photo in photos.items():
                times: dict[str, list[float]] = {"HTTP": [], "library": []}
                for _ in range(WARM):
                    over_http(photo)
                    own(photo)
                while len(times["library"]) < args.calls:
                    for side, call in (("HTTP", over_http), ("library", own)):
                        call(photo)  # the first of a block still meets the other side's threads
                        for _ in range(min(args.block, args.calls - len(times[side]))):
                            start = time.perf_counter()
                            call(photo)
                            times[side].append((time.perf_counter() - start) * 1000)
                a, b = percentile(times["HTTP"], 0.5), percentile(times["library"], 0.5)
                worst = max(worst, a / b)
                print(
                    f"{name:<14}{a:>7.1f} ms{percentile(times['HTTP'], 0.99):>7.1f} ms{b:>11.1f} ms"
                    f"{percentile(times['library'], 0.99):>7.1f} ms{a / b:>14.2f}",
                    flush=True,
                )
    sys.exit(worst > 1.25)


if __name__ == "__main__":
    main()
