"""Dataset formats exchanged with the programs they come from: files written here are read there, and the reverse.

usage: formats_real.py --peer PYTHON [--shared FOLDER]    PYTHON has tensorflow, webdataset, datasets and pillow
The data are the 1,293 images of the shared records; a digest is SHA-256 over labels and image bytes in order.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from facespace.datasets.convert import convert_dataset
from facespace.datasets.opening import open_dataset
from facespace.datasets.protocol import LabelledImages


def digest(images: LabelledImages) -> list[object]:
    total = hashlib.sha256()
    for label, index in zip(images.labels.tolist(), range(len(images)), strict=True):
        total.update(label.to_bytes(8, "little") + images.encoded(index))
    return [len(images), total.hexdigest()]


def peer(python: str, *arguments: object) -> dict[str, Any]:
    script = Path(__file__).with_name("peer_formats.py")
    done = subprocess.run([python, script, *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder, "ours"), Path(folder, "theirs")
        # By way of class folders, so that identities have names.
        convert_dataset(args.shared / "data" / "records", ours / "folder", to="folder")
        for to in ("tfrecord", "webdataset", "parquet"):
            convert_dataset(ours / "folder", ours / to, to=to, shard_images=500)
        source = open_dataset(ours / "folder")
        wanted = digest(source)
        written = peer(args.peer, "write", ours, theirs)
        here = {name: importlib.metadata.version(name) for name in ("numpy", "protobuf", "pyarrow")}
        print("there:", ", ".join(f"{name} {version}" for name, version in written["versions"].items()))
        print("here: ", ", ".join(f"{name} {version}" for name, version in here.items()))
        print(f"{wanted[0]} images of {len(source.names)} people, digest {str(wanted[1])[:16]}\n")
        print("written here, read there:")
        for program, (n, found, checks) in peer(args.peer, "read", ours).items():
            print(f"  {program}: {n} images, same labels and bytes: {[n, found] == wanted}; {checks}")
        print("written there, read here:")
        for path in sorted(theirs.iterdir()):
            images = open_dataset(path)
            n_files = len(list(path.iterdir())) if path.is_dir() else 1
            line = f"  {path.name} ({type(images).__name__}, {n_files} files): {len(images)} images"
            if path.suffix == ".tar":  # re-encoded without loss
                same = all(np.array_equal(images.read(k), source.read(k)) for k in range(len(images)))
                same &= np.array_equal(images.labels, source.labels[: len(images)])
                print(f"{line}, same labels and pixels: {same}; name of label 3: {images.names[3]!r}")
            else:
                print(
                    f"{line}, same labels and bytes: {digest(images) == wanted}; name of label 3: {images.names[3]!r}"
                )


if __name__ == "__main__":
    main()
