"""Agreement of the processes of a run, tested with two real ones: either all raise an error or none does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from facespace.training import agreement, checkpoint, recipe as recipes  # noqa: E402
from support.processes import run_in_two_processes  # noqa: E402

CPU = torch.device("cpu")


def test_a_process_alone_agrees_with_itself(tmp_path):
    dataset = {"fingerprint": "ab" * 32, "n_images": 3, "n_people": 2}
    agreement.check_same_training(recipes.parse("", []), dataset, CPU)
    agreement.check_shared_folder(tmp_path, CPU)
    assert list(tmp_path.iterdir()) == []


def test_a_process_alone_takes_its_latest_checkpoint(tmp_path):
    assert agreement.latest_checkpoint(tmp_path / "none", CPU) is None
    for step in (0, 8, 16):
        checkpoint.save(tmp_path, checkpoint.Checkpoint(step, {"x": torch.ones(1)}, {}))
        assert agreement.latest_checkpoint(tmp_path, CPU) == checkpoint.path_of(tmp_path, step)


CODE = """
import shutil, threading, time
from facespace.errors import TrainingError
from facespace.training import agreement, checkpoint, distributed, recipe

device = distributed.join("cpu")
rank = distributed.rank()
agreement._SECONDS = 20.0
root = Path(sys.argv[1])
own = root / f"own-{rank}"
shared = root / "shared"
for folder in (own, shared):
    folder.mkdir(exist_ok=True)

def outcome(check, *arguments):
    try:
        return str(check(*arguments))
    except TrainingError as error:
        return str(error)

dataset = {"fingerprint": "ab" * 32, "n_images": 20, "n_people": 5}
edited = dataset | ({"fingerprint": "cd" * 32, "n_images": 15} if rank else {})
plain = recipe.parse("", [f"data=/machine-{rank}/people", f"workers={rank}"])
other = recipe.parse("", [f"batch_size={64 * (rank + 1)}"])
found["same"] = outcome(agreement.check_same_training, plain, dataset, device)
found["dataset"] = outcome(agreement.check_same_training, plain, edited, device)
found["recipe"] = outcome(agreement.check_same_training, other, dataset, device)

found["shared"] = outcome(agreement.check_shared_folder, shared, device)
whole = checkpoint.Checkpoint(8, {"weight": torch.full((1,), float(rank))}, {})
checkpoint.save(shared / "checkpoints", whole, sharded=["weight"])
found["latest"] = outcome(agreement.latest_checkpoint, shared / "checkpoints", device)
found["weight"] = checkpoint.load(shared / "checkpoints/step-000000008").tensors["weight"].tolist()

# A network file system that shows what process 0 wrote a little later.
if rank == 0:
    shutil.copytree(shared / "checkpoints", own / "checkpoints")
else:
    late = threading.Timer(0.5, shutil.copytree, (shared / "checkpoints", own / "checkpoints"))
    late.start()
distributed.wait()
chosen = agreement.latest_checkpoint(own / "checkpoints", device)
found["late"] = chosen.name
found["there"] = (chosen / "checkpoint.json").is_file()

# Process 1 has a newer one, of another run or that process 0 does not see: what process 0 says holds for all.
if rank == 1:
    late.join()
    shutil.copytree(own / "checkpoints/step-000000008", own / "checkpoints/step-000000016")
found["newer"] = agreement.latest_checkpoint(own / "checkpoints", device).name

agreement._SECONDS = 0.3
found["unshared"] = outcome(agreement.check_shared_folder, own, device)
if rank == 1:
    shutil.rmtree(own / "checkpoints")
distributed.wait()
found["unseen"] = outcome(agreement.latest_checkpoint, own / "checkpoints", device)
found["left"] = [path.name for path in [*own.iterdir(), *shared.iterdir()] if path.name != "checkpoints"]

if rank == 0:  # the other one has ended
    found["lost"] = ""
    try:
        with distributed.report_lost_processes():
            distributed.wait()
    except TrainingError as error:
        found["lost"] = str(error)
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_in_two_processes(tmp_path_factory.mktemp("agreement"), CODE)


def test_the_same_training_may_have_its_data_and_workers_elsewhere(two):
    assert [found["same"] for found in two] == ["None", "None"]


def test_another_dataset_is_reported_by_both(two):
    for rank, found in enumerate(two):
        assert (
            "process 1 has a different dataset than process 0 (15 images of 5 people, process 0 has 20 of 5;"
            in found["dataset"]
        )
        assert f"this is process {rank}, on " in found["dataset"]


def test_another_recipe_is_reported_by_both(two):
    for found in two:
        assert "process 1 uses a different recipe than process 0" in found["recipe"]


def test_a_shared_folder_passes_and_nothing_is_left_in_it(two):
    assert [found["shared"] for found in two] == ["None", "None"]
    assert [found["left"] for found in two] == [[], []]


def test_a_folder_of_each_machine_is_refused_by_both(two):
    for rank, found in enumerate(two):
        assert f"own-{rank}: process 1 does not see what process 0 wrote there" in found["unshared"]
        assert "storage that all machines share" in found["unshared"]


def test_all_resume_from_the_checkpoint_of_process_0(two):
    for found in two:
        assert Path(found["latest"]).name == found["newer"] == "step-000000008"
        assert found["weight"] == [0, 1]  # of both


def test_all_wait_for_a_checkpoint_that_appears_late(two):
    assert [(found["late"], found["there"]) for found in two] == [("step-000000008", True)] * 2


def test_a_checkpoint_that_never_appears_is_reported_by_both(two):
    for found in two:
        assert "step-000000008: process 1 does not see what process 0 wrote there" in found["unseen"]


def test_a_process_that_ended_is_reported_in_one_line(two):
    assert two[0]["lost"].startswith("another process of this run ended or cannot be reached (")
    assert "\n" not in two[0]["lost"]
