"""Photos per second that `facespace serve` names, compared with the library on the same photos in the same run, alternating.

The clients (16 at once, in a separate process) send photos of LFW and of the album, whole files, each when the previous one is
answered. The library is `facespace.process` with `Gallery.identify`, also in a separate process, from files to names: its
fastest way. Both use the gallery of the album's 35 people. While one works, the other waits. Medians over the rounds count.
The service runs as installed, with one worker.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import facespace
from served import album_gallery, album_probes, lfw, percentile, served
from speed import processor


def library(gallery_path: str) -> None:
    """Reads orders {"photos": [paths], "first": n, "seconds": s}, answers {"photos": n, "seconds": s, "faces": n}."""
    analyzer = facespace.FaceAnalyzer()
    with facespace.Gallery(Path(gallery_path), analyzer.embedder) as gallery:
        for line in sys.stdin:
            order = json.loads(line)
            paths, end = order["photos"], time.monotonic() + order["seconds"]

            def until_the_end(paths=paths, end=end):
                n = 0
                while time.monotonic() < end:
                    yield paths[n % len(paths)]
                    n += 1

            start, n, n_faces = time.monotonic(), 0, 0
            for photo in facespace.process(until_the_end(), analyzer.detector, analyzer.embedder):
                assert photo.error is None, photo.error
                n, n_faces = n + 1, n_faces + len(gallery.identify(photo.embeddings, one_photo=True))
            print(json.dumps({"photos": n, "faces": n_faces, "seconds": time.monotonic() - start}), flush=True)


def told(process: subprocess.Popen[str], **order: object) -> dict:
    process.stdin.write(json.dumps(order) + "\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument(
        "--minutes", type=float, default=5, help="minutes of requests; the library runs for as long in addition"
    )
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument(
        "--options", default="", help="further options of the server, as one argument separated by spaces"
    )
    args = parser.parse_args()
    # one album photo to one of LFW: their mean size is what two people at a time would send
    photos = [
        str(path) for pair in zip(album_probes(args.shared), lfw(args.shared)[::13], strict=False) for path in pair
    ]
    seconds = args.minutes * 60 / args.rounds
    rates: dict[str, list[float]] = {"HTTP": [], "library": []}
    statuses: dict[str, list[float]] = {}
    memory, strange = [], []
    print(f"load of the machine before: {os.getloadavg()[0]:.1f}; {len(photos)} photos", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        gallery = Path(folder, "people.gallery")
        album_gallery(args.shared, gallery, facespace.FaceAnalyzer())
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with (
            served(gallery, *args.options.split(), workers=args.workers) as server,
            subprocess.Popen([sys.executable, __file__, "library", str(gallery)], **pipes) as other,
            subprocess.Popen([sys.executable, str(Path(__file__).with_name("serve_load.py"))], **pipes) as clients,
        ):
            order = {"port": server.port, "photos": photos, "clients": args.clients}
            warm = min(5.0, seconds)
            told(clients, seconds=warm, **order)
            told(other, seconds=warm, photos=photos)
            for turn in range(args.rounds):
                got = told(clients, seconds=seconds, **order)
                memory.append(server.megabytes())
                own = told(other, seconds=seconds, photos=photos)
                for status, times in got["times"].items():
                    statuses.setdefault(status, []).extend(times)
                strange += got["strange"]
                rates["HTTP"].append(len(got["times"].get("200", [])) / got["seconds"])
                rates["library"].append(own["photos"] / own["seconds"])
                print(
                    f"round {turn + 1}: HTTP {rates['HTTP'][-1]:.1f}, library {rates['library'][-1]:.1f} photos/s, "
                    f"{rates['HTTP'][-1] / rates['library'][-1]:.3f}; server {memory[-1]:.0f} MB",
                    flush=True,
                )
            for process in (clients, other):
                process.stdin.close()
    good = statuses.pop("200", [])
    n_errors = sum(map(len, statuses.values()))
    ratio = statistics.median(rates["HTTP"]) / statistics.median(rates["library"])
    print(f"\n{processor()}; {args.workers} worker(s), {args.clients} clients, load now {os.getloadavg()[0]:.1f}")
    print(f"answered 200               {len(good)} requests in {args.minutes:g} minutes")
    print(
        f"other answers              {n_errors} { {status: len(times) for status, times in statuses.items()} or 'none' }   must be 0"
    )
    for line in strange[:3]:
        print(f"    {line}")
    print(f"HTTP, median               {statistics.median(rates['HTTP']):.1f} photos/s")
    print(f"library, median            {statistics.median(rates['library']):.1f} photos/s")
    print(f"HTTP / library             {ratio:.3f}   must be at least 0.85")
    print(f"one request, p50           {percentile(good, 0.5) * 1000:.0f} ms")
    print(f"one request, p99           {percentile(good, 0.99) * 1000:.0f} ms")
    print(
        f"memory of all processes    {memory[0]:.0f} MB after the first round, {memory[-1]:.0f} MB after the last, most {max(memory):.0f} MB"
    )
    sys.exit(bool(n_errors or ratio < 0.85))


if __name__ == "__main__":
    if sys.argv[1:2] == ["library"]:
        library(sys.argv[2])
    else:
        main()
