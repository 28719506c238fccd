"""Detect, align and embed with the networks on a GPU: photos per second of each stage and of the whole, compared with the card's limit.

    pip install onnxruntime-gpu   # instead of onnxruntime: their files overwrite each other
    python benchmarks/gpu_pipeline.py --shared ../shared

Photos are the first --photos of the album (CelebA, original sizes). Stages are measured alone on all of them: decoding,
detecting with YuNet in batches of 16 photos, aligning and embedding (photo and mirror image) 64 faces per batch; then the
whole, from files to vectors, as in `facespace embed`. The median of --rounds counts.

The limit of a stage is the rate of the device's own matrix product, in float32 or else bfloat16, measured here with torch, divided
by the operations of the network on these photos: two for each multiplication of its convolutions and products. Networks with
depthwise convolutions stay far below it, because memory limits them. `--device cpu` runs the same on the processor.
Without a CUDA card, the program says so in one line and ends with code 2.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import facespace
from facespace.detection.factory import create_detector
from facespace.detection.yunet_network import yunet_network
from facespace.faces.alignment import align
from facespace.formats.onnx_model import describe, parse_model
from facespace.models.opening import open_model
from facespace.pipeline.face_batches import in_chunks
from facespace.runtime.onnx_network import OnnxNetwork

MODELS = ("sface", "casia-webface")
BATCH = 64  # faces


def operations(model: bytes, images: np.ndarray) -> float:
    """Multiplications and additions of the convolutions and products of an ONNX network for images (n,H,W,3)."""
    parsed = parse_model(model, "model")
    kernels = {tensor.name: list(tensor.dims) for tensor in parsed.graph.initializer}
    products = [node for node in parsed.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    products = [node for node in products if node.input[1] in kernels]
    present = {value.name for value in parsed.graph.output}
    for node in products:
        if node.output[0] not in present:
            dims = ["n", "c", "h", "w"] if node.op_type == "Conv" else ["n", "c"]
            describe(parsed.graph.output.add(name=node.output[0]), np.float32, dims)
    network = OnnxNetwork(parsed.SerializeToString(), source="model", precision="float32", runtime="onnxruntime")
    (shape,) = network.inputs.values()
    inputs = images.transpose(0, 3, 1, 2) if shape[1] == 3 else images
    outputs = dict(zip(network.outputs, network.run(np.ascontiguousarray(inputs)), strict=True))
    total = 0
    for node in products:
        kernel, made = kernels[node.input[1]], outputs[node.output[0]]
        each = math.prod(kernel[1:]) if node.op_type == "Conv" else math.prod(kernel) // made.shape[-1]
        total += made.size * each
    return 2.0 * total


def matrix_rate(device: str, precision: str) -> float:
    """Operations a second of the device's own product of two square matrices."""
    import torch

    side = 8192 if device == "cuda" else 2048
    kind = torch.float32 if precision == "float32" else torch.bfloat16
    a, b = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
    torch.backends.cuda.matmul.allow_tf32 = False
    times = []
    for _ in range(8):
        start = time.perf_counter()
        c = a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    del c
    return 2 * side**3 / min(times)


def seconds(work: Callable[[], object], rounds: int) -> float:
    """The median of so many runs, after one that does not count."""
    work()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def line(name: str, n_photos: int, taken: float, *, limit: float | None = None, note: str = "") -> None:
    share = "" if limit is None else f"{n_photos / taken / limit:>9.1%} of {limit:,.0f}"
    print(f"{name:<40}{n_photos / taken:>11.1f}{share:<24}{note}", flush=True)


