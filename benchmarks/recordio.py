"""RecordIO: time and memory of opening a large file, and the cost of reading from it compared with decoding.

The files are created in a temporary folder, 5 GB each, sparse: parts that are not read are not written. Every opening is a
separate process. Two processes read real JPEGs (112 px) spread over such a file, at random, and decode them;
every few images are also decoded from memory, by Pillow alone and by the package, alternately in the same process, so
that other programs on the machine slow all of them equally. The file's pages are in the system's cache, because it has just been
written.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import platform
import random
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from facespace.datasets.formats.recordio import RecordImages
from facespace.datasets.formats.recordio_index import HEADER, MAGIC, PART, read_index, write_index
from facespace.io import image

FILE_BYTES = 5_000_000_000
N_MANY, N_IDENTITIES = 1_000_000, 10_000
N_FEW = 100_000  # with a header for each: of a million, hardly a block of the file would be left out
N_READ = 20_000
SLICE = 20
ROUNDS = 5


def machine() -> str:
    model = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
    return f"{model}, {multiprocessing.cpu_count()} cores, Python {platform.python_version()}, NumPy {np.__version__}"


def record(labels: tuple[float, ...], key: int, n_content: int) -> bytes:
    """All that stands in front of a record's content."""
    length = HEADER.size + 4 * len(labels) + n_content
    head = PART.pack(MAGIC, length) + HEADER.pack(len(labels), 0.0, key, 0)
    return head + struct.pack(f"<{len(labels)}f", *labels)


def make_identities(folder: Path) -> None:
    """insightface's layout: images of which only the first of each identity is written, and the identities' records."""
    each, step = N_MANY // N_IDENTITIES, FILE_BYTES // N_MANY // 4 * 4
    n0 = N_MANY + 1
    offsets = np.arange(N_MANY) * step
    end = N_MANY * step
    with open(folder / "train.rec", "wb") as file:
        for identity in range(N_IDENTITIES):
            file.seek(identity * each * step)
            file.write(record((identity, 1), identity * each + 1, step - 40))
        file.seek(end)
        for identity in range(N_IDENTITIES):
            file.write(record((identity * each + 1, identity * each + each + 1), n0 + identity, 0))
        file.write(record((n0, n0 + N_IDENTITIES), 0, 0))
    rest = end + 40 * np.arange(N_IDENTITIES + 1)
    keys = np.concatenate([np.arange(1, n0 + N_IDENTITIES), [0]])
    write_index(folder / "train.idx", keys, np.concatenate([offsets, rest]))


