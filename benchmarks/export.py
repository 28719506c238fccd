"""`facespace export casia-webface` in every precision: size, agreement, speed, and LFW view 1 before and after.

int8 is calibrated on crops of other people (train_182); the threshold is chosen on pairsDevTrain, the accuracy is measured
on pairsDevTest.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime

BATCH, ROUNDS = 16, 9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    args = parser.parse_args()
    data = args.shared / "data"
    view = data / "lfw_view1"
    verify = [
        "--verify", view / "pairsDevTest.txt", "--threshold-from", view / "pairsDevTrain.txt",
        "--images", view / "images",
    ]  # fmt: skip
    with np.load(args.shared / "golden" / "casia_20180408_embeddings.npz") as file:
        golden, wanted = file["crops"], file["embeddings"]
    crops = np.concatenate([golden] * (BATCH // len(golden)))
    with tempfile.TemporaryDirectory() as folder:
        sessions = {}
        for precision in ("fp32", "fp16", "int8"):
            out = Path(folder, f"{precision}.onnx")
            words = ["export", "casia-webface", "--output", out, "--precision", precision]
            words += ["--crops", data / "train_182", *(verify if precision == "int8" else [])]
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-m", "facespace", *map(str, words)], capture_output=True, text=True, check=True
            )
            print(
                f"$ facespace {' '.join(map(str, words))}\n{done.stdout}{time.perf_counter() - start:.0f} s", flush=True
            )
            session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
            found = session.run(None, {"crops": golden})[0]
            print(f"least cosine to the golden embeddings {(found * wanted).sum(axis=1).min():.6f}\n", flush=True)
            sessions[precision] = session
        times: dict[str, list[float]] = {precision: [] for precision in sessions}
        for _ in range(ROUNDS):
            for precision, session in sessions.items():
                start = time.perf_counter()
                session.run(None, {"crops": crops})
                times[precision].append(time.perf_counter() - start)
        base = statistics.median(times["fp32"])
        print(f"plain ONNX Runtime {onnxruntime.__version__}, batches of {BATCH}, medians of {ROUNDS} in turn:")
        for precision, taken in times.items():
            median = statistics.median(taken)
            print(f"{precision}  {median / BATCH * 1000:6.1f} ms a face, {base / median:.2f} times fp32")


if __name__ == "__main__":
    main()
