"""The training loop: bit-exact resuming, several processes, failures, and the written files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from facespace.backbones.registry import create  # noqa: E402
from facespace.embedding.embedder import Embedder  # noqa: E402
from facespace.errors import RecipeError, RuntimeUnavailable, TrainingError  # noqa: E402
from facespace.faces.input_spec import InputSpec  # noqa: E402
from facespace.formats.torch_files import as_safetensors  # noqa: E402
from facespace.models.folder import WEIGHTS, ModelRecord, write_model  # noqa: E402
from facespace.training import (  # noqa: E402
    checkpoint,
    recipe as recipes,
    run_folder,
)
from facespace.training.interrupts import Interrupted  # noqa: E402
from facespace.training.loop import train  # noqa: E402
from facespace.training.losses import loss as loss_registry  # noqa: E402
from facespace.training.losses.loss import Loss  # noqa: E402

N_PEOPLE, N_IMAGES, SIDE = 6, 8, 120


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of noisy patterns, one pattern a person, which a network learns quickly."""
    root = tmp_path_factory.mktemp("people")
    random = np.random.default_rng(0)
    for person in range(N_PEOPLE):
        (root / f"person {person}").mkdir()
        pattern = random.integers(0, 256, (8, 8, 3)).repeat(SIDE // 8, 0).repeat(SIDE // 8, 1)
        for number in range(N_IMAGES - (person == 0)):
            noisy = np.clip(pattern + random.normal(0, 40, pattern.shape), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(root / f"person {person}" / f"{number}.png")
    return root


TEXT = """
backbone = "tiny"
dimension = 16
input_spec = { size = 112, template = "box", crop_margin = 32 }
crop = "random"
rotate = 5.0
color = 0.1
batch_size = 12
n_epochs = 2
epoch_size = 4
optimizer = "rmsprop"
learning_rate = 0.01
weight_decay = 1e-4
ema = 0.9
workers = 0
log_every = 1
device = "cpu"

[[losses]]
name = "softmax"

[[losses]]
name = "center"
weight = 0.01
"""


def recipe(people: Path, *overrides: str, text: str = TEXT) -> recipes.Recipe:
    return recipes.parse(text, [f"data={people}", *overrides])


def logged(run: Path) -> list[tuple[int, float, float]]:
    return [
        (row["step"], row["total_loss"], row["gradient_norm"])
        for row in run_folder.read_metrics(run)
        if "total_loss" in row
    ]


def weights(run: Path) -> bytes:
    return (run / "model" / "model.safetensors").read_bytes()


@pytest.fixture(autouse=True)
def without_onnx(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip torch's exporter, which takes seconds; only `undisturbed` uses it."""
    request.getfixturevalue("undisturbed")

    def unavailable(*arguments: object) -> bytes:
        raise RuntimeUnavailable("not in these tests")

    monkeypatch.setattr("facespace.backbones.onnx_export.backbone_to_onnx", unavailable)


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of training processes: one thread, and no ONNX exporter."""
    folder = tmp_path_factory.mktemp("no-exporter")
    (folder / "onnxscript.py").write_text("raise ImportError('not in these tests', name='onnxscript')")
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}


@pytest.fixture(scope="session")
def undisturbed(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    train(recipe(people), run)
    return run


def test_a_run_learns_and_writes_a_model_that_can_be_opened(people, undisturbed):
    rows = logged(undisturbed)
    assert [step for step, _, _ in rows] == list(range(1, 9))
    assert rows[-1][1] < rows[0][1]
    embedder = Embedder.load(undisturbed / "model")
    crop = np.asarray(Image.open(people / "person 1" / "0.png"))[4:116, 4:116]
    assert embedder.embed(crop[None]).shape == (1, 16)
    assert embedder.runtime in ("openvino", "onnxruntime")  # uses its ONNX file, without torch
    record = json.loads((undisturbed / "model" / "model.json").read_text())
    assert record["training"]["steps"] == 8
    assert record["training"]["dataset"]["n_people"] == N_PEOPLE


def test_the_moving_average_is_what_is_kept(people, undisturbed, tmp_path):
    train(recipe(people, "ema=0.0"), tmp_path / "run")
    assert logged(tmp_path / "run") == logged(undisturbed)  # it does not change the training itself
    assert weights(tmp_path / "run") != weights(undisturbed)


class Killed(BaseException):
    """Stands for the end of a killed process."""


@pytest.mark.parametrize("at", [1, 3, 4, 7])
def test_a_run_killed_at_any_step_ends_in_the_same_bits(people, undisturbed, tmp_path, monkeypatch, at):
    from facespace.training import loop as training

    follow, steps = training.arithmetic.update_average, []

    def killing(*arguments: object) -> None:
        follow(*arguments)
        steps.append(1)
        if len(steps) == at:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(training.arithmetic, "update_average", killing)
        train(recipe(people, "checkpoint_every=1"), tmp_path / "run")
    train(recipe(people, "checkpoint_every=1"), tmp_path / "run")
    assert logged(tmp_path / "run") == logged(undisturbed)
    assert weights(tmp_path / "run") == weights(undisturbed)


LOSSES = {
    "triplet": '[[losses]]\nname = "triplet"\nminer = "vgg"\n',
    "arcface": '[[losses]]\nname = "arcface"\n',
    "adaface": '[[losses]]\nname = "adaface"\n',
    "sampled": '[[losses]]\nname = "partial-fc"\nsample_rate = 0.5\n',
    "legacy": '[[losses]]\nname = "softmax"\n[[losses]]\nname = "center"\nlegacy = true\nrate = 0.05\n',
}


@pytest.mark.parametrize("optimizer", ["adam", "adagrad", "adadelta", "mom", "sgd", "adamw"])
@pytest.mark.parametrize("loss", ["triplet"])
def test_every_optimiser_resumes(people, tmp_path, optimizer, loss):
    check_resumes(people, tmp_path, f"optimizer={optimizer}", loss=loss)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_kind_of_loss_resumes(people, tmp_path, loss):
    check_resumes(people, tmp_path, "accumulate=2", loss=loss)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_every_precision_resumes(people, tmp_path, precision):
    check_resumes(people, tmp_path, f"precision={precision}", loss="arcface")


def check_resumes(people: Path, tmp_path: Path, *overrides: str, loss: str) -> None:
    text = TEXT[: TEXT.index("[[losses]]")] + LOSSES[loss]
    options = [*overrides, "images_per_person=3", "epoch_size=2", "n_epochs=2"]
    train(recipe(people, *options, text=text), tmp_path / "whole")
    train(recipe(people, *options, "n_epochs=1", text=text), tmp_path / "parts")
    train(recipe(people, *options, text=text), tmp_path / "parts")
    assert logged(tmp_path / "parts") == logged(tmp_path / "whole")
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


def test_a_process_killed_without_warning(people, environment, tmp_path):
    """kill −9 at a random moment, with all workers; started again by the same command."""
    # One thread in both, because several threads add in another order.
    file = tmp_path / "recipe.toml"
    file.write_text(TEXT)
    command = [
        sys.executable,
        "-m",
        "facespace",
        "train",
        str(file),
        f"data={people}",
        "workers=1",
        "checkpoint_every=1",
    ]
    command += ["epoch_size=12", "n_epochs=1"]
    killed = subprocess.Popen(
        [*command, "--output", str(tmp_path / "killed")],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    metrics = tmp_path / "killed" / "metrics.jsonl"
    while not metrics.is_file() or len(metrics.read_bytes().splitlines()) < 5:
        assert killed.poll() is None
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed" / "model").exists()
    for run in ("killed", "whole"):
        done = subprocess.run(
            [*command, "--output", str(tmp_path / run)], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert ("resumes after step" in done.stdout) == (run == "killed")
    assert logged(tmp_path / "killed") == logged(tmp_path / "whole")
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")


def test_interrupted_it_saves_the_step_first(people, tmp_path, monkeypatch):
    from facespace.training import loop as training

    follow = training.arithmetic.update_average

    came = []

    def interrupting(*arguments: object) -> None:
        follow(*arguments)
        if not came:
            came.append(1)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(training.arithmetic, "update_average", interrupting)
    with pytest.raises(Interrupted) as caught:
        train(recipe(people), tmp_path / "run")
    assert caught.value.number == signal.SIGINT
    assert checkpoints(tmp_path / "run") == [2]


def checkpoints(run: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in (run / "checkpoints").iterdir())


def test_sigterm_to_all_processes_saves_the_step(people, environment, tmp_path):
    """As when a cluster ends a job: the trainer, workers and fork server get it, and torchrun forwards it once more."""
    file = tmp_path / "recipe.toml"
    file.write_text(TEXT)
    command = [sys.executable, "-m", "facespace", "train", str(file), f"data={people}", "workers=2"]
    command += ["epoch_size=16", "n_epochs=1"]
    stopped = subprocess.Popen(
        [*command, "--output", str(tmp_path / "stopped")],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    metrics = tmp_path / "stopped" / "metrics.jsonl"
    while not metrics.is_file() or len(metrics.read_bytes().splitlines()) < 3:
        assert stopped.poll() is None
        time.sleep(0.01)
    os.killpg(stopped.pid, signal.SIGTERM)
    os.killpg(stopped.pid, signal.SIGTERM)
    (line,) = stopped.communicate()[1].splitlines()
    assert stopped.returncode == 128 + signal.SIGTERM
    hint = f"resume with facespace train {tmp_path / 'stopped'}"
    assert line == f"facespace: stopped after saving a checkpoint; {hint}"
    (at,) = checkpoints(tmp_path / "stopped")
    assert at == len(logged(tmp_path / "stopped")) >= 3
    again = [sys.executable, "-m", "facespace", "train", str(tmp_path / "stopped")]
    for words in (again, [*command, "--output", str(tmp_path / "whole")]):
        subprocess.run(words, env=environment, capture_output=True, check=True)
    assert logged(tmp_path / "stopped") == logged(tmp_path / "whole")
    assert weights(tmp_path / "stopped") == weights(tmp_path / "whole")


def test_a_checkpoint_every_ten_minutes(people, undisturbed, tmp_path, monkeypatch):
    """A step takes 250 s by this clock: the fourth begins 750 s after the start."""
    from facespace.training import loop as training

    now, follow = [0.0], training.arithmetic.update_average

    def slow(*arguments: object) -> None:
        now[0] += 250
        follow(*arguments)
        if now[0] == 6 * 250:
            raise Killed

    options = ["epoch_size=8", "n_epochs=1"]
    with monkeypatch.context() as patch:
        patch.setattr(training.arithmetic, "update_average", slow)
        patch.setattr("facespace.training.stopwatch.time.perf_counter", lambda: now[0])
        with pytest.raises(Killed):
            train(recipe(people, *options), tmp_path / "run")
    assert checkpoints(tmp_path / "run") == [4]
    train(recipe(people, *options), tmp_path / "run")
    assert logged(tmp_path / "run") == logged(undisturbed)
    assert weights(tmp_path / "run") == weights(undisturbed)


def test_pairs_that_were_not_measured_are_measured_when_the_run_resumes(people, tmp_path, monkeypatch):
    from facespace.training import loop as training

    measured: list[int] = []

    class Verifier:
        def measure(self, network: object, device: str) -> dict[str, dict[str, object]]:
            measured.append(1)
            if len(measured) == 1:
                raise Killed
            figures = {"accuracy": 0.5, "accuracy_interval": None, "val_rate": None, "auc": 0.5, "eer": 0.5}
            return {"pairs": {**figures, "seconds": 1.0}}

    monkeypatch.setattr(training, "prepare", lambda *arguments: Verifier())
    options = ["verify_bin=pairs.bin", "n_epochs=2"]
    with pytest.raises(Killed):
        train(recipe(people, *options), tmp_path / "run")
    for _ in range(2):
        train(recipe(people, *options), tmp_path / "run")
    rows = [row for row in run_folder.read_metrics(tmp_path / "run") if "verification" in row]
    assert [(row["step"], row["epoch"]) for row in rows] == [(4, 1), (8, 2)]
    assert len(measured) == 3


# ---- Several processes -----------------------------------------------------------------------------------------------

SPREAD = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from facespace.training import distributed as ranks, recipe
from facespace.training.loop import train
if __name__ == "__main__":
    train(recipe.parse(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
    ranks.leave()
    threads = [task.read_text().strip() for task in Path("/proc/self/task").glob("*/comm")]
    assert not any("gloo" in name for name in threads), threads
"""


def spread(tmp_path: Path, text: str, run: Path, n: int, environment: dict[str, str]) -> None:
    (tmp_path / "recipe.toml").write_text(text)
    (tmp_path / "train.py").write_text(SPREAD)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n)]
    done = subprocess.run(
        [*command, str(tmp_path / "train.py"), str(tmp_path / "recipe.toml"), str(run)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("loss", ["classic", "partial-fc"])
def test_two_processes_compute_what_one_does(people, environment, tmp_path, loss):
    """Micro-batch k of two is the same in its own process as in one process that computes both, for batch norms too."""
    losses = {
        "classic": TEXT[TEXT.index("[[losses]]") :],
        "partial-fc": '[[losses]]\nname = "partial-fc"\n[[losses]]\nname = "features-norm"\nweight = 0.01\n',
    }
    text = TEXT[: TEXT.index("[[losses]]")].replace("ema = 0.9\n", "clip_norm = 1.0\n")
    text += f'data = "{people}"\n' + losses[loss]
    train(recipes.parse(text, ["accumulate=2"]), tmp_path / "one")
    spread(tmp_path, text, tmp_path / "two", 2, environment)
    assert [step for step, _, _ in logged(tmp_path / "two")] == list(range(1, 9))
    np.testing.assert_allclose(logged(tmp_path / "two"), logged(tmp_path / "one"), rtol=2e-4)
    # One process can load shards of several.
    train(recipes.parse(text, ["accumulate=2", "n_epochs=3"]), tmp_path / "one")
    facts = run_folder.read_recipe(tmp_path / "two")
    alone = facts.model_copy(update={"n_epochs": 3})
    train(alone, tmp_path / "two")
    assert len(logged(tmp_path / "two")) == 12


def test_two_processes_stop_after_the_same_step(people, environment, tmp_path):
    """SIGTERM to torchrun and its processes, which torchrun signals once more; the saved run can be resumed."""
    file = tmp_path / "recipe.toml"
    file.write_text(f'data = "{people}"\n' + TEXT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "facespace", "train", str(file), "epoch_size=400", "--output", str(tmp_path / "run")]
    stopped = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not metrics.is_file() or len(metrics.read_bytes().splitlines()) < 3:
        assert stopped.poll() is None
        time.sleep(0.01)
    os.killpg(stopped.pid, signal.SIGTERM)
    said = [line for line in stopped.communicate()[1].splitlines() if line.startswith("facespace: ")]
    hint = f"resume with facespace train {tmp_path / 'run'}"
    assert said == [f"facespace: stopped after saving a checkpoint; {hint}"]
    (at,) = checkpoints(tmp_path / "run")
    assert at == len(logged(tmp_path / "run")) >= 3
    saved = checkpoint.load(tmp_path / "run" / "checkpoints" / f"step-{at:09d}")
    assert saved.step == at and saved.facts["accumulate"] == 1  # one micro-batch per process


# ---- What goes wrong -------------------------------------------------------------------------------------------------


class Breaking(Loss):
    """A loss that calls a function of the test at its n-th call."""

    at, action = 0, staticmethod(lambda features: features.sum() * 0)

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, features, labels):
        self.calls += 1
        return type(self).action(features) if self.calls == self.at else features.sum() * 0


@pytest.fixture
def breaking(monkeypatch: pytest.MonkeyPatch) -> type[Breaking]:
    loss_registry.known()
    monkeypatch.setitem(loss_registry._LOSSES._classes, "breaking", Breaking)
    monkeypatch.setattr(Breaking, "at", 3)
    return Breaking


BREAKING = TEXT + '[[losses]]\nname = "breaking"\n'


def test_a_loss_that_is_not_finite_names_the_tensor(people, tmp_path, monkeypatch, breaking):
    with pytest.raises(TrainingError, match=r"step 2: the loss is not finite; .*: the output of backbone.maps.\d;"):
        train(recipe(people, "learning_rate=1e30", "optimizer=sgd"), tmp_path / "weights")
    monkeypatch.setattr(breaking, "forward", lambda self, features, labels: features.sum() * torch.inf)
    with pytest.raises(TrainingError, match=r"step 1: the loss is not finite; .*: the output of loss breaking;"):
        train(recipe(people, text=BREAKING), tmp_path / "loss")


def test_not_enough_memory_halves_the_parts(people, tmp_path, monkeypatch, breaking):
    def full(features: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(breaking, "action", staticmethod(full))
    said: list[str] = []
    train(recipe(people, text=BREAKING), tmp_path / "run", show=lambda line, passing: said.append(line))
    assert any("out of memory; from now on each step is computed in 2 micro-batches" in line for line in said)
    assert len(logged(tmp_path / "run")) == 8


def test_memory_for_less_than_two_images(people, tmp_path, monkeypatch, breaking):
    def full(features: torch.Tensor) -> torch.Tensor:
        raise MemoryError

    monkeypatch.setattr(Breaking, "forward", lambda self, features, labels: full(features))
    with pytest.raises(TrainingError, match="not enough memory for 3 images at once"):
        train(recipe(people, text=BREAKING), tmp_path / "run")


def test_centres_that_diverge(people, tmp_path):
    text = TEXT.replace('name = "center"', 'name = "center"\nlegacy = true\nrate = 1.0')
    with pytest.raises(TrainingError, match=r"the centres of center diverge .*lower its rate, or leave out legacy"):
        train(recipe(people, "batch_size=36", "epoch_size=60", "n_epochs=1", text=text), tmp_path / "run")


TRIPLETS = TEXT[: TEXT.index("[[losses]]")] + '[[losses]]\nname = "triplet"\n'


def test_embeddings_that_collapse(people, tmp_path, monkeypatch):
    monkeypatch.setattr("facespace.training.guards._PATIENCE", 3)
    monkeypatch.setattr("facespace.training.guards._COLLAPSED", 2.5)  # no embeddings of a batch are further apart
    with pytest.raises(TrainingError, match=r"step 3: the embeddings have collapsed .*of triplets active.*init"):
        train(recipe(people, "images_per_person=3", text=TRIPLETS), tmp_path / "run")


def test_no_triplet_left(people, tmp_path, monkeypatch):
    monkeypatch.setattr("facespace.training.guards._PATIENCE", 3)
    text = TRIPLETS + 'miner = "hard"\n'
    with pytest.raises(TrainingError, match="no triplet left to learn from for 3 steps"):
        train(recipe(people, "images_per_person=6", "n_epochs=60", "learning_rate=0.02", text=text), tmp_path / "run")


def test_people_with_one_image_do_no_harm(people, tmp_path):
    import shutil

    shutil.copytree(people, tmp_path / "people")
    for person in range(4):
        for file in sorted((tmp_path / "people" / f"person {person}").iterdir())[1:]:
            file.unlink()
    train(recipe(tmp_path / "people", "images_per_person=4", text=TRIPLETS), tmp_path / "run")
    assert len(logged(tmp_path / "run")) == 8
    for person in range(4, N_PEOPLE - 1):
        for file in sorted((tmp_path / "people" / f"person {person}").iterdir())[1:]:
            file.unlink()
    from facespace.errors import DatasetError

    with pytest.raises(DatasetError, match="at least two people with two images each; 1 of 6 people have them"):
        train(recipe(tmp_path / "people", "images_per_person=4", text=TRIPLETS), tmp_path / "other")


def test_a_full_disk_leaves_the_checkpoint_before(people, tmp_path, monkeypatch):
    import errno

    from facespace.training import checkpoint

    sync, synced = checkpoint.sync_file, []

    def full(file: Path) -> None:
        synced.append(file)
        if len(synced) > 1:  # one file a checkpoint
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(file)

    message = r"cannot be written .*No space left.*step-000000004 is intact; make room, then resume with facespace train .*/run"
    with monkeypatch.context() as patch, pytest.raises(TrainingError, match=message):
        patch.setattr(checkpoint, "sync_file", full)
        train(recipe(people), tmp_path / "run")
    train(recipe(people), tmp_path / "run")
    assert len(logged(tmp_path / "run")) == 8


@pytest.mark.parametrize("files", ["*/metrics.jsonl", "*/events.out*", "*/.facespace-*.png", "*/.facespace-*.json"])
def test_a_full_disk_is_reported_in_one_line_for_any_file(people, undisturbed, environment, tmp_path, files):
    """The log of a step, the sheet of crops, and TensorBoard's thread: the file that fails is /dev/full."""
    file = tmp_path / "recipe.toml"
    file.write_text(TEXT)
    code = FULL.format(files=files)
    command = [sys.executable, "-c", code, "train", str(file), f"data={people}", "--output", str(tmp_path / "run")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1
    hint = f"resume with facespace train {tmp_path / 'run'}"
    todo = "start the same command again" if files.endswith(".json") else hint
    assert line.startswith(f"facespace: {tmp_path / 'run'}")
    assert line.endswith(f": No space left on device; make room, then {todo}")
    train(recipe(people), tmp_path / "run")
    assert weights(tmp_path / "run") == weights(undisturbed)


# Writing to these files fails as on a full disk.
FULL = """
import builtins, fnmatch, functools, io, os
opened = io.open
def on_a_full_disk(file, mode="r", *arguments, **options):
    if mode[0] in "wax" and fnmatch.fnmatch(str(file), "{files}"):
        file = "/dev/full"
    return opened(file, mode, *arguments, **options)
# Before pathlib of Python 3.10 copies `open` into a class, where a function would become a method.
builtins.open = io.open = functools.partial(on_a_full_disk)
from facespace.cli.main import main
main()
"""


def test_a_dataset_edited_during_the_run(people, tmp_path):
    import shutil

    shutil.copytree(people, tmp_path / "people")

    def edit(line: str, passing: bool) -> None:
        if line.startswith("step 2/"):
            (tmp_path / "people" / "person 5" / "new.png").write_bytes(
                (tmp_path / "people" / "person 4" / "0.png").read_bytes()
            )

    with pytest.raises(TrainingError, match="epoch 1: the dataset has changed since training began"):
        train(recipe(tmp_path / "people"), tmp_path / "run", show=edit)
    with pytest.raises(TrainingError, match="47 images of 6 people when it began, and was edited since"):
        train(recipe(tmp_path / "people"), tmp_path / "run")


# ---- Pairs in training -----------------------------------------------------------------------------------------------


@pytest.mark.shared
def test_pairs_are_measured_and_the_best_is_kept(people, shared, tmp_path):
    pairs = shared / "data" / "lfw_dev.bin"
    options = ["input_spec=arcface-112", f"verify_bin={pairs}", "n_epochs=3", "verify_every=2"]
    trained = train(recipe(people, *options), tmp_path / "run")
    rows = [row for row in run_folder.read_metrics(tmp_path / "run") if "verification" in row]
    assert [row["step"] for row in rows] == [8, 12]  # every other epoch, and the last
    accuracies = [row["verification"]["lfw_dev"]["accuracy"] for row in rows]
    assert trained.measured["lfw_dev"]["accuracy"] == accuracies[-1]
    best = json.loads((tmp_path / "run" / "best" / "model.json").read_text())
    assert best["metrics"]["lfw_dev"]["accuracy"] == max(accuracies)
    # After resuming, the last epoch's figures are still those of the written network.
    train(recipe(people, *options), tmp_path / "run")
    assert [row for row in run_folder.read_metrics(tmp_path / "run") if "verification" in row] == rows


def test_a_finished_run_that_is_extended_replaces_its_model(people, tmp_path):
    for n_epochs in (1, 2):
        train(recipe(people, f"n_epochs={n_epochs}"), tmp_path / "run")
        record = json.loads((tmp_path / "run" / "model" / "model.json").read_text())
        assert record["training"]["steps"] == 4 * n_epochs


# ---- The shipped recipes ---------------------------------------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("facenet-casia-2017", ["batch_size=4"]),
        ("facenet-casia-2017", ["batch_size=4", "backbone=squeezenet"]),
        ("facenet-vggface2-2018", ["batch_size=4"]),
        ("facenet-triplet", ["batch_size=6", "images_per_person=2"]),
        ("arcface-ms1mv2", ["batch_size=4", "backbone=iresnet18"]),
        ("cpu", ["batch_size=4"]),
        ("fine-tune", ["batch_size=4"]),
    ],
)
def test_every_shipped_recipe_trains(shared, tmp_path, monkeypatch, name, options):
    monkeypatch.setattr("facespace.training.setup._N_SAMPLE", 8)  # crops for the statistics of folded batch norms
    data = shared / "data" / ("records" if name == "arcface-ms1mv2" else "train_182")
    chosen = recipes.load(name, [f"data={data}", "epoch_size=1", "n_epochs=1", "workers=0", "device=cpu", *options])
    trained = train(chosen, tmp_path / "run")
    assert trained.steps == 1
    assert np.isfinite(logged(tmp_path / "run")[0][1])
    Embedder.load(trained.model)


# ---- Starting from a model --------------------------------------------------------------------------------------------


def test_a_network_that_cannot_distinguish_people(people, undisturbed, tmp_path):
    """A remark is shown when training starts from it and when it is written, but not for a network that has learned."""
    backbone = create("tiny", dimension=16)
    with torch.no_grad():
        backbone.norm.bias.fill_(1000.0)
    spec = InputSpec(112, "box", crop_margin=32)
    record = ModelRecord(
        name="alike", fingerprint="0" * 64, dimension=16, input_spec=spec, backbone="tiny", options=backbone.options
    )
    write_model(tmp_path / "alike", record, {WEIGHTS: as_safetensors(backbone)})
    said: list[str] = []
    quickly = ("n_epochs=1", "epoch_size=1", "learning_rate=1e-6")
    for init, name in ((tmp_path / "alike", "a"), (undisturbed / "model", "b")):
        begun = recipe(people, f"init={init}", *quickly)
        train(begun, tmp_path / name, show=lambda line, passing: said.append(line))
    alike = [line for line in said if "its embeddings are all alike" in line]
    assert len(alike) == 2
    assert alike[0].startswith("alike: ") and "of pictures that have nothing in common" in alike[0]
    assert alike[1].startswith("model: ") and f"training crops of {N_PEOPLE} people" in alike[1]


def test_fine_tuning_with_frozen_stages(people, undisturbed, tmp_path):
    import shutil

    shutil.copytree(people, tmp_path / "people")
    shutil.rmtree(tmp_path / "people" / "person 0")  # another number of people
    options = [f"init={undisturbed / 'model'}", 'freeze=["maps"]', "backbone_learning_rate=0.1", "ema=0.0"]
    train(recipe(tmp_path / "people", *options), tmp_path / "run")
    from safetensors.torch import load_file

    before, after = (load_file(run / "model" / "model.safetensors") for run in (undisturbed, tmp_path / "run"))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]) == name.startswith("maps."), name


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("batch_size=9", "batch_size must be a multiple of 2"),
        ("schedule=cosin", "schedule"),
        ("center.ratte=1", "the loss center has no option ratte, the closest is rate"),
        ("backbone=tinny", "the closest is tiny"),
        ("optimizer=lion", "optimizer must be one of"),
        ("data=", "names no dataset; add data=DIR after it"),
        ('losses=[{name="triplet"}]', "images_per_person must be at least 2 for triplets"),
        ("input_spec=facenet-2019", "no preset"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused_before_training(people, tmp_path, override, message):
    with pytest.raises((RecipeError, ValueError), match=message):
        train(recipe(people, "accumulate=2", override), tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()
