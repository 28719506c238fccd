"""Two nodes with one process each, which communicate by gloo: two agents of torchrun on this machine, partly killed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")

from facespace.training import checkpoint, run_folder

RECIPE = """
backbone = "tiny"
dimension = 16
input_spec = { size = 112, template = "box", crop_margin = 32 }
batch_size = 8
n_epochs = 2
epoch_size = 4
checkpoint_every = 2
optimizer = "adam"
learning_rate = 0.01
workers = 0
log_every = 1
device = "cpu"

[[losses]]
name = "partial-fc"
"""

# The first start trains `undisturbed`, then `disturbed` until process 1 is killed while it computes step 4, after the
# checkpoint of step 2. The second start resumes until process 0 is killed while it writes the checkpoint of step 6: its
# tensors are on the disk, its record is not. The third start ends the run.
KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from facespace.backbones import onnx_export
from facespace.errors import RuntimeUnavailable
from facespace.training import checkpoint, distributed, loop, recipe, step

torch.set_num_threads(1)
root = Path(sys.argv[1])
chosen = recipe.load(root / "recipe.toml", [f"data={root / 'people'}"])
losses_of, checksum = step.losses_of, checkpoint._checksum
calls = []

def unavailable(*_):
    raise RuntimeUnavailable("not in these tests")

def kill():
    with (root / "killed").open("a") as file:
        file.write(f"process {distributed.rank()}\\n")
    os.kill(os.getpid(), signal.SIGKILL)

def killed_in_a_step(*arguments):
    calls.append(1)
    if len(calls) == 4 and distributed.rank() == 1:
        kill()
    return losses_of(*arguments)

def killed_in_a_checkpoint(file):
    if file.parent.name == ".facespace-step-000000006":
        kill()
    return checksum(file)

onnx_export.backbone_to_onnx = unavailable
if not (root / "undisturbed/model").is_dir():
    loop.train(chosen, root / "undisturbed")
n_killed = len((root / "killed").read_text().splitlines()) if (root / "killed").exists() else 0
if n_killed == 0:
    step.losses_of = killed_in_a_step
if n_killed == 1:
    checkpoint._checksum = killed_in_a_checkpoint
loop.train(chosen, root / "disturbed")
os._exit(0)  # threads of gloo may outlive the group, and abort a process in which Python ends the usual way
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("nodes")
    random = np.random.default_rng(0)
    for person in range(5):
        (root / "people" / str(person)).mkdir(parents=True)
        for number in range(4):
            pixels = random.integers(0, 256, (120, 120, 3), np.uint8)
            Image.fromarray(pixels).save(root / "people" / str(person) / f"{number}.png")
    (root / "recipe.toml").write_text(RECIPE)
    return root


# Without the last one, a restarted process may read the address of one that has ended, and wait for it for half an hour.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def run_on_two_nodes(*commands: list[str], restarts: int) -> list[tuple[int, str]]:
    """The exit code of each node's torchrun and what it wrote to its standard error; `commands` has one for each."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    torchrun += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}", "--local-addr", "127.0.0.1"]
    torchrun += ["--monitor-interval", "0.1", "--max-restarts", str(restarts)]
    running = [
        subprocess.Popen(
            [*torchrun, *command],
            env={**os.environ, **ENVIRONMENT},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for command in commands
    ]
    try:
        said = [one.communicate(timeout=300)[1] for one in running]
    finally:
        for one in running:
            one.kill()
    return [(one.returncode, text) for one, text in zip(running, said, strict=True)]


def logged(run: Path) -> list[tuple[int, float, float]]:
    rows = run_folder.read_metrics(run)
    return [(row["step"], row["total_loss"], row["gradient_norm"]) for row in rows if "total_loss" in row]


def test_killed_processes_are_started_again_and_train_the_same_network(folder: Path):
    (folder / "killed.py").write_text(KILLED)
    same = [str(folder / "killed.py"), str(folder)]
    for code, said in run_on_two_nodes(same, same, restarts=4):
        assert code == 0, said[-3000:]
    assert (folder / "killed").read_text().splitlines() == ["process 1", "process 0"]
    assert len(logged(folder / "undisturbed")) == 8
    assert logged(folder / "disturbed") == logged(folder / "undisturbed")  # to the bit
    one, other = (checkpoint.load(folder / run / "checkpoints/step-000000008") for run in ("undisturbed", "disturbed"))
    assert list(one.tensors) == list(other.tensors)
    assert all(tensor.equal(other.tensors[name]) for name, tensor in one.tensors.items())
    left = [path.name for path in (folder / "disturbed").rglob(".facespace-*")]
    assert left == []  # left by the half-written checkpoint
