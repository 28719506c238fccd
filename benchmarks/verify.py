"""`facespace verify` on LFW view 1 and on its `.bin`: the output of the commands, and that the file is read exactly."""

from __future__ import annotations

import argparse
import hashlib
import io
import pickle
import subprocess
import sys
from pathlib import Path

from PIL import Image

from facespace.datasets.pairs.insightface_bin import read_bin


def run(*arguments: object) -> None:
    words = [str(argument) for argument in arguments]
    print(f"$ facespace {' '.join(words)}")
    done = subprocess.run([sys.executable, "-m", "facespace", *words], capture_output=True, text=True, check=False)
    print(done.stdout + done.stderr + (f"(exit code {done.returncode})\n" if done.returncode else ""), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    args = parser.parse_args()
    data = args.shared / "data"
    view, pairs = data / "lfw_view1/images", data / "lfw_view1/pairsDevTest.txt"
    train = data / "lfw_view1/pairsDevTrain.txt"
    recipe = ["--threshold-from", train, "--flip", "--subtract-mean", "--distance", "angle"]
    for model in ("sface", "casia-webface"):
        run("verify", "lfw", view, "--pairs", pairs, *recipe, "--model", model)
    run("verify", "lfw", view, "--pairs", pairs, "--threshold-from", train, "--model", "casia-webface")

    for name in ("lfw_dev.bin", "lfw_dev_40_protocol2.bin"):
        read = read_bin(data / name)
        with (data / name).open("rb") as file:  # this file is ours; the plain unpickler is the oracle
            images, same = pickle.load(file, encoding="bytes")
        sizes = {Image.open(io.BytesIO(image)).size for image in read.images}
        digest = hashlib.sha256(b"".join(read.images)).hexdigest()[:16]
        exact = list(map(bytes, images)) == list(read.images) and list(same) == read.same.tolist()
        print(
            f"{name}: {len(read.images)} images of {sizes}, {int(read.same.sum())} of {len(read.same)} pairs same, "
            f"SHA-256 {digest}; as plain pickle reads it: {exact}"
        )
    print()
    run("verify", "bin", data / "lfw_dev.bin")
    facenet = ("--model", "casia-webface")
    run("verify", "bin", data / "lfw_dev.bin", *facenet)
    run(
        "verify",
        "bin",
        data / "lfw_dev.bin",
        *facenet,
        "--resize-crops",
        "--flip",
        "--subtract-mean",
        "--distance",
        "angle",
    )


if __name__ == "__main__":
    main()
