"""The cost of the training loop compared with the forward and backward pass of the same network on the same batches.

Processor time of the training process per step, compared with a minimal loop (zero gradients, forward, loss, backward,
optimizer step) over prepared tensors; rounds alternate, the best of each counts. The training loop makes the C library keep
freed memory; the minimal loop is measured without that, as it is usually written, and once more with it.
Two worker processes decode and augment 182 px crops meanwhile; their processor time is reported separately, as is the share of time
for which the loop waits for them.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

BARE = """
import sys, time, torch
from facespace.backbones import create
from facespace.training.losses.loss import create as create_loss
from facespace.training.optimizers import create as create_optimizer
from facespace.training.setup import keep_freed_memory
if sys.argv[4:] == ["keep"]:
    keep_freed_memory()
name, batch, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.manual_seed(0)
network = create(name, dimension=128).train().to(memory_format=torch.channels_last)
side = network.input_size or 160
loss = create_loss("softmax", dimension=128, n_classes=130)
optimizer = create_optimizer("adamw", [{"params": [*network.parameters(), *loss.parameters()], "weight_decay": 0.05}])
images = torch.randn(batch, 3, side, side).contiguous(memory_format=torch.channels_last)
labels = torch.randint(0, 130, (batch,))
def step():
    optimizer.zero_grad(set_to_none=True)
    loss(network(images), labels).backward()
    optimizer.step()
step()
start = time.process_time()
for _ in range(steps):
    step()
print((time.process_time() - start) / steps)
"""
LOOP = """
import json, sys, time
from pathlib import Path
from facespace.training import loop as training, recipe
from facespace.training.run_log import RunLog
name, batch, steps, data, out = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5]
spec = '{ size = 112, template = "box", crop_margin = 32 }' if name == "mobilefacenet" else '"facenet-2018"'
chosen = recipe.parse("", [f"data={data}", f"backbone={name}", "dimension=128", f"input_spec={spec}",
    "crop=random", "crop_size=160", f"batch_size={batch}", f"epoch_size={steps + 1}", "n_epochs=1", "optimizer=adamw",
    "learning_rate=0.001", "weight_decay=0.05", "log_every=1", "workers=2", "device=cpu"])
times, waited = [], []
log_step = RunLog.step
def noting(self, row):
    times.append(time.process_time())
    waited.append(row["waiting"])
    log_step(self, row)
RunLog.step = noting
training.write_trained = lambda *a, **k: []
training.setup.embeddings = lambda *a, **k: __import__("torch").zeros(0, 1)
training.train(chosen, Path(out))
print(json.dumps([(times[-1] - times[0]) / steps, sum(waited[1:]) / steps]))
"""


def run(program: str, *arguments: object) -> tuple[str, float]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], check=True, capture_output=True, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.stdout.strip().splitlines()[-1], after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("networks", nargs="*", default=["inception-resnet-v1", "mobilefacenet"])
    args = parser.parse_args()
    for name in args.networks:
        batch = 32
        bare, kept, loop, waiting = [], [], [], []
        for _ in range(args.rounds):
            bare.append(float(run(BARE, name, batch, args.steps)[0]))
            kept.append(float(run(BARE, name, batch, args.steps, "keep")[0]))
            with tempfile.TemporaryDirectory() as out:
                said, _ = run(LOOP, name, batch, args.steps, args.shared / "data/train_182", Path(out) / "run")
            seconds, waited = json.loads(said)
            loop.append(seconds)
            waiting.append(waited)
            print(
                f"{name}, {batch} images: bare {bare[-1]:.2f} s, keeping memory {kept[-1]:.2f} s, loop {loop[-1]:.2f} s "
                f"a step, waiting {waited:.1%}",
                flush=True,
            )
        for words, beside in (("bare", bare), ("bare, keeping memory", kept)):
            print(
                f"{name}: best of {args.rounds}: {words} {min(beside):.2f} s, loop {min(loop):.2f} s of process time a step: "
                f"overhead {min(loop) / min(beside) - 1:.1%} (medians {np.median(loop) / np.median(beside) - 1:.1%}; 8 % allowed)",
                flush=True,
            )
        print(f"{name}: waiting for data {min(waiting):.1%} to {max(waiting):.1%} (5 % allowed)\n", flush=True)


if __name__ == "__main__":
    main()
