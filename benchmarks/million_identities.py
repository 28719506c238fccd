"""The sharded, sampled classifier at 10 thousand, 100 thousand and a million identities: memory and time per step.

One process, and two (gloo): features of 512 numbers, batches of 64 per process, a tenth of the identities
sampled, SGD with momentum. Memory is the peak of a process above its memory before the classifier was created.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

DIMENSION, BATCH = 512, 64


def one(n_classes: int, sample_rate: float, device: str, steps: int) -> None:
    import torch

    from facespace.training import distributed as ranks, optimizers
    from facespace.training.losses.loss import create

    place = ranks.join(device)
    if device == "cpu":
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // ranks.n_ranks()))
    torch.manual_seed(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    loss = create("partial-fc", dimension=DIMENSION, n_classes=n_classes, sample_rate=sample_rate).to(place)
    made = time.perf_counter() - start
    optimizer = optimizers.create("sgd", [{"params": list(loss.parameters()), "weight_decay": 5e-4}])
    times = []
    for step in range(steps + 1):
        torch.manual_seed(step * ranks.n_ranks() + ranks.rank())
        features = torch.randn(BATCH, DIMENSION, device=place, requires_grad=True)
        labels = torch.randint(n_classes, (BATCH,), device=place)
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss(features, labels).backward()
        for group in optimizer.param_groups:
            group["lr"] = 0.1
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated()
    if ranks.rank() == 0:
        print(json.dumps({"made": made, "step": statistics.median(times[1:]), "peak": peak, "rows": len(loss.weight)}))
    ranks.leave()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--one", nargs=2, metavar=("CLASSES", "RATE"), help="measure in this process")
    args = parser.parse_args()
    if args.one:
        one(int(args.one[0]), float(args.one[1]), args.device, args.steps)
        return
    print("identities   sampled   processes   rows each    made in   peak each     a step", flush=True)
    for n_processes in (1, 2) if args.device == "cpu" else (1,):
        for n_classes in (10_000, 100_000, 1_000_000):
            for rate in (1.0, 0.1):
                launch = [sys.executable]
                if n_processes > 1:
                    launch += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n_processes)]
                command = [*launch, __file__, "--device", args.device, "--steps", str(args.steps)]
                done = subprocess.run(
                    [*command, "--one", str(n_classes), str(rate)], capture_output=True, text=True, check=False
                )
                if done.returncode:
                    why = (done.stderr.strip().splitlines() or ["killed"])[-1][:60]
                    print(f"{n_classes:10,} {rate:9.0%} {n_processes:11}   failed: {why}", flush=True)
                    continue
                figures = json.loads(done.stdout.strip().splitlines()[-1])
                print(
                    f"{n_classes:10,} {rate:9.0%} {n_processes:11} {figures['rows']:11,} {figures['made']:8.1f} s "
                    f"{figures['peak'] / 1e9:8.2f} GB {figures['step'] * 1e3:7.0f} ms",
                    flush=True,
                )


if __name__ == "__main__":
    main()
