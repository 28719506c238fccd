"""Names in films made of photos with hard cuts: the share of face-seconds with the right name, a wrong one and none.

Ten people of the album are enrolled with six photos each. Three films show their other photos and photos of strangers,
each for 0.8 to 3 s, with a slight pan, zoom, shake and noise, compressed as H.264:

    one by one      one photo after the other, letterboxed; the whole picture changes at a cut
    same place      two people alternate, their faces in the same place; the picture around them does not change
    side by side    two photos next to each other, each with its own cuts

`frames` counts the analysed frames, each until the next one. `drawing` and `subtitles` count every frame of
the film. Right, wrong and no name are shares of the time known people are on screen; a name given to anybody else in
the picture at that time is wrong too. `strangers named` is a share of the time strangers are on screen.

With `--limits`, it prints the measurements for the limits of tracks and cuts instead, on other people: a film
of 60 photos of View 1 of Labeled Faces in the Wild, one per person, and its pairs of photos of one person.

    python benchmarks/film.py --model sface --detector yunet
"""

from __future__ import annotations

import argparse
import bisect
import re
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from PIL import Image

import facespace
import lfw
from facespace.detection.factory import create_detector
from facespace.detection.protocol import Detector
from facespace.video.appearances import Appearance, NamedFrame
from facespace.video.cuts import SIZE as THUMBNAIL_SIZE, changed_share
from facespace.video.drawing import Labels
from facespace.video.naming import VideoNamer, tracker_for
from facespace.video.reader import read_frames
from facespace.video.subrip import subtitles

ENROLLED = 6
SIZE = (512, 288)
RATE = 25
SECONDS = (0.8, 3.0)  # that a photo is shown
THRESHOLD = 0.42  # for a model without a calibration
OUTCOMES = ("right", "wrong", "no name", "strangers named")


class Shown(NamedTuple):
    """A photo in a film: who it shows (None: a stranger), its frames, and the part of the picture it is in."""

    name: str | None
    path: Path
    first: int
    end: int
    place: tuple[int, int, int, int]


def cuts(
    rng: np.random.Generator, photos: list[tuple[str | None, Path]], place: tuple[int, int, int, int]
) -> list[Shown]:
    """The photos one after the other in one place, each shown for a random time."""
    ends = np.cumsum([round(RATE * rng.uniform(*SECONDS)) for _ in photos]).tolist()
    return [
        Shown(name, path, first, end, place)
        for (name, path), first, end in zip(photos, [0, *ends[:-1]], ends, strict=True)
    ]


def view(rng: np.random.Generator, shown: Shown, detector: Detector | None) -> Iterator[tuple[Image.Image, int, int]]:
    """A moving part of the photo for each of its frames, and where it is put; around the face with a `detector`."""
    pixels = facespace.read(shown.path)
    left, top, right, bottom = shown.place
    height, width = pixels.shape[:2]
    if detector is None:  # the whole photo, letterboxed
        scale = min((right - left) / width, (bottom - top) / height)
        size = int(width * scale), int(height * scale)
        center, part = np.array([width, height]) / 2, np.array([width, height]) / 1.1
    else:  # the face in the middle, half as high as the place
        face = max(detector.detect(pixels), key=lambda face: face.height)
        scale = 0.5 * (bottom - top) / face.height
        size = right - left, bottom - top
        part = np.array(size) / scale
        margin = int(part.max()) + 1
        pixels = np.pad(pixels, ((margin, margin), (margin, margin), (0, 0)), "edge")
        center = np.array([face.box[0] + face.box[2], face.box[1] + face.box[3]]) / 2 + margin
    photo = Image.fromarray(pixels)
    shrink = min(1.0, 2 * scale)  # so that not every frame has to go through all pixels
    photo = photo.resize((round(photo.width * shrink), round(photo.height * shrink)), Image.Resampling.BOX)
    center, part = center * shrink, part * shrink
    zoom, pan = rng.uniform(0.95, 1.05, 2), rng.uniform(-0.025, 0.025, (2, 2))
    shake = np.zeros(2)
    n = shown.end - shown.first
    for k in range(n):
        share = k / n
        shake = 0.8 * shake + rng.normal(0, 0.0012, 2)
        half = part * (zoom[0] + share * (zoom[1] - zoom[0])) / 2
        middle = center + part * (pan[0] + share * (pan[1] - pan[0]) + shake)
        box = (*np.clip(middle - half, 0, None), *np.clip(middle + half, None, photo.size))
        moved = photo.resize(size, Image.Resampling.BILINEAR, box=box)
        yield moved, (left + right - size[0]) // 2, (top + bottom - size[1]) // 2


