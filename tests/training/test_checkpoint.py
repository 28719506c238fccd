"""Checkpoints: loaded as they were saved, visible only when complete, and refused when damaged."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from facespace.errors import TrainingError
from facespace.io.files import TEMPORARY
from facespace.training import checkpoint as module, distributed as ranks, optimizers
from facespace.training.checkpoint import (
    Checkpoint,
    latest,
    load,
    optimizer_tensors,
    part_of,
    prune,
    read_facts,
    restore_optimizer,
    save,
)

FACTS = {"best": 0.1 + 0.2, "guards": {"王": [1, None, True]}, "scale": float("inf"), "empty": {}}


def state(step: int) -> Checkpoint:
    tensors = {
        "weight": torch.arange(12.0).reshape(3, 4) + step,
        "channels_last": torch.arange(16.0).reshape(1, 2, 2, 4).contiguous(memory_format=torch.channels_last),
        "part": torch.arange(9.0)[::2],
        "half": torch.tensor([1.5, 2.5], dtype=torch.bfloat16),
        "count": torch.tensor(step),
        "none": torch.zeros(0, 3),
        "parameter": nn.Parameter(torch.ones(2)),
    }
    return Checkpoint(step, tensors, FACTS)


def same(found: Checkpoint, expected: Checkpoint) -> bool:
    assert (found.step, found.facts, set(found.tensors)) == (expected.step, expected.facts, set(expected.tensors))
    return all(
        tensor.dtype == expected.tensors[name].dtype and torch.equal(tensor, expected.tensors[name])
        for name, tensor in found.tensors.items()
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- written and read -------------------------------------------------------------------------------------------------


def test_what_is_saved_is_loaded(tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    assert latest(folder) is None
    path = save(folder, state(1000))
    assert path == folder / "step-000001000" == latest(folder)
    assert names(folder) == ["step-000001000"]
    assert names(path) == ["checkpoint.json", "state.safetensors"]
    assert same(load(path), state(1000))
    assert read_facts(path)["step"] == 1000


def test_tensors_that_share_memory(tmp_path):
    weight = torch.arange(4.0)
    save(tmp_path, Checkpoint(1, {"a": weight, "b": weight, "c": weight[1:]}, {}))
    found = load(tmp_path / "step-000000001").tensors
    assert [found[name].tolist() for name in "abc"] == [[0, 1, 2, 3], [0, 1, 2, 3], [1, 2, 3]]


def test_the_latest_has_the_highest_step(tmp_path):
    for step in (9, 100, 11):
        save(tmp_path, state(step))
    (tmp_path / "step-000000999").mkdir()  # incomplete
    (tmp_path / "step-1000").mkdir()
    (tmp_path / "step-1000" / "checkpoint.json").write_text("{}")
    (tmp_path / f"{TEMPORARY}step-000000998").mkdir()
    assert latest(tmp_path) == tmp_path / "step-000000100"


def test_pruning_removes_the_earliest(tmp_path):
    for step in (1, 20, 3, 100):
        save(tmp_path, state(step))
    (tmp_path / f"{TEMPORARY}step-000000998").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    prune(tmp_path, 2)
    assert names(tmp_path) == ["notes.txt", "step-000000020", "step-000000100"]
    prune(tmp_path, 2)
    assert latest(tmp_path) == tmp_path / "step-000000100"


def test_killed_while_removing(tmp_path, monkeypatch):
    """The rest of a half-removed checkpoint is removed with the next ones."""
    for step in (1, 2, 3):
        save(tmp_path, state(step))

    def killed(path: Path, **_: object) -> None:
        (path / "checkpoint.json").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            prune(tmp_path, 1)
    assert latest(tmp_path) == tmp_path / "step-000000003"
    prune(tmp_path, 1)
    assert names(tmp_path) == ["step-000000003"]


def test_a_step_saved_twice(tmp_path):
    save(tmp_path, Checkpoint(5, {"a": torch.zeros(2)}, {"n": 1}))
    save(tmp_path, Checkpoint(5, {"b": torch.ones(2)}, {"n": 2}))
    assert names(tmp_path) == ["step-000000005"]
    assert same(load(tmp_path / "step-000000005"), Checkpoint(5, {"b": torch.ones(2)}, {"n": 2}))


# --- a full disk ------------------------------------------------------------------------------------------------------


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device\nreally")


def failing_file(tensors: dict, file: Path) -> None:
    file.write_bytes(b"half of it")
    raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")


FAILURES: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "tensors": lambda patch: patch.setattr(safetensors.torch, "save_file", failing_file),
    "tensors, by the system": lambda patch: patch.setattr(safetensors.torch, "save_file", full),
    "rename": lambda patch: patch.setattr(Path, "rename", full),
    "facts": lambda patch: patch.setattr(Path, "write_text", full),
    "flush": lambda patch: patch.setattr(os, "fsync", full),
    "folder": lambda patch: patch.setattr(Path, "mkdir", full),
}


@pytest.mark.parametrize("step", [6, 5], ids=["the next step", "the same step"])
@pytest.mark.parametrize("failure", FAILURES)
def test_a_full_disk_leaves_the_one_before(tmp_path, monkeypatch, failure, step):
    save(tmp_path, state(5))
    with monkeypatch.context() as patch:
        FAILURES[failure](patch)
        with pytest.raises(TrainingError) as caught:
            save(tmp_path, Checkpoint(step, {"weight": torch.zeros(1)}, {}))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path}/step-00000000{step}: the checkpoint cannot be written (")
    assert "No space left on device" in str(caught.value)
    todo = f"make room, then resume with facespace train {tmp_path.parent}"
    assert str(caught.value).endswith(f"; step-000000005 is intact; {todo}")
    assert names(tmp_path) == ["step-000000005"]
    assert same(load(tmp_path / "step-000000005"), state(5))
    save(tmp_path, state(step))
    assert same(load(tmp_path / f"step-00000000{step}"), state(step))


def test_the_same_step_comes_back_when_its_place_cannot_be_taken(tmp_path, monkeypatch):
    save(tmp_path, state(5))
    rename = Path.rename

    def second_fails(self: Path, target: Path) -> Path:
        if self.name == f"{TEMPORARY}step-000000005":
            full()
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", second_fails)
    with pytest.raises(TrainingError, match="step-000000005 is intact"):
        save(tmp_path, Checkpoint(5, {"weight": torch.zeros(1)}, {}))
    assert names(tmp_path) == ["step-000000005"]
    assert same(load(tmp_path / "step-000000005"), state(5))


def test_the_first_checkpoint_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(safetensors.torch, "save_file", failing_file)
    with pytest.raises(
        TrainingError, match=r"No space left on device \(os error 28\)\); make room, then resume with facespace train "
    ):
        save(tmp_path, state(1))
    assert names(tmp_path) == [] and latest(tmp_path) is None


def test_a_place_that_is_a_file(tmp_path):
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(TrainingError, match=r"cannot be written \(.*Not a directory.*\); make room, then"):
        save(tmp_path / "checkpoints", state(1))


# --- killed -----------------------------------------------------------------------------------------------------------

SAVES = """
import sys, torch
from pathlib import Path
from facespace.training.checkpoint import Checkpoint, prune, save
folder = Path(sys.argv[1])
for step in range(1, 10**6):
    tensors = {"weight": torch.full((300, 1000), float(step)), "count": torch.tensor(step)}
    save(folder, Checkpoint(step // 2, tensors, {"step": step}))
    prune(folder, 2)
    print(step, flush=True)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="processes cannot be stopped here")
def test_killed_while_saving(tmp_path):
    """Whenever the kill comes, the latest checkpoint is complete. For files an interruption is the same as a kill."""
    waits = random.Random(0)

    def check() -> Path:
        path = latest(tmp_path)
        assert path is not None
        found = load(path)
        assert found.step == found.facts["step"] // 2
        assert (found.tensors["weight"] == found.facts["step"]).all()
        return path

    with subprocess.Popen([sys.executable, "-c", SAVES, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            while int(process.stdout.readline()) < 3:
                pass
            for _ in range(15):
                time.sleep(waits.uniform(0, 0.02))
                process.send_signal(signal.SIGSTOP)
                assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
                check()
                process.send_signal(signal.SIGCONT)
        finally:
            process.kill()
    path = check()
    prune(tmp_path, 1)
    assert names(tmp_path) == [path.name]


# --- damaged ----------------------------------------------------------------------------------------------------------


def refused(path: Path) -> str:
    with pytest.raises(TrainingError) as caught:
        load(path)
    said = str(caught.value)
    assert "damaged checkpoint" in said and said.endswith("to resume from the previous one") and "\n" not in said
    return said


@pytest.mark.parametrize("name", ["state.safetensors", "checkpoint.json"])
def test_bits_that_flipped(tmp_path, name):
    path = save(tmp_path, state(5))
    data = (path / name).read_bytes()
    for position in random.Random(0).sample(range(len(data) - 1), 60):
        flipped = bytearray(data)
        flipped[position] ^= 1 << position % 7
        (path / name).write_bytes(flipped)
        assert str(path) in refused(path)
    (path / name).write_bytes(data)
    assert same(load(path), state(5))


@pytest.mark.parametrize("name", ["state.safetensors", "checkpoint.json"])
def test_files_that_were_cut_short(tmp_path, name):
    path = save(tmp_path, state(5))
    data = (path / name).read_bytes()
    for length in (0, 1, 7, 8, 9, 100, len(data) // 2, len(data) - 2):
        (path / name).write_bytes(data[:length])
        refused(path)
    (path / name).unlink()
    refused(path)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"step": "5"},
        {"step": True},
        {"shards": None},
        {"sharded": {}},
        {"sharded": ["nowhere"]},
        {"sharded": [["a"]]},
        {"sharded": ["weight"], "shards": 2},
        {"facts": []},
        {"files": []},
        {"files": {"../../nowhere": 1}},
        {"files": {"nul\0": 1}},
    ],
    ids=str,
)
def test_wrong_facts_of_a_right_checksum(tmp_path, change):
    path = save(tmp_path, state(5))
    facts = {**read_facts(path), **change}
    facts["checksum"] = module.zlib.crc32(json.dumps(facts).encode())
    (path / "checkpoint.json").write_text(json.dumps(facts))
    refused(path)


@pytest.mark.parametrize(
    "text", ["null", "[]", "5", '{"checksum": "a"}', "[" * 100_000, '{"a": ' * 900 + "1" + "}" * 900]
)
def test_other_files_are_not_checkpoints(tmp_path, text):
    path = save(tmp_path, state(5))
    (path / "checkpoint.json").write_text(text)
    refused(path)


def test_facts_that_are_too_long(tmp_path, monkeypatch):
    path = save(tmp_path, state(5))
    monkeypatch.setattr(module, "_MAX_FACTS", 20)
    refused(path)


# --- several processes ------------------------------------------------------------------------------------------------


def test_rows_of_all_ranks_are_put_together_and_split_again(tmp_path, monkeypatch):
    """Rank 1 saves while rank 0 waits for it; each has 2 of the 4 rows."""
    whole = torch.arange(12.0).reshape(4, 3)
    rank = 0

    def own(rank: int) -> dict[str, Tensor]:
        return {
            "shared": torch.ones(2) * (rank + 1),
            "rows": whole[2 * rank : 2 * rank + 2],
            "steps": torch.tensor(7.0),
        }

    def wait() -> None:
        nonlocal rank
        if rank == 0:
            rank = 1
            save(tmp_path, Checkpoint(3, own(1), {"of": 1}), sharded=["rows", "steps"])
            rank = 0

    monkeypatch.setattr(ranks, "rank", lambda: rank)
    monkeypatch.setattr(ranks, "n_ranks", lambda: 2)
    monkeypatch.setattr(ranks, "summed", lambda tensor: tensor)
    monkeypatch.setattr(ranks, "wait", wait)
    path = save(tmp_path, Checkpoint(3, own(0), {"of": 0}), sharded=["rows", "steps"])
    assert names(path) == ["checkpoint.json", "shard-1.safetensors", "state.safetensors"]
    assert set(safetensors.torch.load_file(path / "shard-1.safetensors")) == {"rows", "steps"}
    found = load(path)
    assert found.facts == {"of": 0} and found.step == 3
    assert torch.equal(found.tensors["rows"], whole)
    assert found.tensors["shared"].tolist() == [1, 1] and found.tensors["steps"].item() == 7
    for rank in (0, 1):
        assert torch.equal(part_of(found.tensors["rows"], own(rank)["rows"], "rows"), own(rank)["rows"])
        assert torch.equal(part_of(found.tensors["shared"], torch.zeros(2), "shared"), torch.ones(2))
    with pytest.raises(
        TrainingError, match=r"checkpoint's rows has shape \(4, 3\), the recipe's has \(3, 3\); recipe and"
    ):
        part_of(found.tensors["rows"], torch.zeros(3, 3), "rows")
    (path / "shard-1.safetensors").unlink()
    refused(path)


def test_one_process_alone_takes_whole_tensors_only():
    whole = torch.arange(12.0).reshape(4, 3)
    assert part_of(whole, torch.zeros(4, 3), "a") is whole
    for shape in ((2, 3), (4, 4), (4,), ()):
        with pytest.raises(TrainingError, match="do not belong together"):
            part_of(whole, torch.zeros(shape), "a")


def test_uneven_rows(monkeypatch):
    whole = torch.arange(7.0)[:, None]
    monkeypatch.setattr(ranks, "n_ranks", lambda: 3)
    parts = []
    for rank, n in enumerate((2, 2, 3)):
        monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
        parts.append(part_of(whole, torch.zeros(n, 1), "a"))
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("mine", [0, 1])
def test_all_processes_fail_if_one_does(tmp_path, monkeypatch, mine):
    save(tmp_path, state(1))
    waited = []
    monkeypatch.setattr(ranks, "rank", lambda: mine)
    monkeypatch.setattr(ranks, "n_ranks", lambda: 2)
    monkeypatch.setattr(ranks, "summed", lambda tensor: tensor + 1)
    monkeypatch.setattr(ranks, "wait", lambda: waited.append(1))
    (tmp_path / f"{TEMPORARY}step-000000002").mkdir()
    with pytest.raises(TrainingError, match=r"cannot be written \(another process failed\); step-000000001 is intact"):
        save(tmp_path, state(2), sharded=["weight"])
    assert waited == [1]
    assert latest(tmp_path) == tmp_path / "step-000000001"
    assert names(tmp_path) == ([] if mine == 0 else [f"{TEMPORARY}step-000000002"]) + ["step-000000001"]


def test_processes_do_not_wait_for_one_that_failed(tmp_path, monkeypatch):
    """All processes take part in the same collective calls, even if one of them fails."""
    met = []
    monkeypatch.setattr(ranks, "n_ranks", lambda: 2)
    monkeypatch.setattr(ranks, "wait", lambda: met.append("wait"))
    monkeypatch.setattr(ranks, "summed", lambda tensor: met.append("summed") or tensor)
    save(tmp_path, state(1))
    usual, met[:] = list(met), []
    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(TrainingError):
        save(tmp_path, state(2))
    assert met == usual == ["wait", "summed", "summed"]


# --- optimisers -------------------------------------------------------------------------------------------------------


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    return module.to(memory_format=torch.channels_last)


def trained(net: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> list[Tensor]:
    for step in steps:
        torch.manual_seed(step)
        optimizer.zero_grad()
        net(torch.randn(4, 3, 6, 6)).square().sum().backward()
        for group in optimizer.param_groups:
            group["lr"] = 0.01
        optimizer.step()
    return [parameter.detach().clone() for parameter in net.parameters()]


@pytest.mark.parametrize(
    ("name", "fused"),
    [*((name, False) for name in optimizers.NAMES), ("adamw", True), ("sgd", True)],
)
def test_an_optimiser_resumes_bit_for_bit(tmp_path, name, fused):
    """Fused optimisers need their state on the device and in the memory layout of the parameters, as on a GPU."""

    def made(net: nn.Module) -> tuple[torch.optim.Optimizer, dict[int, str]]:
        groups = [
            {"params": [p for p in net.parameters() if (p.ndim > 1) == many], "weight_decay": 0.1 * many}
            for many in (True, False)
        ]
        return optimizers.create(name, groups, fused=fused), {id(p): f"net.{n}" for n, p in net.named_parameters()}

    net = network(0)
    optimizer, parameter_names = made(net)
    trained(net, optimizer, range(3))
    tensors = {f"net.{key}": value for key, value in net.state_dict().items()}
    save(tmp_path, Checkpoint(3, tensors | optimizer_tensors(optimizer, parameter_names), {}))
    expected = trained(net, optimizer, range(3, 6))

    other = network(1)
    again, parameter_names = made(other)
    found = load(tmp_path / "step-000000003").tensors
    assert [key for key in found if key.startswith("optimizer.net.4.bias.")]
    other.load_state_dict({key.removeprefix("net."): value for key, value in found.items() if key.startswith("net.")})
    restore_optimizer(again, parameter_names, found)
    for before, after in zip(net.parameters(), other.parameters(), strict=True):
        assert set(again.state[after]) == {key for key, value in optimizer.state[before].items() if value is not None}
        for key, value in again.state[after].items():
            if value.ndim:
                assert value.stride() == after.stride(), key
    assert all(map(torch.equal, trained(other, again, range(3, 6)), expected))
    fresh = network(1)
    fresh.load_state_dict({key.removeprefix("net."): value for key, value in found.items() if key.startswith("net.")})
    assert not all(map(torch.equal, trained(fresh, made(fresh)[0], range(3, 6)), expected))


def test_restored_state_is_a_copy():
    net = network(0)
    optimizer = optimizers.create("sgd", [{"params": list(net.parameters()), "weight_decay": 0.0}])
    parameter_names = {id(p): n for n, p in net.named_parameters()}
    trained(net, optimizer, range(1))
    saved = {key: value.clone() for key, value in optimizer_tensors(optimizer, parameter_names).items()}
    before = {key: value.clone() for key, value in saved.items()}
    restore_optimizer(optimizer, parameter_names, saved)
    trained(net, optimizer, range(2))
    assert all(torch.equal(saved[key], before[key]) for key in saved)


@pytest.mark.parametrize(("fused", "place"), [(True, "meta"), (False, "cpu")])
def test_step_counters_are_on_the_optimisers_device(fused, place):
    """A fused kernel reads the step counter on the parameter's device, all others read it on the CPU."""
    parameter = nn.Parameter(torch.zeros(2, device="meta"))
    optimizer = optimizers.create("adamw", [{"params": [parameter], "weight_decay": 0.0}])
    optimizer.param_groups[0]["fused"] = fused
    restore_optimizer(optimizer, {id(parameter): "p"}, {"optimizer.p.step": torch.tensor(3.0)})
    assert optimizer.state[parameter]["step"].device.type == place


def test_state_of_another_shape_is_refused():
    net = network(0)
    optimizer = optimizers.create("sgd", [{"params": list(net.parameters()), "weight_decay": 0.0}])
    names = {id(p): n for n, p in net.named_parameters()}
    with pytest.raises(TrainingError, match=r"checkpoint's 4.weight.momentum_buffer has shape \(3, 4\)"):
        restore_optimizer(optimizer, names, {"optimizer.4.weight.momentum_buffer": torch.zeros(3, 4)})
