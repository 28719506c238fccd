"""Every reader tested with damaged files: atheris (libFuzzer) searches for damage that reaches new code.

`pip install atheris`, which only this script needs. Each reader runs for `--seconds` in a separate process, whose memory
may grow by 2 GiB above its initial size. Half of the files are libFuzzer's: first a valid file,
then files that reached new code, damaged further, with values inserted that the code compares with. Half are the valid file with
flipped, deleted, inserted and repeated bytes and overwritten lengths, mostly at its ends. A result is right if the
file is read, or if one of facespace's errors gives the reason in one line. Any other result ends the run, and the file is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

from facespace.errors import FacespaceError

SHARED = Path("../shared/data")
SLOWEST_ALLOWED = 20.0  # seconds for one file

Reader = Callable[[Path], object]


def read_all(reader: Callable[[Path], object]) -> Reader:
    """A dataset, all of its images as bytes and some of them decoded; a damaged image is an error of its own."""

    def run(path: Path) -> None:
        images = reader(path)
        for index in range(len(images)):
            try:
                images.encoded(index)
                if index < 3:
                    images.read(index)
            except FacespaceError as error:
                one_line(error)

    return run


def one_line(error: Exception) -> None:
    if "\n" in str(error) or not str(error):
        raise AssertionError(f"not one line: {error!r}")


def crops(folder: Path, n: int = 6) -> Path:
    """Class folders of a few real crops."""
    for k, person in enumerate(sorted((SHARED / "train_182").iterdir())[: n // 2]):
        (folder / person.name).mkdir(parents=True)
        for file in sorted(person.iterdir())[:2]:
            shutil.copy(file, folder / person.name / f"{k}{file.name}")
    return folder


def seeds(folder: Path) -> dict[str, tuple[Path, str | None, Reader]]:
    """Reader's name → a whole file or folder, the file of it to damage, and how it is read."""
    import base64
    import zipfile

    import torch

    from facespace.backbones.registry import create
    from facespace.conversion.converter import convert
    from facespace.datasets.convert import convert_dataset
    from facespace.datasets.formats.msceleb import MSCelebImages
    from facespace.datasets.formats.parquet import ParquetImages
    from facespace.datasets.formats.recordio import RecordImages
    from facespace.datasets.formats.tfrecord import TFRecordImages
    from facespace.datasets.formats.webdataset import TarImages
    from facespace.datasets.pairs.insightface_bin import read_bin
    from facespace.embedding.embedder import Embedder
    from facespace.formats.tf_checkpoint import read_checkpoint
    from facespace.formats.tf_graph import read_graph
    from facespace.formats.tf_to_onnx import to_onnx
    from facespace.formats.torch_files import as_safetensors, read_state_dict
    from facespace.formats.zip_files import unpack_weights
    from facespace.io.file_kinds import is_video, kind_in_folder
    from facespace.io.image import read as read_image
    from facespace.models.folder import read_record

    tf1 = SHARED / "tf1_squeezenet_128"
    faces = crops(folder / "faces")
    made = {}
    for to in ("recordio", "tfrecord", "webdataset", "parquet"):
        convert_dataset(faces, folder / to, to=to)
        made[to] = folder / to

    def only(where: str, ending: str) -> str:
        return next(path.name for path in sorted(made[where].iterdir()) if path.name.endswith(ending))

    table = folder / "faces.tsv"
    with table.open("wb") as file:
        for k, path in enumerate(sorted(faces.rglob("*.*"))):
            image = base64.b64encode(path.read_bytes())
            file.write(b"\t".join([b"m.%d" % (k // 2), b"1", b"u", b"p", b"FaceId-0", image]) + b"\n")
    small = folder / "weights.pt"
    network = create("tiny", dimension=8)
    torch.save(network.state_dict(), small)
    tensors = folder / "weights.safetensors"
    tensors.write_bytes(as_safetensors(network))
    convert(tensors, folder / "model")
    onnx = folder / "net.onnx"
    shutil.copy(folder / "model" / "model.onnx", onnx)
    onnx.with_suffix(".json").write_text('{"input_spec": "arcface-112"}')
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir()
    for path in tf1.iterdir():
        if path.suffix != ".pb":
            shutil.copy(path, checkpoint)
    photos = {}
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8))
    for name, options in (("jp2", {}), ("j2k", {"no_jp2": True, "tile_size": (32, 32)})):
        photos[name] = folder / f"photo.{name}"
        picture.copy().save(photos[name], "JPEG2000", **options)  # what saves remembers its encoder
    photos["tif"] = folder / "photo.tif"
    thumbnail = picture.resize((16, 12))
    thumbnail.save(photos["tif"], "TIFF", save_all=True, append_images=[picture], tiffinfo={254: 1})
    packed = folder / "model.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tensors, "20180408/20180408.pb")

    def load_onnx(path: Path) -> None:
        shutil.copy(onnx.with_suffix(".json"), path.with_suffix(".json"))
        Embedder.load(path)

    def read_photo(path: Path) -> None:
        bare = shutil.copy(path, path.with_suffix(""))
        kind_in_folder(bare)
        is_video(bare)
        read_image(path)

    def unzip(path: Path) -> None:
        with tempfile.TemporaryDirectory() as out:
            unpack_weights(path, Path(out, "unpacked"))

    return {
        "TF1 frozen graph": (tf1 / "20180101-000000.pb", None, lambda p: to_onnx(read_graph(p), source="g")),
        "TF1 checkpoint .index": (checkpoint, "model-20180101-000000.ckpt-7.index", read_checkpoint),
        "TF1 checkpoint .meta": (checkpoint, "model-20180101-000000.ckpt-7.meta", read_checkpoint),
        "TF1 checkpoint .data": (checkpoint, "model-20180101-000000.ckpt-7.data-00000-of-00001", read_checkpoint),
        "ONNX": (onnx, None, load_onnx),
        "torch.save": (small, None, read_state_dict),
        "safetensors": (tensors, None, read_state_dict),
        "model folder": (folder / "model", "model.json", read_record),
        "zip of weights": (packed, None, unzip),
        "RecordIO .rec": (made["recordio"], "train.rec", read_all(RecordImages)),
        "RecordIO .idx": (made["recordio"], "train.idx", read_all(RecordImages)),
        "TFRecord": (made["tfrecord"], only("tfrecord", ".tfrecords"), read_all(TFRecordImages)),
        "WebDataset tar": (made["webdataset"], only("webdataset", ".tar"), read_all(TarImages)),
        "Parquet": (made["parquet"], only("parquet", ".parquet"), read_all(ParquetImages)),
        "MS-Celeb table": (table, None, read_all(MSCelebImages)),
        "JPEG 2000 in boxes": (photos["jp2"], None, read_photo),
        "JPEG 2000 codestream": (photos["j2k"], None, read_photo),
        "TIFF behind a thumbnail": (photos["tif"], None, read_photo),
        "verification .bin": (SHARED / "lfw_dev_40_protocol2.bin", None, read_bin),
    }


def damaged(whole: bytes, rng: np.random.Generator) -> bytes:
    data = bytearray(whole)
    for _ in range(int(rng.integers(1, 5))):
        if not data:
            break
        # Headers and footers tell sizes: half of the damage is done there.
        edge = min(len(data), 4096)
        at = int(rng.integers(len(data)))
        if rng.random() < 0.5:
            at = int(rng.integers(edge)) if rng.random() < 0.5 else len(data) - 1 - int(rng.integers(edge))
        kind = int(rng.integers(7))
        if kind == 0:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data[at] = int(rng.integers(256))
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            del data[at : at + int(rng.integers(1, 64))]
        elif kind == 4:
            data[at:at] = rng.bytes(int(rng.integers(1, 64)))
        elif kind == 5:
            number = [0, 1, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1][int(rng.integers(7))]
            width = [4, 8][int(rng.integers(2))]
            data[at : at + width] = (number & (2 ** (8 * width) - 1)).to_bytes(width, "little")
        else:
            data[at:at] = data[at : at + int(rng.integers(1, 512))]
    return bytes(data)


def fuzz_one(name: str, folder: Path, seconds: float, seed: int) -> None:
    """In a process of its own, which ends here: print one JSON object, or leave with the file that went wrong."""
    import atheris

    warnings.simplefilter("ignore")
    with atheris.instrument_imports(include=["facespace"]):
        source, target, reader = seeds(folder)[name]
        work = folder / "work" / source.name
        work.parent.mkdir()
        (shutil.copytree if source.is_dir() else shutil.copy)(source, work)
        file = work / target if target else work
        whole = file.read_bytes()
        reader(work)  # undamaged, it is read; what is loaded once is loaded now
    corpus = folder / "corpus"
    corpus.mkdir()
    (corpus / "whole").write_bytes(whole)
    counts = {"read": 0, "refused": 0, "slowest": 0.0}
    end = time.monotonic() + seconds

    def test_one(data: bytes) -> None:
        if time.monotonic() > end:
            print(json.dumps(counts), flush=True)
            os._exit(0)
        file.write_bytes(data)
        start = time.process_time()
        try:
            reader(work)
            counts["read"] += 1
        except FacespaceError as error:
            one_line(error)
            counts["refused"] += 1
        took = time.process_time() - start
        counts["slowest"] = max(counts["slowest"], took)
        if took > SLOWEST_ALLOWED:
            raise AssertionError(f"one file took {took:.1f} s")

    def mutate(data: bytes, max_size: int, mutation: int) -> bytes:
        if mutation % 2:
            return bytes(atheris.Mutate(data, max_size))
        return damaged(whole, np.random.default_rng(mutation))[:max_size]

    options = [
        f"-seed={seed + 1}",  # 0 would be the time
        f"-max_len={len(whole) + 4096}",
        f"-artifact_prefix=fuzz-{name.replace(' ', '-')}-",
        f"-timeout={SLOWEST_ALLOWED * 10:.0f}",  # of the wall's clock: the machine is shared
        "-rss_limit_mb=0",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], test_one, custom_mutator=mutate)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**31, used + 2**31))
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        fuzz_one(args.one[0], Path(args.one[1]), args.seconds, args.seed)
        return
    with tempfile.TemporaryDirectory() as folder:
        names = list(seeds(Path(folder)))
    versions = f"atheris {version('atheris')}, python {sys.version.split()[0]}"
    print(f"{args.seconds:g} s a reader, seed {args.seed}, at most 2 GiB more memory, {versions}")
    failed = False
    for name in names:
        if args.only and args.only not in name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, "--one", name, folder, "--seconds", str(args.seconds)]
            done = subprocess.run([*command, "--seed", str(args.seed)], capture_output=True, text=True, check=False)
        if done.returncode:
            failed = True
            said = [line for line in done.stderr.splitlines() if "Error" in line or "ERROR" in line]
            print(f"{name:<24} FAILED ({done.returncode}): {said[:3] or done.stderr[-300:]}", flush=True)
            continue
        counts = json.loads(done.stdout.splitlines()[-1])
        total = counts["read"] + counts["refused"]
        reached = [int(n) for n in re.findall(r" cov: (\d+)", done.stderr)]
        print(
            f"{name:<24}{total:>7} files: {counts['refused']} refused, {counts['read']} read, "
            f"slowest {counts['slowest']:.2f} s of processor, code reached {reached[0]} -> {reached[-1]}",
            flush=True,
        )
    sys.exit(failed)


if __name__ == "__main__":
    main()