def write_film(
    path: Path,
    tracks: list[list[Shown]],
    rng: np.random.Generator,
    *,
    background: np.ndarray,
    detector: Detector | None,
) -> None:
    """The film that shows all `tracks` at once."""
    noise = rng.normal(0, 3, (8, *background.shape)).astype(np.float32)
    views = [
        (part for shown in track for part in view(np.random.default_rng(rng.integers(1 << 60)), shown, detector))
        for track in tracks
    ]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "veryfast", "crf": "26"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for k, parts in enumerate(zip(*views, strict=False)):  # until the first of them ends
            picture = Image.fromarray(background)
            for part, x, y in parts:
                picture.paste(part, (x, y))
            pixels = np.clip(np.asarray(picture) + noise[k % 8], 0, 255).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame.pts, frame.time_base = k, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


class Count:
    """Seconds with each outcome."""

    def __init__(self) -> None:
        self._seconds = dict.fromkeys((*OUTCOMES, "known", "strangers"), 0.0)

    def faces(self, seconds: float, here: list[Shown], found: list[tuple[float, float, str | None]]) -> None:
        """For `seconds`, the photos `here` are shown and faces `found`: centre, size, name."""
        for shown in here:
            inside = sorted((size, name) for x, size, name in found if shown.place[0] <= x < shown.place[2])
            if not inside:
                self._add(seconds, shown, None)
            for k, (_, name) in enumerate(reversed([(size, name or "") for size, name in inside])):
                if not k:
                    self._add(seconds, shown, name or None)
                elif name:  # a bystander in the photo
                    self._seconds["wrong" if shown.name else "strangers named"] += seconds

    def names(self, seconds: float, here: list[Shown], names: set[str]) -> None:
        """For `seconds`, the photos `here` are shown and these names stand below the picture."""
        known = {shown.name for shown in here}
        wrong = len(names - known)
        for shown in here:
            self._seconds["known" if shown.name else "strangers"] += seconds
            if shown.name:
                self._seconds["right" if shown.name in names else "no name"] += seconds
        self._seconds["strangers named" if None in known else "wrong"] += seconds * wrong

    def _add(self, seconds: float, shown: Shown, name: str | None) -> None:
        self._seconds["known" if shown.name else "strangers"] += seconds
        if shown.name:
            self._seconds["no name" if name is None else "right" if name == shown.name else "wrong"] += seconds
        elif name:
            self._seconds["strangers named"] += seconds

    def shares(self) -> list[float]:
        known, strangers = self._seconds["known"], self._seconds["strangers"]
        return [self._seconds[what] / ((strangers if what == OUTCOMES[3] else known) or np.nan) for what in OUTCOMES]


def measure(
    tracks: list[list[Shown]], frames: list[NamedFrame], appearances: list[Appearance], text: str
) -> dict[str, Count]:
    """How right the frames that were looked at, the drawing and the subtitles of a film are."""
    n = min(track[-1].end for track in tracks)
    starts = [[shown.first for shown in track] for track in tracks]

    def here(k: int) -> list[Shown]:
        return [track[bisect.bisect_right(first, k) - 1] for track, first in zip(tracks, starts, strict=True)]

    counts = {what: Count() for what in ("frames", "drawing", "subtitles")}
    for frame, after in zip(frames, [*(frame.index for frame in frames[1:]), n], strict=True):
        found = [((f.face.box[0] + f.face.box[2]) / 2, f.face.height, f.name) for f in frame.faces]
        counts["frames"].faces((after - frame.index) / RATE, here(frame.index), found)
    labels = Labels(frames, appearances)
    cues = re.findall(r"(\d+):(\d+):(\d+),(\d+) --> (\d+):(\d+):(\d+),(\d+)\n((?:.+\n)+)", text)
    spans = [
        (*(3600 * int(h) + 60 * int(m) + int(s) + int(ms) / 1000 for h, m, s, ms in (c[:4], c[4:8])), c[8].splitlines())
        for c in cues
    ]
    for k in range(n):
        drawn = [((f.box[0] + f.box[2]) / 2, f.height, name) for f, name in labels.at(k / RATE)]
        counts["drawing"].faces(1 / RATE, here(k), drawn)
        middle = (k + 0.5) / RATE
        names = {name for begin, end, names in spans if begin <= middle < end for name in names}
        counts["subtitles"].names(1 / RATE, here(k), {name for name in names if not name.startswith("unknown")})
    return counts