def make_images(folder: Path, *, index: bool) -> None:
    """Images and nothing else, a header of each."""
    step = FILE_BYTES // N_FEW // 4 * 4
    with open(folder / "train.rec", "wb") as file:
        for key in range(N_FEW):
            file.seek(key * step)
            file.write(record((key // 100,), key, step - 36))
        file.truncate(N_FEW * step)
    if index:
        write_index(folder / "train.idx", np.arange(N_FEW), np.arange(N_FEW) * step)


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def open_it(folder: Path, what: str) -> None:
    before = peak()
    began = time.perf_counter()
    text = f"{what:<44}"
    if (folder / "train.idx").exists():
        n = len(read_index(str(folder / "train.idx"), (folder / "train.rec").stat().st_size)[0])
        seconds = time.perf_counter() - began
        text += f" {n:>9,} {seconds:>7.2f} {seconds / n * 1e6:>9.2f}"
        began = time.perf_counter()
    else:
        text += f" {N_FEW:>9,} {'':>7} {'':>9}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        images = RecordImages(folder)
    seconds = time.perf_counter() - began
    print(f"{text} {seconds:>7.2f} {seconds / len(images) * 1e6:>9.2f} {before:>8.0f} {peak():>8.0f}")


def opening() -> None:
    print(f"opening .rec files of {FILE_BYTES / 1e9:.0f} GB: index alone and all of it, in s and in s a million; MB")
    print(f"{'':<44}   records   index a million    open a million   before     peak")
    makers: dict[str, Callable[[Path], None]] = {
        "identities' records tell the labels": make_identities,
        "every image's header tells its label": lambda folder: make_images(folder, index=True),
        "no index: walked through, index made and saved": lambda folder: make_images(folder, index=False),
    }
    for what, make in makers.items():
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder))
            command = [sys.executable, __file__, "--open", folder, "--what", what]
            print(subprocess.run(command, check=True, capture_output=True, text=True).stdout, end="", flush=True)


# Reading


def make_spread(folder: Path, real: RecordImages) -> list[bytes]:
    """Real JPEGs, again and again, at random places of a file of 5 GB; the list is of those in the order of keys."""
    rng = random.Random(2018)
    jpegs = [real.encoded(k) for k in range(len(real))]
    step = FILE_BYTES // N_READ // 4 * 4
    offsets, content = [], []
    with open(folder / "train.rec", "wb") as file:
        for key in range(N_READ):
            jpeg = jpegs[key % len(jpegs)]
            offset = key * step + (rng.randrange(step - len(jpeg) - 100) // 4 * 4 if key else 0)
            file.seek(offset)
            file.write(record((key % len(jpegs),), key, len(jpeg)) + jpeg)
            offsets.append(offset)
            content.append(jpeg)
        file.truncate(FILE_BYTES)
    write_index(folder / "train.idx", np.arange(N_READ), np.array(offsets))
    return content


def read_slices(
    images: RecordImages, jpegs: list[bytes], seed: int, start: object, results: multiprocessing.Queue[object]
) -> None:
    rng = random.Random(seed)
    order = list(range(seed % 2, len(images), 2))
    rng.shuffle(order)
    ways: list[Callable[[int], object]] = [
        lambda k: np.asarray(Image.open(io.BytesIO(jpegs[k])).convert("RGB")),
        lambda k: image.read(jpegs[k]),
        images.read,
    ]
    spent = [0.0] * len(ways)
    start.wait()  # type: ignore[attr-defined]
    for number, at in enumerate(range(0, len(order), SLICE)):
        block = order[at : at + SLICE]
        for turn in range(len(ways)):
            way = (number + turn) % len(ways)
            began = time.perf_counter()
            for k in block:
                ways[way](k)
            spent[way] += time.perf_counter() - began
    results.put((len(order), spent, peak()))


def reading(shared: Path) -> None:
    real = RecordImages(shared / "data" / "records")
    with tempfile.TemporaryDirectory() as folder:
        jpegs = make_spread(Path(folder), real)
        images = RecordImages(folder)
        check = random.Random(0).sample(range(len(images)), 500)
        assert all(images.encoded(k) == jpegs[k] for k in check)
        print(f"\ntwo processes, {N_READ:,} JPEGs of 112 px at random from {FILE_BYTES / 1e9:.0f} GB; images a second")
        print(
            "         memory, Pillow   memory, facespace   the file   to Pillow   to facespace   MB peak of a process"
        )
        ratios = []
        for number in range(ROUNDS):
            context = multiprocessing.get_context("spawn")
            start, results = context.Barrier(2), context.Queue()
            workers = [
                context.Process(target=read_slices, args=(images, jpegs, 10 * number + part, start, results))
                for part in range(2)
            ]
            for worker in workers:
                worker.start()
            done = [results.get() for _ in workers]
            for worker in workers:
                worker.join()
            pillow, own, file = (sum(n / spent[way] for n, spent, _ in done) for way in range(3))
            ratios.append((file / pillow, file / own))
            print(
                f"round {number + 1}  {pillow:>14,.0f} {own:>19,.0f} {file:>10,.0f} {file / pillow:>11.3f}"
                f" {file / own:>14.3f} {max(one[-1] for one in done):>22.0f}",
                flush=True,
            )
        medians = (sorted(ratio[way] for ratio in ratios)[ROUNDS // 2] for way in range(2))
        print("median ratio to Pillow from memory {:.3f}, to facespace.read from memory {:.3f}".format(*medians))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--what", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.open:
        open_it(args.open, args.what)
        return
    print(machine())
    print(f"{shutil.disk_usage(tempfile.gettempdir()).free / 1e9:.0f} GB free for temporary files\n")
    opening()
    reading(args.shared)


if __name__ == "__main__":
    main()
