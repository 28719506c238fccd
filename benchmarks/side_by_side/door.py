"""Run one file of `peers/` and answer requests about it: one JSON object per line in and out.

usage: door.py PEER_FILE    Run with the peer's own Python; needs only the standard library.

The file has a class `Peer`, whose methods show what the peer supports:
- importing the file imports the peer's packages, `Peer()` loads its models; `versions`: {package: version}; `read(path)`: a photo, decoded as the peer needs it, with its `size(photo)`;
- `detect(photo)`: boxes (x1, y1, x2, y2); `detect_many(photos)`: the same for photos of one size in batches;
- `crops(n)`, `embed(crops)`: a batch of random crops, and their embeddings;
- `represent(photo)`: (box, features) of each face; `verdict(a, b)`: score of two faces and whether they are called the same
  person, None if the peer recommends no threshold; `recognises = False` says that its weights are random;
- `enroll({name: path})`, `identify(paths)`: for each photo ([(box, name or None)], (width, height)); by default from the above;
- `align(paths, out, size)`: write crops into a folder, `size` photos per call;
- `train_step(n)`: one training step on n random crops;
- `index(vectors)`, `search(probes)`: the most similar of many vectors.
Times are wall time (`seconds`) and processor time (`cpu`). Photos are decoded before the clock starts, except for
`identify`, which goes from files to names. The clock runs over `repeat` repetitions; both times are per repetition.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from pathlib import Path

ABILITIES = ("detect", "detect_many", "embed", "represent", "identify", "train_step", "search")


def central(faces, width, height):
    """The large and central face of (box, …) tuples: its area less twice its squared distance from the centre."""

    def weight(face):
        x1, y1, x2, y2 = face[0]
        off = ((x1 + x2 - width) / 2) ** 2 + ((y1 + y2 - height) / 2) ** 2
        return (x2 - x1) * (y2 - y1) - 2 * off

    return max(faces, key=weight)


class Door:
    def __init__(self, peer, import_seconds):
        self.peer = peer
        self.import_seconds = import_seconds
        self.photos = {}
        self.faces = {}
        self.enrolled = []

    def about(self, _):
        peer = self.peer
        can = [name for name in ABILITIES if hasattr(peer, name) and name not in getattr(peer, "leaves_out", ())]
        if hasattr(peer, "represent") and "identify" not in can:
            can.append("identify")
        return {
            "versions": peer.versions,
            "import_seconds": self.import_seconds,
            "can": can,
            "recognises": hasattr(peer, "represent") and getattr(peer, "recognises", True),
        }

    def _timed(self, work, repeat):
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(repeat):
            result = work()
        return {"seconds": (time.perf_counter() - wall) / repeat, "cpu": (time.process_time() - cpu) / repeat}, result

    def _decoded(self, paths):
        if self.photos.get("paths") != paths:  # those of one row at a time
            self.photos = {"paths": paths, "decoded": [self.peer.read(path) for path in paths]}
        return self.photos["decoded"]

    def detect(self, request):
        photos = self._decoded(request["paths"])

        def work():
            if request.get("many"):
                return self.peer.detect_many(photos)
            return [self.peer.detect(photo) for photo in photos]

        times, boxes = self._timed(work, request.get("repeat", 1))
        return {**times, "faces": [len(of_photo) for of_photo in boxes]}

    def embed(self, request):
        crops = self.peer.crops(request["batch"])
        times, _ = self._timed(lambda: self.peer.embed(crops), request.get("repeat", 1))
        return times

    def _face(self, path):
        """The large and central face of a photo, kept; None without a face."""
        if path not in self.faces:
            photo = self.peer.read(path)
            found = self.peer.represent(photo)
            self.faces[path] = central(found, *self.peer.size(photo))[1] if found else None
        return self.faces[path]

    def compare(self, request):
        """[score, same] of each pair of paths, None for a pair with a photo in which no face is found."""
        answers = []
        for a, b in request["pairs"]:
            one, other = self._face(a), self._face(b)
            answers.append(None if one is None or other is None else list(self.peer.verdict(one, other)))
        return {"verdicts": answers}

    def enroll(self, request):
        people = request["people"]
        if hasattr(self.peer, "enroll"):
            return {"enrolled": self.peer.enroll(people)}
        faces = {name: self._face(path) for name, path in people.items()}
        self.enrolled = [(name, face) for name, face in faces.items() if face is not None]
        return {"enrolled": len(self.enrolled)}

    def _identify(self, path):
        """(box, name or None) of each face, and the size of the photo."""
        photo = self.peer.read(path)
        named = []
        for box, face in self.peer.represent(photo):
            verdicts = [(*self.peer.verdict(face, other), name) for name, other in self.enrolled]
            _, same, name = max(verdicts, key=lambda verdict: verdict[0], default=(0, False, None))
            named.append((box, name if same else None))
        return named, self.peer.size(photo)

    def identify(self, request):
        """The name, None for unknown, of the large and central face of each photo; "" where no face is found."""
        identify = getattr(self.peer, "identify", lambda paths: map(self._identify, paths))
        times, results = self._timed(lambda: list(identify(request["paths"])), 1)
        names = [central(named, *size)[1] if named else "" for named, size in results]
        return {**times, "names": names, "faces": [len(named) for named, _ in results]}

    def align(self, request):
        """From files to crops written into a folder."""
        times, _ = self._timed(lambda: self.peer.align(request["paths"], request["out"], request["size"]), 1)
        return times

    def train(self, request):
        times, _ = self._timed(lambda: self.peer.train_step(request["batch"]), request.get("repeat", 1))
        return times

    def index(self, request):
        times, _ = self._timed(lambda: self.peer.index(request["vectors"]), 1)
        return times

    def search(self, request):
        times, found = self._timed(lambda: self.peer.search(request["probes"]), request.get("repeat", 1))
        return {**times, "found": [int(row) for row in found]}

    def memory(self, _):
        """The largest resident set so far, in bytes."""
        status = Path("/proc/self/status")
        if status.exists():
            return {"peak": int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024}
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {"peak": peak if sys.platform == "darwin" else peak * 1024}


REQUESTS = (
    "about", "detect", "embed", "compare", "enroll", "identify", "align", "train", "index", "search", "memory",
)  # fmt: skip


def main() -> None:
    # What libraries print must not come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    path = Path(sys.argv[1]).resolve()
    sys.path.pop(0)  # this folder, whose modules are not for peers
    spec = importlib.util.spec_from_file_location("bench_peer", path)
    module = importlib.util.module_from_spec(spec)
    start = time.perf_counter()
    spec.loader.exec_module(module)
    import_seconds = time.perf_counter() - start
    door = None
    for line in sys.stdin:
        try:
            request = json.loads(line)
            if door is None:
                door = Door(module.Peer(), import_seconds)
            do = request["do"]
            answer = getattr(door, do)(request) if do in REQUESTS else {"error": f"unknown request {do!r}"}
        except Exception as error:
            import traceback

            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"[:500]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