def degraded(rng: np.random.Generator, pixels: np.ndarray, face: facespace.Face) -> np.ndarray:
    """The frame as it is, blurred by a motion of a tenth of the face, or made so small that the face has 24 pixels."""
    how = rng.integers(3)
    if how == 1:
        steps = range(max(round(face.width / 10), 1))
        return np.mean([np.roll(pixels, step - len(steps) // 2, axis=1) for step in steps], axis=0).astype(np.uint8)
    if how == 2:
        picture, scale = Image.fromarray(pixels), 24 / face.height
        small = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BOX)
        return np.asarray(small.resize(picture.size, Image.Resampling.BICUBIC))
    return pixels


def limits(shared: Path, detector: Detector, embedder: facespace.Embedder, rng: np.random.Generator) -> None:
    """Print how similar looks and photos of LFW are, and how much pictures change at cuts."""
    root = shared / "data/lfw_view1"
    people = sorted((root / "images").iterdir())
    photos = [(people[k].name, min(people[k].iterdir())) for k in rng.permutation(len(people))[:60]]
    track = cuts(rng, photos, (0, 0, *SIZE))
    starts = [shown.first for shown in track]
    looks: dict[str, list[np.ndarray]] = {"as filmed": [], "blurred or small": []}
    shots, found = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "film.mp4")
        write_film(path, [track], rng, background=np.zeros((*SIZE[::-1], 3), np.uint8), detector=None)
        for frame in read_frames(path):
            found += frame.cuts
            if not (faces := detector.detect(frame.pixels)):
                continue
            face = max(faces, key=lambda face: face.height)
            versions = [frame.pixels, degraded(rng, frame.pixels, face)]
            crops = np.stack([facespace.align(pixels, face, embedder.spec) for pixels in versions])
            for kept, vector in zip(looks.values(), embedder.represent(crops), strict=True):
                kept.append(vector)
            shots.append(bisect.bisect_right(starts, frame.index))
        thumbnails = [
            np.asarray(Image.fromarray(frame.pixels).resize(THUMBNAIL_SIZE, Image.Resampling.BOX), np.int16)
            for frame in read_frames(path, every=1)
        ]
    changes = [(k in starts, changed_share(after, before)) for k, (before, after) in enumerate(pairwise(thumbnails), 1)]
    limit = tracker_for(embedder).min_similarity
    print(f"limit of the tracker: similarity {limit:.3f}")
    same = np.diff(shots) == 0
    for what, vectors in looks.items():
        near = np.einsum("nd,nd->n", np.stack(vectors[1:]), np.stack(vectors[:-1]))
        print(
            f"looks 0.2 s apart, {what}: {same.sum()} at one person, 1 % below {np.quantile(near[same], 0.01):.3f}, "
            f"{(near[same] < limit).sum()} below the limit; {(~same).sum()} across cuts, highest {near[~same].max():.3f}"
        )
    pairs = [pair[:2] for pair in lfw.pairs(root / "pairsDevTest.txt") if pair[2]]
    names = sorted({name for pair in pairs for name in pair})
    files = [str(root / "images" / name.rsplit("_", 1)[0] / f"{name}.jpg") for name in names]
    embedded = {
        name: photo.embeddings[0]
        for name, photo in zip(names, facespace.process(files, detector, embedder, largest=True), strict=True)
        if photo.faces
    }
    apart = [float(embedded[a] @ embedded[b]) for a, b in pairs if a in embedded and b in embedded]
    print(
        f"photos of one person at different times: {len(apart)} pairs, {np.mean(np.less(apart, limit)):.3f} below the limit"
    )
    at, between = ([change for cut, change in changes if cut is there] for there in (True, False))
    right = np.isclose(found, np.array(starts[1:]) / RATE).all() if len(found) == len(starts) - 1 else False
    print(
        f"cells of the picture that change: at {len(at)} cuts at least {min(at):.2f}, in the {len(between)} frames between "
        f"at most {max(between):.2f}; all cuts found and no other: {right}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--model", default=facespace.defaults.DEFAULT_MODEL)
    parser.add_argument("--detector", help="detector (default: the model's)")
    parser.add_argument("--people", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--threshold", type=float, help=f"similarity threshold (default for a model without a calibration: {THRESHOLD})"
    )
    parser.add_argument("--limits", action="store_true", help="print measurements for the limits on LFW instead")
    args = parser.parse_args()
    started = time.monotonic()
    album = args.shared / "data/album"
    rng = np.random.default_rng(args.seed)
    embedder = facespace.Embedder.load(args.model)
    args.detector = args.detector or embedder.detector
    detector = create_detector(args.detector)
    if args.limits:
        print(f"{embedder.name}, {embedder.runtime} {embedder.precision}, {args.detector}; seed {args.seed}")
        limits(args.shared, detector, embedder, rng)
        print(f"{time.monotonic() - started:.0f} s")
        return
    threshold = THRESHOLD if args.threshold is None and embedder.calibration is None else args.threshold

    def drawn(folder: Path, n: int) -> list[list[Path]]:
        people = sorted(folder.iterdir())
        return [sorted(people[k].iterdir()) for k in rng.permutation(len(people))[:n]]

    known, strangers = drawn(album / "known", args.people), drawn(album / "unknown", args.people)
    others = [(photos[0].parent.name, path) for photos in known for path in photos[ENROLLED:]]
    unknown = [(None, path) for photos in strangers for path in photos[:2]]

    def shuffled(photos: list[tuple[str | None, Path]]) -> list[tuple[str | None, Path]]:
        """In random order; of two neighbours at least one is known, and no person follows themselves."""
        while True:
            order = [photos[k] for k in rng.permutation(len(photos))]
            if all(a[0] != b[0] for a, b in pairwise(order)):
                return order

    everywhere, (w, h) = (0, 0, *SIZE), SIZE
    middle = (w // 2 - h // 3, h // 12, w // 2 + h // 3, h - h // 12)
    pairs = [known[k : k + 2] for k in range(0, args.people - 1, 2)]
    alternating = [
        (photos[k].parent.name, photos[k]) for a, b in pairs for k in range(ENROLLED, 10) for photos in (a, b)
    ]
    halves = [others[: len(others) // 2], others[len(others) // 2 :]]
    black = np.zeros((h, w, 3), np.uint8)
    room = Image.fromarray(rng.integers(40, 216, (6, 9, 3), np.uint8)).resize(SIZE, Image.Resampling.BICUBIC)
    films = {
        "one by one": ([cuts(rng, shuffled(others + unknown), everywhere)], black, None),
        "same place": ([cuts(rng, alternating, middle)], np.asarray(room), detector),
        "side by side": (
            [
                cuts(rng, shuffled(half + unknown[k::4]), (k * w // 2, 0, (k + 1) * w // 2, h))
                for k, half in enumerate(halves)
            ],
            black,
            None,
        ),
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        facespace.Gallery(Path(folder, "g"), embedder, create=True) as gallery,
    ):
        work = [path for photos in known for path in photos[:ENROLLED]]
        for path, photo in zip(
            work, facespace.process(map(str, work), detector, embedder, largest=True, keep_crops=True), strict=True
        ):
            if photo.faces:
                gallery.add(path.parent.name, photo.embeddings[0], photo.crops[0])
        wanted = gallery.identify(np.eye(1, embedder.dimension, dtype=np.float32), threshold=threshold)[0].threshold
        print(f"{embedder.name}, {embedder.runtime} {embedder.precision}, {args.detector}; seed {args.seed}")
        print(f"{len(gallery)} people, {len(work)} photos enrolled; similarity to reach {wanted:.3f}")
        print(f"{'':30}{''.join(f'{what:>17}' for what in OUTCOMES)}")
        for title, (tracks, background, around) in films.items():
            path = Path(folder, "film.mp4")
            write_film(path, tracks, rng, background=background, detector=around)
            namer = VideoNamer(detector, embedder, partial(gallery.identify, threshold=threshold))
            frames = list(namer.name(read_frames(path)))
            appearances = namer.finish()
            text = subtitles(appearances, interval=namer.interval)
            for what, count in measure(tracks, frames, appearances, text).items():
                print(f"{title:<16}{what:<14}{''.join(f'{share:17.4f}' for share in count.shares())}", flush=True)
            n_shown = sum(len(track) for track in tracks)
            seconds = min(track[-1].end for track in tracks) / RATE
            print(
                f"{'':16}{seconds:.0f} s, {n_shown} photos, {len(frames)} frames looked at, {len(appearances)} appearances"
            )
    print(f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
