"""Training on one GPU: images per second of the loop compared with a minimal loop of the same network, and the share of the card's limit.

Inception-ResNet-v1 (160 px) and IResNet-50 (112 px), bfloat16, batches of 256 and 512, 100,000 identities (ArcFace). The data are
JPEG crops of noise in a RecordIO file created here, decoded and augmented by worker processes. The card's matrix rate is
that of its own bfloat16 product, measured here; the work is 3 times that of a forward pass. Last, 200 steps of the loop
in bfloat16 and in float32 from the same weights: the loss of both.

`--device cpu` runs the same on the processor, to try the script: use few steps, identities and batches. Without a CUDA card,
the script says so in one line and ends with code 2.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from facespace.backbones.registry import create
from facespace.datasets.formats.recordio_writer import RecordWriter
from facespace.training import optimizers, recipe
from facespace.training.loop import train
from facespace.training.losses.loss import create as create_loss

NETWORKS = {"inception-resnet-v1": (160, "facenet-2018"), "iresnet50": (112, "arcface-112")}


def write_noise(folder: Path, n_people: int, side: int) -> None:
    """A RecordIO file with one image a person: smooth noise that JPEG can compress, 512 images over and over."""
    random = np.random.default_rng(0)
    files = []
    for _ in range(512):
        small = random.integers(0, 256, (16, 16, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC).save(file, "JPEG", quality=95)
        files.append(file.getvalue())
    folder.mkdir()
    with RecordWriter(folder) as writer:
        for k in range(n_people):
            writer.write(files[k % len(files)], k)


def wait(device: str) -> None:
    """Until the device has computed everything."""
    if device == "cuda":
        torch.cuda.synchronize()


def matrix_rate(device: str) -> float:
    """Multiplications and additions a second of a bfloat16 product, 8192 × 8192 on a GPU."""
    side = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    times = []
    for _ in range(20):
        wait(device)
        start = time.perf_counter()
        for _ in range(10):
            a @ b
        wait(device)
        times.append(time.perf_counter() - start)
    return 10 * 2 * side**3 / statistics.median(times)


def bare(name: str, side: int, batch: int, n_classes: int, steps: int, device: str) -> tuple[float, float]:
    """Images a second of forward, loss, backward, step over a tensor that is there; and operations an image."""
    network = create(name, dimension=512).to(device).to(memory_format=torch.channels_last).train()
    loss = create_loss("arcface", dimension=512, n_classes=n_classes).to(device)
    groups = [{"params": [*network.parameters(), *loss.parameters()], "weight_decay": 5e-4}]
    optimizer = optimizers.create("sgd", groups, fused=device == "cuda")
    images = torch.randn(batch, 3, side, side, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, n_classes, (batch,), device=device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16):
            features = network(images)
        loss(features.float(), labels).backward()
        optimizer.step()

    for _ in range(5):
        step()
    wait(device)
    start = time.perf_counter()
    for _ in range(steps):
        step()
    wait(device)
    rate = batch * steps / (time.perf_counter() - start)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(images[:1])
    return rate, 3.0 * counter.get_total_flops()


def loop(data: Path, run: Path, name: str, spec: str, *overrides: str) -> list[dict]:
    """Rows of the log of a run."""
    options = [f"data={data}", f"backbone={name}", f"input_spec={spec}", "optimizer=sgd", *overrides]
    train(recipe.parse('[[losses]]\nname = "arcface"', options), run)
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--identities", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--workers", type=int, default=14)
    parser.add_argument("--batches", type=int, nargs="*", default=[256, 512])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    args = parser.parse_args()
    on_gpu = args.device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        print(
            f"training_gpu: torch {torch.__version__} sees no CUDA card here; --device cpu runs the same on the processor"
        )
        raise SystemExit(2)
    card = matrix_rate(args.device)
    where = torch.cuda.get_device_name() if on_gpu else f"processor, {torch.get_num_threads()} threads"
    print(f"{where}, torch {torch.__version__}: {card / 1e12:.3g} TFLOP/s in bfloat16", flush=True)
    device, workers = f"device={args.device}", f"workers={args.workers}"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, (side, spec) in NETWORKS.items():
            data = root / f"noise-{side}"
            write_noise(data, args.identities, side)
            for batch in args.batches:
                beside, operations = bare(name, side, batch, args.identities, args.steps, args.device)
                torch.cuda.empty_cache()
                rows = loop(
                    data, root / f"{name}-{batch}", name, spec, f"batch_size={batch}", f"epoch_size={2 * args.steps}",
                    "n_epochs=1", "log_every=10", "learning_rate=0.01", "precision=bfloat16", device, workers,
                )  # fmt: skip
                torch.cuda.empty_cache()
                steps = [row for row in rows if "total_loss" in row][-8:]
                rate = statistics.median(row["images_per_second"] for row in steps)
                waiting = statistics.median(row["waiting"] for row in steps)
                print(
                    f"{name}, batch {batch}: bare {beside:.0f} images/s ({beside * operations / card:.1%} of the card), loop "
                    f"{rate:.0f} images/s = {rate / beside:.2f} of it, waiting {waiting:.1%}",
                    flush=True,
                )
        curves = {}
        for precision in ("bfloat16", "float32"):
            rows = loop(
                root / "noise-112", root / precision, "iresnet18", "arcface-112", f"batch_size={args.batches[0] // 2}",
                f"epoch_size={200 if on_gpu else 2 * args.steps}", "n_epochs=1", f"log_every={20 if on_gpu else 1}",
                "learning_rate=0.02", f"precision={precision}", device, workers,
            )  # fmt: skip
            curves[precision] = [row["total_loss"] for row in rows if "total_loss" in row]
        print(f"iresnet18, loss every {20 if on_gpu else 1} steps")
        for precision, curve in curves.items():
            print(f"  {precision:9}" + "".join(f" {value:8.4f}" for value in curve))


if __name__ == "__main__":
    main()
