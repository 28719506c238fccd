"""Setting up a run from its recipe: devices, losses, schedules, micro-batches, networks of several processes."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from facespace.errors import RecipeError, RuntimeUnavailable, TrainingError  # noqa: E402
from facespace.faces.input_spec import InputSpec  # noqa: E402
from facespace.training import distributed, recipe as recipes, setup  # noqa: E402
from facespace.training.augmentation import Augmentation  # noqa: E402
from facespace.training.recipe import Recipe  # noqa: E402
from facespace.training.schedules import Schedule  # noqa: E402
from facespace.training.state import Progress  # noqa: E402
from support.processes import run_in_two_processes  # noqa: E402


def recipe(*overrides: str) -> Recipe:
    return recipes.parse("", overrides)


# Devices and precision


@pytest.mark.parametrize(("there", "expected"), [(True, "cuda"), (False, "cpu")])
def test_auto_is_a_gpu_where_there_is_one(monkeypatch, there, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert setup.device_of(recipe("device=auto")) == expected
    assert setup.device_of(recipe("device=cpu")) == "cpu"


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeUnavailable, match="cuda"):
        setup.device_of(recipe("device=cuda"))


@pytest.mark.parametrize(
    ("precision", "device", "supported", "expected"),
    [
        ("auto", "cuda", True, torch.bfloat16),
        ("auto", "cuda", False, torch.float32),
        ("auto", "cpu", True, torch.float32),
        ("float16", "cpu", True, torch.float16),
        ("float32", "cuda", True, torch.float32),
    ],
)
def test_auto_is_bfloat16_on_a_gpu_that_has_it(monkeypatch, precision, device, supported, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: supported)
    assert setup.precision_of(recipe(f"precision={precision}"), torch.device(device)) is expected


def test_freed_memory_is_kept_by_the_c_library(monkeypatch):
    told: list[tuple[int, int]] = []
    library = SimpleNamespace(mallopt=lambda option, value: told.append((option, value)))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    setup.keep_freed_memory()
    assert dict(told) == {-3: 2**30, -1: 2**31 - 1}  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    setup.keep_freed_memory()

    def missing(name: None) -> None:
        raise OSError("no such library")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    setup.keep_freed_memory()


# Losses, schedules, augmentation


def test_losses_get_their_names_sizes_options_and_weights():
    entries = '{name="center", rate=0.25}, {name="softmax", weight=0.5}, {name="center", weight=0, legacy=true}'
    terms, weights = setup.terms_of(recipe(f"losses=[{entries}]"), 8, 5)
    assert weights == {"center": 1, "softmax": 0.5, "center-3": 0}
    assert list(terms) == list(weights)
    assert [terms[name].name for name in terms] == ["center", "softmax", "center"]
    assert [(terms[name].rate, terms[name].legacy) for name in ("center", "center-3")] == [(0.25, False), (0.5, True)]
    assert terms["softmax"].weight.shape == terms["center"].centers.shape == (5, 8)
    assert all(term.deferred for term in terms.values())  # the loop calls `update` once a step


@pytest.mark.parametrize("entry", ['name="softmaxx"', 'name="center", ratte=1', 'name="center", rate=2'])
def test_a_loss_that_cannot_be_made_is_refused(entry):
    with pytest.raises(RecipeError, match=r"^losses: .*(softmaxx|ratte|rate)"):
        setup.terms_of(recipe(f"losses=[{{{entry}}}]"), 8, 5)


def test_triplets_need_pairs_of_one_person():
    options = ("losses=[{name='triplet'}]", "batch_size=12")
    for too_few in (0, 1):
        with pytest.raises(RecipeError, match=f"images_per_person must be at least 2 for triplets, got {too_few}"):
            setup.terms_of(recipe(*options, f"images_per_person={too_few}"), 8, 5)
    terms, _ = setup.terms_of(recipe(*options, "images_per_person=2"), 8, 5)
    assert list(terms) == ["triplet"]


NUMBERS = ("n_epochs=9", "learning_rate=0.3", "decay_epochs=4", "decay_factor=0.5", "warmup_epochs=2")
SAME = {"n_epochs": 9, "learning_rate": 0.3, "decay_epochs": 4, "decay_factor": 0.5, "warmup_epochs": 2.0}


def test_a_schedule_by_its_name_in_line_or_in_a_file(tmp_path):
    file = tmp_path / "rates.txt"
    file.write_text("0: 0.1\n5: 0.01\n")
    for named in ("step", "cosine", "polynomial"):
        made = setup.schedule_of(recipe(f"schedule={named}", *NUMBERS), 7)
        assert made == Schedule(epoch_size=7, kind=named, **SAME)
    for table in ("0: 0.1, 5: 0.01", str(file)):
        made = setup.schedule_of(recipe(f"schedule={table}", *NUMBERS), 7)
        assert made == Schedule(epoch_size=7, kind="step", table=((0, 0.1), (5, 0.01)), **SAME)


@pytest.mark.parametrize("schedule", ["cosin", "0: 0.1, 0: 0.2", "0: fast", ":"])
def test_an_unknown_schedule_is_refused_with_the_known_ones(schedule):
    with pytest.raises(RecipeError, match=r"^schedule: .*step, cosine, polynomial"):
        setup.schedule_of(recipe(f"schedule={schedule}"), 7)


def test_a_crop_is_augmented_as_the_recipe_says():
    parts = {"rotate": 5.0, "color": 0.1, "low_resolution": 0.2, "occlusion": 0.3, "mask": 0.4}
    options = [*(f"{name}={value}" for name, value in parts.items()), "crop=random", "crop_size=150", "flip=false"]
    made = setup.augmentation_of(recipe(*options), InputSpec(160, "box"))
    assert made == Augmentation(160, crop_size=150, crop="random", flip=False, **parts)
    assert setup.augmentation_of(recipe(), InputSpec(112, "box")) == Augmentation(112, flip=True)


# Micro-batches


@pytest.mark.parametrize(
    ("n_ranks", "accumulate", "batch_size", "expected"), [(1, 1, 2, 1), (1, 3, 12, 3), (2, 3, 12, 6)]
)
def test_a_step_has_parts_of_every_process(monkeypatch, n_ranks, accumulate, batch_size, expected):
    monkeypatch.setattr(distributed, "n_ranks", lambda: n_ranks)
    assert setup.n_parts_of(recipe(f"batch_size={batch_size}"), accumulate) == expected


@pytest.mark.parametrize(("accumulate", "batch_size"), [(3, 16), (3, 6), (4, 15)], ids=["uneven", "one image", "both"])
def test_parts_are_of_one_size_and_two_images(monkeypatch, accumulate, batch_size):
    monkeypatch.setattr(distributed, "n_ranks", lambda: 2)
    with pytest.raises(RecipeError, match=f"^batch_size .*multiple of {2 * accumulate} .*got {batch_size}$"):
        setup.n_parts_of(recipe(f"batch_size={batch_size}"), accumulate)


def test_a_step_that_did_not_fit_gets_twice_as_many_micro_batches():
    progress = Progress(step=4, accumulate=3)
    setup.halve(recipe("batch_size=24"), progress, MemoryError())  # parts of 8
    assert progress == Progress(step=4, accumulate=6)
    setup.halve(recipe("batch_size=24"), progress, MemoryError())  # parts of 4
    assert progress.accumulate == 12


@pytest.mark.parametrize(("n_ranks", "batch_size", "size"), [(2, 48, 8), (1, 15, 5), (1, 9, 3), (1, 6, 2)])
def test_parts_that_cannot_be_halved(monkeypatch, n_ranks, batch_size, size):
    monkeypatch.setattr(distributed, "n_ranks", lambda: n_ranks)
    progress = Progress(step=4, accumulate=3)
    with pytest.raises(TrainingError, match=rf"^step 5: .* {size} images .*\(out of memory\); .*batch_size") as caught:
        setup.halve(recipe(f"batch_size={batch_size}"), progress, RuntimeError("out of memory\nand a second line"))
    assert "\n" not in str(caught.value)
    assert progress.accumulate == 3


# Networks


def test_one_process_trains_the_backbone_itself_or_compiled(monkeypatch):
    backbone, compiled = nn.Linear(2, 2), nn.Linear(2, 2)
    monkeypatch.setattr(torch, "compile", {backbone: compiled}.get)
    assert setup.wrapped(backbone, recipe(), torch.device("cpu")) is backbone
    assert setup.wrapped(backbone, recipe("compile=true"), torch.device("cpu")) is compiled
    with setup.without_averaging(backbone, True):  # there is no other process to average with
        backbone(torch.ones(1, 2)).sum().backward()
    assert backbone.bias.grad.tolist() == [1, 1]


CODE = """
from facespace.training import distributed, recipe, setup

distributed.join("cpu")
backbone = torch.nn.Linear(1, 1, bias=False)
network = setup.wrapped(backbone, recipe.parse(""), torch.device("cpu"))
images = torch.full((1, 1), 2.0 if distributed.rank() == 0 else 6.0)
found["gradients"] = []
for alone in (True, False):
    with setup.without_averaging(network, alone):
        network(images).sum().backward()
    found["gradients"].append(backbone.weight.grad.item())
distributed.leave()
"""


def test_two_processes_average_gradients_with_the_last_part_only(tmp_path):
    """A micro-batch has the gradient 2 in one process and 6 in the other; two micro-batches add up to a mean of 8."""
    found = run_in_two_processes(tmp_path, CODE)
    assert [one["gradients"] for one in found] == [[2, 8], [6, 8]]
