"""SFace in facespace compared with OpenCV, ONNX Runtime and OpenVINO used directly on the same network, in alternating rounds.

The others get the network as facespace reads it, with free batch and float32 weights, their images as float32 beforehand and
their best settings: all cores; OpenVINO with both hints, and with parallel requests for throughput. OpenCV reads its own
file of the network. facespace gets uint8 crops and computes unit embeddings
(`Embedder.embed`), in this processor's default precision and in float32. Wall time counts.

    python benchmarks/recogniser_speed.py --site DIR    (DIR: pip install --target DIR openvino 'opencv-python-headless<5')
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import facespace
from facespace.io.packed_weights import read_packed
from facespace.models.opening import open_model
from facespace.models.zoo import MODELS
from facespace.runtime.cores import usable_cores
from speed import processor

BATCHES = (1, 8, 64)
CROPS_A_ROUND = 64
Run = Callable[[np.ndarray], np.ndarray]


def by_onnxruntime(model: bytes) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = usable_cores()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def by_openvino(model: bytes, precision: str, hint: str) -> Run:
    import openvino

    core = openvino.Core()
    config = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": hint}
    compiled = core.compile_model(core.read_model(model), "CPU", config)
    if hint == "LATENCY":
        request = compiled.create_infer_request()
        return lambda images: request.infer({0: images})[0].copy()
    n = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
    requests = openvino.AsyncInferQueue(compiled, n)

    def run(images: np.ndarray) -> np.ndarray:
        parts = np.array_split(images, min(n, len(images)))
        found: list[np.ndarray] = [images] * len(parts)

        def done(request: object, at: int) -> None:
            found[at] = request.get_output_tensor(0).data.copy()  # type: ignore[attr-defined]

        requests.set_callback(done)
        for at, part in enumerate(parts):
            requests.start_async({0: part}, at)
        requests.wait_all()
        return np.concatenate(found)

    return run


def by_opencv(model: bytes) -> Run:
    import cv2

    cv2.setNumThreads(usable_cores())
    network = cv2.dnn.readNetFromONNX(np.frombuffer(model, np.uint8))

    def run(images: np.ndarray) -> np.ndarray:
        network.setInput(images)
        return network.forward().copy()

    return run


def as_published() -> bytes:
    """OpenCV's own file of the network: it does not read attributes that are left out as zero, as in facespace's."""
    card = MODELS["sface"]
    return read_packed(card.file, card.sha256)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--site", type=Path, help="folder with openvino and cv2, if they are not installed")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    if args.site:
        sys.path.append(str(args.site))
    source = open_model("sface")
    assert source.read_onnx is not None
    model = source.read_onnx()
    contenders: dict[str, Run] = {}
    makers: dict[str, Callable[[], Run]] = {
        "onnxruntime float32": lambda: by_onnxruntime(model),
        "opencv float32": lambda: by_opencv(as_published()),
    }
    for precision, hint in (("f32", "LATENCY"), ("f32", "THROUGHPUT"), ("bf16", "LATENCY"), ("bf16", "THROUGHPUT")):
        makers[f"openvino {precision} {hint.lower()}"] = lambda p=precision, h=hint: by_openvino(model, p, h)
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (max(BATCHES), 112, 112, 3), np.uint8)
    images = np.ascontiguousarray(crops.transpose(0, 3, 1, 2)).astype(np.float32)
    for name, make in makers.items():
        try:
            run = make()
            run(images[:1])
            contenders[name] = run
        except Exception as error:  # a library that is not there or cannot read the network
            print(f"left out: {name} ({str(error).strip().splitlines()[0][:100]})")
    ours: dict[str, facespace.Embedder] = {}
    for precision in ("fastest", "float32"):
        embedder = facespace.Embedder.load("sface", precision=precision)
        ours[f"facespace {embedder.precision}"] = embedder
    print(
        f"{processor()}, {usable_cores()} cores, load before {os.getloadavg()[0]:.1f}; medians of {args.rounds} rounds"
    )
    reference = by_onnxruntime(model)(images[:8])
    for name, embedder in ours.items():
        cosine = (np.asarray(embedder.embed(crops[:8])) * unit(reference)).sum(axis=1).min()
        print(f"{name} ({embedder.runtime}): least cosine to ONNX Runtime {cosine:.5f}")
    for batch in BATCHES:
        work: dict[str, Callable[[], object]] = {
            name: (lambda e=one, n=batch: e.embed(crops[:n])) for name, one in ours.items()
        }
        work |= {name: (lambda r=run, n=batch: r(images[:n])) for name, run in contenders.items()}
        times: dict[str, list[float]] = {name: [] for name in work}
        for call in work.values():
            call()
            call()
        for _ in range(args.rounds):
            for name, call in work.items():
                start = time.perf_counter()
                for _ in range(CROPS_A_ROUND // batch):
                    call()
                times[name].append((time.perf_counter() - start) / CROPS_A_ROUND * 1e3)
        medians = {name: statistics.median(values) for name, values in times.items()}
        best32 = min((medians[name], name) for name in contenders if "bf16" not in name)
        best = min((medians[name], name) for name in contenders)
        print(f"\nbatch {batch}: ms a crop, median (least to most)")
        for name, values in times.items():
            print(f"  {name:28}{medians[name]:8.3f} ({min(values):.3f} to {max(values):.3f})")
        for name in ours:
            low = f"; the fastest of all ({best[1]}) {best[0] / medians[name]:.2f}"
            print(f"  {name}: speed over the fastest in float32 ({best32[1]}) {best32[0] / medians[name]:.2f}{low}")


if __name__ == "__main__":
    main()