def recogniser(name: str, device: Any, crops: np.ndarray, n_photos: int, rounds: int) -> facespace.Embedder | None:
    """The model on the device, its stage measured; None where the device cannot compute it."""
    try:
        embedder = facespace.Embedder.load(name, device=device)
    except facespace.RuntimeUnavailable as error:
        print(f"{name}: {error}", flush=True)
        return None
    opened = open_model(name)
    assert opened.read_onnx is not None
    each = operations(opened.read_onnx(), embedder.spec.preprocess(crops[:1]))
    n_images = 2 * len(crops)  # with the mirror images
    limit = matrix_rate(device, embedder.precision) / (each * n_images / n_photos)
    parts = [crops[k : k + BATCH] for k in range(0, len(crops), BATCH)]
    taken = seconds(lambda: [embedder.represent(part) for part in parts], rounds)
    note = f"  {embedder.runtime} {embedder.precision}, {each / 1e9:.2f} GFLOP a crop"
    line(f"embed, {name}", n_photos, taken, limit=limit, note=note)
    return embedder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--photos", type=int, default=569)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    args = parser.parse_args()
    try:
        import torch
    except ImportError:
        sys.exit("gpu_pipeline: needs torch; pip install 'facespace[train]'")
    if args.device == "cuda" and not torch.cuda.is_available():
        print(
            f"gpu_pipeline: torch {torch.__version__} sees no CUDA card here; --device cpu runs the same on the processor"
        )
        raise SystemExit(2)

    paths = sorted((args.shared / "data/album").rglob("*.jpg"))
    paths = list(itertools.islice(itertools.cycle(paths), args.photos))
    card = torch.cuda.get_device_name() if args.device == "cuda" else f"processor, {torch.get_num_threads()} threads"
    print(f"{card}; torch {torch.__version__}, facespace {facespace.__version__}")
    photos = [facespace.read(path) for path in paths]
    chunks = list(in_chunks(photos, lambda photo: photo.size // 3))
    size = f"{np.mean([photo.shape[0] * photo.shape[1] for photo in photos]) / 1e6:.2f} megapixels"
    print(f"{len(photos)} photos of {size} on average; {'photos a second':>45}  of the limit")

    line("decode (processor)", len(photos), seconds(lambda: [facespace.read(path) for path in paths], args.rounds))
    try:
        detector = create_detector("yunet", device=args.device)
    except (facespace.RuntimeUnavailable, facespace.ModelError) as error:
        print(f"yunet: {error}; it computes on the processor in what follows", flush=True)
        detector = create_detector("yunet")
    shapes = [photo.shape[:2] for photo in photos]
    work = {shape: operations(yunet_network(), padded(shape)) for shape in set(shapes)}
    each = float(np.mean([work[shape] for shape in shapes]))
    limit = matrix_rate("cpu" if detector.runtime != "cuda" else "cuda", "float32") / each
    taken = seconds(lambda: [detector.detect_many(chunk) for chunk in chunks], args.rounds)
    line(
        "detect, yunet",
        len(photos),
        taken,
        limit=limit,
        note=f"  {detector.runtime} float32, {each / 1e9:.2f} GFLOP a photo",
    )

    found = [faces for chunk in chunks for faces in detector.detect_many(chunk)]
    pairs = [(photo, face) for photo, faces in zip(photos, found, strict=True) for face in faces]
    for name in args.models:
        spec = open_model(name).spec
        crops = np.stack([align(photo, face, spec) for photo, face in pairs])
        taken = seconds(lambda spec=spec: [align(photo, face, spec) for photo, face in pairs], args.rounds)
        line(f"align, {name} (processor)", len(photos), taken)
        embedder = recogniser(name, args.device, crops, len(photos), args.rounds)
        if embedder is None:
            continue
        whole = seconds(lambda one=embedder: sum(1 for _ in facespace.process(paths, detector, one)), args.rounds)
        line(f"files to vectors, {name}", len(photos), whole)
    print(f"{len(pairs)} faces")


def padded(shape: tuple[int, ...]) -> np.ndarray:
    """A black photo as the detector gets it: its sides padded to multiples of 32."""
    height, width = (-(-side // 32) * 32 for side in shape)
    return np.zeros((1, height, width, 3), np.uint8)


if __name__ == "__main__":
    main()
