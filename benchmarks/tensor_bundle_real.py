"""Checkpoints written by TensorFlow itself and read by facespace: which tensors are equal bit for bit, and models' outputs.

usage: tensor_bundle_real.py --peer PYTHON_WITH_TENSORFLOW [--peer ANOTHER …]
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np

from facespace.errors import ModelError
from facespace.formats.tf_checkpoint import read_checkpoint, variables
from facespace.formats.tf_tensor_bundle import TensorBundle
from facespace.formats.tf_to_onnx import to_onnx
from facespace.runtime.onnx_network import OnnxNetwork


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def tensors(folder: Path) -> str:
    """How many tensors are equal to what TensorFlow reads from them."""
    try:
        bundle = TensorBundle.open(folder / "model-x.ckpt-7")
    except ModelError as error:
        return f"refused: {str(error).split(': ', 1)[1]}"
    with np.load(folder / "values.npz") as file:
        wanted = {name: file[name] for name in file.files}
    equal = sum(same_bits(bundle.read(name), value) for name, value in wanted.items())
    files = len(list(folder.glob("*.data-*")))
    listed = "all listed" if set(bundle.names) == set(wanted) else f"{len(bundle.names)} listed"
    return f"{equal} of {len(wanted)} tensors equal, {listed}, data files: {files}"


def model(folder: Path) -> str:
    """A folder alone to embeddings."""
    with np.load(folder / "values.npz") as file:
        found = variables(folder)
        equal = sum(name in file.files and same_bits(value, file[name]) for name, value in found.items())
    network = OnnxNetwork(to_onnx(read_checkpoint(folder), source=str(folder)), source=str(folder), precision="float32")
    difference = np.abs(network.run(np.load(folder / "x.npy"))[0] - np.load(folder / "y.npy")).max()
    return f"{equal} of {len(found)} variables equal, embeddings differ by at most {difference:.1e} ({network.runtime})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--peer", type=Path, action="append", required=True, help="path of a Python that has TensorFlow"
    )
    packages = ("facespace", "numpy", "protobuf", "google-crc32c", "onnxruntime")
    print(", ".join(f"{name} {version(name)}" for name in packages))
    script = Path(__file__).with_name("peer_tensor_bundle.py")
    for peer in parser.parse_args().peer:
        with tempfile.TemporaryDirectory() as out:
            command = [str(peer), "-W", "ignore", str(script), out]
            written_by = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]
            print(f"TensorFlow {written_by}", flush=True)
            for folder in sorted(Path(out).iterdir()):
                result = model(folder) if (folder / "x.npy").exists() else tensors(folder)
                print(f"  {folder.name:<24}{result}")


if __name__ == "__main__":
    main()
