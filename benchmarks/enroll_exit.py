"""Whether the exit code of `enroll` reports every time that a photo was left out.

A folder with four good photos and one that must be left out is enrolled into a new gallery again and again. Each run
must end with exit code 1, name only that photo and enroll the four others. The photo to be left out is, in rotation, one
without a face, with several faces, unreadable, and too small and blurred. Most runs call `facespace.cli.main` in this
process, where only every ninth loads the model again; the others are separate processes.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from PIL import Image, ImageFilter

from facespace.cli import main as command_line
from facespace.embedding.embedder import Embedder

LOAD_EVERY = 9  # runs in one process; not a multiple of the kinds
GOOD = 4
SIDE = 180  # pixels of the photos


def make_folders(data: Path, into: Path) -> dict[str, Path]:
    """A folder of people for each kind of photo that must be left out."""
    people = sorted((data / "album" / "known").iterdir())[: GOOD + 2]
    portraits = [_small(sorted(person.iterdir())[0]) for person in people]
    pair = Image.new("RGB", (2 * SIDE, SIDE))
    for k, portrait in enumerate(portraits[GOOD:]):
        pair.paste(portrait, (k * SIDE, 0))
    far = portraits[GOOD].resize((SIDE // 4, SIDE // 4), Image.Resampling.LANCZOS).filter(ImageFilter.GaussianBlur(1.5))
    far_away = Image.new("RGB", (SIDE, SIDE), (90, 110, 130))
    far_away.paste(far, (SIDE // 3, SIDE // 3))
    landscape = Image.linear_gradient("L").resize((SIDE, SIDE)).convert("RGB")
    folders = {}
    for kind, picture in {
        "no face": landscape,
        "several faces": pair,
        "unreadable": None,
        "poor": far_away,
    }.items():
        folder = folders[kind] = into / kind
        for k in range(GOOD):
            (folder / f"good-{k}").mkdir(parents=True)
            portraits[k].save(folder / f"good-{k}" / "photo.jpg", quality=92)
        bad = folder / "left-out" / "bad.jpg"
        bad.parent.mkdir()
        if picture is None:
            bad.write_bytes((folder / "good-0" / "photo.jpg").read_bytes()[:600])
        else:
            picture.save(bad, quality=92)
    return folders


def _small(path: Path) -> Image.Image:
    with Image.open(path) as photo:
        side = min(photo.size)
        left, top = (photo.width - side) // 2, (photo.height - side) // 2
        square = photo.convert("RGB").crop((left, top, left + side, top + side))
    return square.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def run_here(arguments: list[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command line called in this process."""
    out, err = io.StringIO(), io.StringIO()
    code: object = "returned"
    before, sys.argv = sys.argv, ["facespace", *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            command_line.main()
    except SystemExit as end:
        code = 0 if end.code is None else end.code
    finally:
        sys.argv = before
    return (code if isinstance(code, int) else -1), out.getvalue(), err.getvalue()


def run_apart(arguments: list[str]) -> tuple[int, str, str]:
    """The same of a process of its own."""
    done = subprocess.run([sys.executable, "-m", "facespace", *arguments], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def is_right(code: int, out: str, err: str) -> bool:
    """Whether the run says all it must: the code, the photo left out and nothing else, the four others enrolled."""
    lines = [line for line in err.splitlines() if line.startswith("facespace: ")]
    named = [line for line in lines if "bad.jpg" in line]
    return code == 1 and len(named) == 1 and f"{GOOD} photos added; {GOOD} people" in out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder that contains album/known")
    parser.add_argument("--here", type=int, default=960, help="number of runs in this process")
    parser.add_argument("--apart", type=int, default=40, help="number of runs in separate processes")
    arguments = parser.parse_args()
    start = time.monotonic()
    load = functools.cache(Embedder.load)
    Embedder.load = load  # type: ignore[method-assign,assignment]
    codes: dict[str, Counter[int]] = {}
    said: dict[str, set[str]] = {}
    n_wrong = 0
    with tempfile.TemporaryDirectory() as place:
        folders = make_folders(arguments.data, Path(place))
        kinds = list(folders)
        for number in range(arguments.here + arguments.apart):
            kind = kinds[number % len(kinds)]
            gallery = Path(place, f"{number}.gallery")
            if number % LOAD_EVERY == 0:
                load.cache_clear()
            call = run_here if number < arguments.here else run_apart
            code, out, err = call(["enroll", "--gallery", str(gallery), "--folder", str(folders[kind])])
            codes.setdefault(kind, Counter())[code] += 1
            said.setdefault(kind, set()).add(out.replace(str(gallery), "GALLERY") + err)
            if not is_right(code, out, err):
                n_wrong += 1
                print(f"run {number}, {kind}: exit {code}\n{out}{err}", file=sys.stderr, flush=True)
            for file in Path(place).glob(f"{gallery.name}*"):
                os.unlink(file)
    found = "; ".join(
        f"{kind}: " + ", ".join(f"exit {code} {n} times" for code, n in sorted(codes[kind].items()))
        + f", {len(said[kind])} different output{'s' if len(said[kind]) > 1 else ''}"
        for kind in codes
    )  # fmt: skip
    print(
        f"{arguments.here} runs in one process, {arguments.apart} processes, {n_wrong} wrong: {found} "
        f"({time.monotonic() - start:.0f} s)"
    )
    sys.exit(n_wrong > 0)


if __name__ == "__main__":
    main()
