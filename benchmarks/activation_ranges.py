"""Measure the tables that `facespace.runtime.quantization` needs for a model.

A convolution's range is the largest input value over crops of ../shared/data/train_182 (CelebA). Each convolution is
then computed in integers alone, and its loss (1 − cosine to float32, averaged over other crops) is compared with
the multiplications it saves: if the loss per million of them exceeds `WORTH`, the convolution stays in floating point. The last
lines are measured on crops that were used for neither step.

    python benchmarks/activation_ranges.py --output src/facespace/runtime/activation_ranges/casia-webface.json
"""

from __future__ import annotations

import argparse
import json
import math
import os
from pathlib import Path

import numpy as np

import facespace
from facespace.formats.onnx_model import describe, new_node, parse_model
from facespace.models.opening import open_model
from facespace.pipeline.sample_crops import sample_crops
from facespace.runtime.onnx_network import OnnxNetwork
from facespace.runtime.quantization import quantize

WORTH = 2.5e-7  # of 1 − cosine, for a million multiplications in integers
BATCH = 16
EVERY = 12  # of the sampled crops, for the choice; the others are for the ranges


def run(network: OnnxNetwork, spec: facespace.InputSpec, crops: np.ndarray) -> list[np.ndarray]:
    parts = [network.run(spec.preprocess(crops[k : k + BATCH])) for k in range(0, len(crops), BATCH)]
    return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]


def embed(model: bytes, spec: facespace.InputSpec, crops: np.ndarray, **options: object) -> np.ndarray:
    vectors = run(OnnxNetwork(model, source="model", **options), spec, crops)[0]
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def loss(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return 1 - (a.astype(np.float64) * b).sum(axis=1)


def largest_inputs(model: bytes, spec: facespace.InputSpec, crops: np.ndarray) -> list[float | None]:
    """For each convolution the largest value that goes into it; None where a value is negative."""
    parsed = parse_model(model, "model")
    names = [node.input[0] for node in parsed.graph.node if node.op_type == "Conv"]
    for name in set(names):
        for op in ("ReduceMin", "ReduceMax"):
            parsed.graph.node.append(new_node(op, f"{op} {name}", [name], {"axes": [1, 2, 3], "keepdims": 0}))
            describe(parsed.graph.output.add(name=f"{op} {name}"), np.float32, ["n"])
    network = OnnxNetwork(parsed.SerializeToString(), source="model", precision="float32")
    found = dict(zip(network.outputs, run(network, spec, crops), strict=True))
    least, largest = ({name: found[f"{op} {name}"] for name in names} for op in ("ReduceMin", "ReduceMax"))
    return [float(largest[name].max()) if least[name].min() >= 0 else None for name in names]


def multiplications(model: bytes, spec: facespace.InputSpec) -> list[int]:
    """For each convolution how many an image of `spec` takes."""
    parsed = parse_model(model, "model")
    kernels = {tensor.name: math.prod(tensor.dims) for tensor in parsed.graph.initializer}
    convolutions = [node for node in parsed.graph.node if node.op_type == "Conv"]
    for node in convolutions:
        describe(parsed.graph.output.add(name=node.output[0]), np.float32, ["n", "c", "h", "w"])
    network = OnnxNetwork(parsed.SerializeToString(), source="model", precision="float32")
    outputs = dict(
        zip(network.outputs, run(network, spec, np.zeros((1, spec.size, spec.size, 3), np.uint8)), strict=True)
    )
    return [kernels[node.input[1]] * math.prod(outputs[node.output[0]].shape[2:]) for node in convolutions]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--model", default="casia-webface")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()

    source = open_model(args.model)
    spec = source.spec
    assert source.read_onnx is not None
    model, fingerprint = source.read_onnx(), source.fingerprint
    crops = sample_crops(args.shared / "data/train_182", spec, 10**6)
    sampled, held_out = crops[::3], np.concatenate([crops[1::3], crops[2::3]])
    choosing = sampled[::EVERY]
    measuring = np.delete(sampled, np.s_[::EVERY], axis=0)

    ranges = largest_inputs(model, spec, measuring)
    work = multiplications(model, spec)
    reference = embed(model, spec, choosing, precision="float32")
    print(f"{len(measuring)} crops for the ranges, {len(choosing)} for the choice")
    print(f"{'convolution':>12}{'million multiplications':>25}{'range':>9}{'1 - cosine, mean':>18}{'most':>10}")
    chosen: list[float | None] = []
    for k, (largest, n) in enumerate(zip(ranges, work, strict=True)):
        if largest is None:
            print(f"{k:>12}{n / 1e6:>25.1f}  stays: what goes in may be negative")
            chosen.append(None)
            continue
        alone = [largest if k == j else None for j in range(len(ranges))]
        lost = loss(embed(quantize(model, alone, source="model"), spec, choosing, precision="float32"), reference)
        worth = lost.mean() <= WORTH * n / 1e6
        chosen.append(round(largest, 4) if worth else None)
        note = "" if worth else "  stays"
        print(f"{k:>12}{n / 1e6:>25.1f}{largest:>9.3f}{lost.mean():>18.1e}{lost.max():>10.1e}{note}", flush=True)
    share = sum(n for n, at in zip(work, chosen, strict=True) if at is not None) / sum(work)
    table = {
        "model": args.model,
        "fingerprint": fingerprint,
        "input_spec": spec.as_dict(),
        "data": f"train_182: {len(measuring)} crops for the ranges, {len(choosing)} others for the choice",
        "ranges": chosen,
    }
    args.output.write_text(json.dumps(table, indent=1).replace(",\n  ", ", ") + "\n")
    n_integers = sum(at is not None for at in chosen)
    print(
        f"{n_integers} of {len(chosen)} convolutions, {share:.3f} of the multiplications, in integers -> {args.output}"
    )

    print(f"\n{len(held_out)} other crops, 1 - cosine to float32: mean, 99 %, most")
    reference = embed(model, spec, held_out, precision="float32")
    for precision in ("bfloat16", "fastest"):
        os.environ["FACESPACE_PRECISION"] = precision
        network = OnnxNetwork(model, source="model", int8=lambda: quantize(model, chosen, source="model"))
        vectors = run(network, spec, held_out)[0]
        lost = loss(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), reference)
        print(f"{network.precision:<10}{lost.mean():>9.1e}{np.quantile(lost, 0.99):>9.1e}{lost.max():>9.1e}")


if __name__ == "__main__":
    main()
