"""`facespace convert casia-webface` in fresh processes: seconds, peak memory, and the golden embeddings afterwards."""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from facespace import Embedder
from facespace.faces.input_spec import INPUT_SPECS
from facespace.models.folder import read_record

RUNS = 5


def converted(out: Path, *options: object) -> tuple[float, float, str]:
    """Seconds, peak resident MB and what was printed; the peak is the child's own, told by the child."""
    code = (
        "import resource, sys\nfrom facespace.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, file=sys.stderr)"
    )
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, "convert", "casia-webface", str(out), *map(str, options)],
        capture_output=True,
        text=True,
        check=True,
    )
    return time.perf_counter() - start, float(done.stderr.split()[-1]), done.stdout


def drop_from_cache(folder: Path) -> None:
    """Tell the kernel to forget the package's files where it takes the advice: a first run reads them from the disk."""
    import os

    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    args = parser.parse_args()
    with np.load(args.shared / "golden" / "casia_20180408_embeddings.npz") as file:
        crops, wanted = file["crops"], file["embeddings"]
    packages = Path(np.__file__).parents[1]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "model")
        runs = []
        for n in range(RUNS):
            drop_from_cache(packages)
            seconds, peak, printed = converted(out)
            runs.append((seconds, peak))
            print(f"run {n + 1}, its files dropped from the page cache: {seconds:.1f} s, peak {peak:.0f} MB")
            if n < RUNS - 1:
                shutil.rmtree(out)
        print(printed, end="")
        seconds, peak = (statistics.median(column) for column in zip(*runs, strict=True))
        print(f"median {seconds:.1f} s, peak {peak:.0f} MB (15 s and 2 GB wanted)")
        report(out, crops, wanted)

        again = Path(folder, "trainable")
        seconds, peak, printed = converted(again, "--crops", args.shared / "data" / "train_182")
        print(f"\n{printed}with statistics of batch norms: {seconds:.1f} s, peak {peak:.0f} MB")
        report(again, crops, wanted)


def report(folder: Path, crops: np.ndarray, wanted: np.ndarray) -> None:
    import torch

    from facespace.models.folder import read_backbone

    images = INPUT_SPECS["facenet-2018"].preprocess(crops).transpose(0, 3, 1, 2).copy()
    with torch.inference_mode():
        features = read_backbone(folder, read_record(folder))(torch.from_numpy(images)).numpy()
    by_torch = features / np.linalg.norm(features, axis=1, keepdims=True)
    by_onnx = Embedder.load(folder, precision="float32").embed(crops)
    print(
        f"largest difference to the golden embeddings: model.onnx {np.abs(by_onnx - wanted).max():.1e}, "
        f"model.safetensors {np.abs(by_torch - wanted).max():.1e}"
    )


if __name__ == "__main__":
    main()
