"""The processes of one training run: one alone, and two real ones that gather, sum and wait."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from facespace.errors import TrainingError  # noqa: E402
from facespace.training import distributed  # noqa: E402
from facespace.training.distributed import report_lost_processes as lost  # noqa: E402
from support.processes import run_in_two_processes  # noqa: E402


@pytest.fixture(autouse=True)
def without_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


# One process


def test_one_process_is_rank_0_of_1():
    assert (distributed.rank(), distributed.n_ranks()) == (0, 1)


def test_one_process_keeps_its_tensors():
    own = torch.tensor([[1, 2], [3, 4]])
    assert distributed.gathered(own) is own
    assert distributed.summed(own) is own
    assert own.tolist() == [[1, 2], [3, 4]]


def test_one_process_does_not_wait_and_has_no_group_to_leave(monkeypatch):
    def called(*_: object, **__: object) -> None:
        raise AssertionError("there is no other process")

    for name in ("barrier", "destroy_process_group", "all_gather", "all_reduce"):
        monkeypatch.setattr(torch.distributed, name, called)
    distributed.wait()
    distributed.leave()
    assert distributed.gathered(torch.ones(1)).tolist() == distributed.summed(torch.ones(1)).tolist() == [1]


@pytest.fixture
def group_of_one(tmp_path: Path) -> Iterator[None]:
    """A real process group whose only member is this process."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def test_leaving_ends_the_group(group_of_one):
    assert torch.distributed.is_initialized()
    distributed.leave()
    assert not torch.distributed.is_initialized()
    distributed.leave()  # a second time it does nothing


def test_a_joined_process_does_not_join_again(group_of_one, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert distributed.join("cpu") == torch.device("cpu")  # torch refuses a second group
    assert distributed.n_ranks() == 1


# Joining


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Record the calls that join a group and choose a GPU, without executing them."""
    calls: list[Any] = []
    monkeypatch.setattr(torch.distributed, "init_process_group", calls.append)
    monkeypatch.setattr(torch.cuda, "set_device", calls.append)
    return calls


@pytest.mark.parametrize("size", [None, "1"])
def test_a_process_without_others_joins_nothing(joined, monkeypatch, size):
    if size:
        monkeypatch.setenv("WORLD_SIZE", size)
    assert distributed.join("cpu") == torch.device("cpu")
    assert joined == []


def test_cpus_communicate_by_gloo(joined, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert distributed.join("cpu") == torch.device("cpu")
    assert joined == ["gloo"]


def test_gpus_communicate_by_nccl_and_each_process_has_its_own(joined, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "16")
    monkeypatch.setenv("RANK", "11")
    monkeypatch.setenv("LOCAL_RANK", "3")  # the second machine of eight GPUs
    assert distributed.join("cuda") == torch.device("cuda", 3)
    assert joined == ["nccl", 3]


def test_one_process_takes_the_first_gpu(joined):
    assert distributed.join("cuda") == torch.device("cuda", 0)
    assert joined == [0]


# Two processes


def test_only_contiguous_tensors_are_sent(monkeypatch):
    """NCCL refuses others. Gloo accepts them, so the test inspects the call."""
    sent: list[Any] = []
    monkeypatch.setattr(distributed, "n_ranks", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_gather", lambda parts, own: sent.append(own))
    rows = torch.arange(6.0).reshape(3, 2).T
    distributed.gathered(rows)
    assert sent[0].is_contiguous() and torch.equal(sent[0], rows)


CODE = """
import time
from facespace.training import distributed

found["device"] = str(distributed.join("cpu"))
distributed.join("cpu")
found["backend"] = torch.distributed.get_backend()
rank = distributed.rank()
found["ranks"] = [rank, distributed.n_ranks()]

rows = torch.arange(6.0).reshape(3, 2).T + 100 * rank  # not contiguous
found["gathered"] = distributed.gathered(rows).tolist()
found["rows"] = rows.tolist()
labels = distributed.gathered(torch.tensor([2**40 + rank]))
found["labels"], found["dtype"] = labels.tolist(), str(labels.dtype)

own = torch.tensor([1.0, 10.0]) * (rank + 1)
found["summed in place"] = distributed.summed(own) is own
found["summed"] = own.tolist()

note = Path(sys.argv[1], "note")
if rank == 0:
    time.sleep(0.5)  # without the wait, the other process looks too early
    note.touch()
distributed.wait()
found["note"] = note.exists()

distributed.leave()
found["alone"] = [torch.distributed.is_initialized(), distributed.rank(), distributed.n_ranks()]
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_in_two_processes(tmp_path_factory.mktemp("two"), CODE)


def test_two_processes_join_by_gloo(two):
    assert [found["ranks"] for found in two] == [[0, 2], [1, 2]]
    assert [found["device"] for found in two] == ["cpu", "cpu"]
    assert [found["backend"] for found in two] == ["gloo", "gloo"]


def test_every_process_gathers_all_rows_in_the_order_of_ranks(two):
    for found in two:
        assert found["gathered"] == [[0, 2, 4], [1, 3, 5], [100, 102, 104], [101, 103, 105]]
        assert found["labels"] == [2**40, 2**40 + 1]
        assert found["dtype"] == "torch.int64"
    assert [found["rows"] for found in two] == [[[0, 2, 4], [1, 3, 5]], [[100, 102, 104], [101, 103, 105]]]


def test_every_process_gets_the_sum_in_place(two):
    for found in two:
        assert found["summed"] == [3, 30]
        assert found["summed in place"]


def test_a_process_waits_for_the_other(two):
    assert [found["note"] for found in two] == [True, True]


def test_a_process_that_left_is_alone(two):
    assert [found["alone"] for found in two] == [[False, 0, 1]] * 2


# Lost processes


@pytest.mark.parametrize(
    "error",
    [
        torch.distributed.DistBackendError("NCCL communicator was aborted\non rank 1"),
        RuntimeError(
            "[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:34207"
        ),
    ],
)
def test_a_lost_process_is_reported_in_one_line(error):
    with pytest.raises(TrainingError, match="another process of this run ended") as raised, lost():
        raise error
    assert "\n" not in str(raised.value)


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match=r"^shapes differ$"), lost():
        raise RuntimeError("shapes differ")
