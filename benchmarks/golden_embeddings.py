"""casia-webface compared with the original program's embeddings: cosine for several batch sizes, runtimes, precisions.

GPUs are tested too; a missing GPU is reported. The golden crops are in ../shared.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np

import facespace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    golden = np.load(parser.parse_args().shared / "golden/casia_20180408_embeddings.npz")
    print(f"{'runtime':<13}{'precision':<10}{'batch':>6}{'cosine, lowest of 8 crops':>28}")
    seen = set()
    for runtime, device in (("openvino", "cpu"), ("onnxruntime", "cpu"), ("", "cuda"), ("", "mps")):
        os.environ["FACESPACE_RUNTIME"] = runtime
        for precision in ("float32", "bfloat16", "fastest"):
            os.environ["FACESPACE_PRECISION"] = precision
            try:
                embedder = facespace.Embedder.load("casia-webface", device=device)
            except facespace.RuntimeUnavailable as error:
                print(error)
                break
            if (embedder.runtime, embedder.precision) in seen:
                continue
            seen.add((embedder.runtime, embedder.precision))
            for batch in (1, 3, 8, 33):
                crops = np.resize(golden["crops"], (max(batch, 8), 160, 160, 3))
                parts = [embedder.embed(crops[k : k + batch]) for k in range(0, len(crops), batch)]
                reference = np.resize(golden["embeddings"], (len(crops), 512))
                cosine = (np.concatenate(parts) * reference).sum(axis=1).min()
                print(f"{embedder.runtime:<13}{embedder.precision:<10}{batch:>6}{cosine:>28.7f}")


if __name__ == "__main__":
    main()
