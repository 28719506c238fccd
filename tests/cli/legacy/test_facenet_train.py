"""The tutorials' trainers: their command lines as printed, run for two steps, and the files they write."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from facespace.cli.legacy import (  # noqa: E402
    data_dirs,
    learning_rates,
    lfw_recipe_keys,
    recipes as legacy_recipes,
    trainers,
)
from facespace.datasets.pairs.lists import read_lfw_pairs  # noqa: E402
from facespace.errors import DatasetError, RecipeError, RuntimeUnavailable  # noqa: E402
from facespace.models.folder import read_record  # noqa: E402
from facespace.training import recipe as recipes  # noqa: E402
from support.commands import Outcome  # noqa: E402
from support.tensorboard import events  # noqa: E402
from support.tutorial_people import write_pairs  # noqa: E402

Cli = Callable[..., Outcome]
STAMP = r"\d{8}-\d{6}"
SHORT = "--epoch_size 2 --max_nrof_epochs 1"
CASIA = (
    "--logs_base_dir logs --models_base_dir models --data_dir {data} --image_size 160 "
    "--model_def models.inception_resnet_v1 --optimizer RMSPROP --learning_rate -1 --max_nrof_epochs 80 "
    "--keep_probability 0.8 --random_crop --random_flip "
    "--learning_rate_schedule_file data/learning_rate_schedule_classifier_casia.txt --weight_decay 5e-5 "
    "--center_loss_factor 1e-2 --center_loss_alfa 0.9"
)
SQUEEZENET = CASIA.replace("inception_resnet_v1", "squeezenet") + " --batch_size 64 --gpu_memory_fraction 0.6"
TRIPLETS = (
    "--logs_base_dir logs --models_base_dir models --data_dir {data} --image_size 160 "
    "--model_def models.inception_resnet_v1 --optimizer RMSPROP --learning_rate 0.01 --weight_decay 1e-4 "
    "--max_nrof_epochs 500"
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Use an empty folder, read images in this process and write no ONNX, because the latter two take seconds."""

    def unavailable(*arguments: object) -> bytes:
        raise RuntimeUnavailable("not in these tests")

    monkeypatch.setattr("facespace.backbones.onnx_export.backbone_to_onnx", unavailable)
    as_recipe = legacy_recipes.as_recipe
    monkeypatch.setattr(trainers, "as_recipe", lambda keys, program: as_recipe({"workers": 0, **keys}, program))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train SqueezeNet instead of a network whose two steps take a minute."""
    monkeypatch.setitem(trainers.NETWORKS, "models.inception_resnet_v1", "squeezenet")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three crops of 182 px of each of four people, named as in LFW."""
    random = np.random.default_rng(0)
    for person in "ABCD":
        (tmp_path / "casia" / person).mkdir(parents=True)
        for k in (1, 2, 3):
            pixels = random.integers(0, 256, (14, 14, 3), dtype=np.uint8).repeat(13, 0).repeat(13, 1)
            Image.fromarray(pixels).save(tmp_path / "casia" / person / f"{person}_{k:04d}.png")
    return tmp_path / "casia"


def train(cli: Cli, program: str, line: str, data: object, *more: object) -> tuple[Outcome, Path, Path]:
    """Train; return the outcome, the folder of the run and that of the model."""
    done = cli("facenet", program, *shlex.split(line.format(data=data)), *map(str, more))
    assert done.code == 0, done.err
    model, log = (
        re.fullmatch(rf"{what} directory: (.*/{STAMP})", done.out.splitlines()[k])
        for k, what in ((0, "Model"), (1, "Log"))
    )
    assert model and log
    assert done.lines[-1] == f"Model: {model[1]}"
    return done, Path(log[1]), Path(model[1])


def todays(done: Outcome) -> list[str]:
    (line,) = (line for line in done.errors if line.startswith("facespace: equivalent command: "))
    return shlex.split(line.removeprefix("facespace: equivalent command: "))


def check_today(done: Outcome, run: Path) -> recipes.Recipe:
    """Check that the equivalent command gives the recipe that was trained, and return the recipe."""
    words = todays(done)
    assert words[:2] == ["facespace", "train"] and words[-2:] == ["--output", str(run)]
    trained = recipes.load(run / "recipe.toml")
    assert recipes.load(words[2], words[3:-2]) == trained
    return trained


def test_the_casia_recipe(cli: Cli, data: Path, small: None) -> None:
    done, run, model = train(cli, "train_softmax", CASIA, data, *SHORT.split(), "--batch_size", 4)
    assert (
        "data/learning_rate_schedule_classifier_casia.txt: no such file; using FaceNet's schedule of this name"
        in done.err
    )
    trained = check_today(done, run)
    shipped = recipes.load("facenet-casia-2017")
    assert todays(done)[2] == "facenet-casia-2017"
    different = {line.split(" ")[0] for line in shipped.differences(trained)}
    assert different == {"data", "backbone", "batch_size", "n_epochs", "epoch_size", "workers"}
    assert [term.name for term in trained.losses] == ["softmax", "center"]
    assert read_record(model).training["steps"] == 2
    found = events(run)
    tags = set(found.Tags()["scalars"])
    assert tags >= {
        "learning_rate", "cross_entropy", "cross_entropy_raw", "total_loss", "total_loss_raw", "time/total",
        "time/save_variables",
    }  # fmt: skip
    assert found.Scalars("learning_rate")[0].value == pytest.approx(0.05)


def test_squeezenet_as_typed(cli: Cli, data: Path) -> None:
    """`--batch_size 64` is kept, although there are only 12 images: each is used five times per step."""
    done, run, _ = train(cli, "train_softmax", SQUEEZENET, data, "--epoch_size", 1, "--max_nrof_epochs", 1)
    trained = check_today(done, run)
    assert (trained.backbone, trained.batch_size) == ("squeezenet", 64)


def test_inception_resnet_v1_takes_a_step(cli: Cli, data: Path) -> None:
    done, run, model = train(
        cli, "train_softmax", CASIA, data, "--epoch_size", 1, "--max_nrof_epochs", 1, "--batch_size", 2
    )
    assert read_record(model).backbone == "inception-resnet-v1"
    assert check_today(done, run).input_spec == "facenet-2017"


def test_every_flag_of_train_softmax(cli: Cli, data: Path) -> None:
    line = (
        SQUEEZENET
        + " --use_fixed_image_standardization --random_rotate --embedding_size 32 --image_size 150 --epoch_size 1 "
        "--max_nrof_epochs 1 --batch_size 4 --prelogits_norm_loss_factor 5e-4 --prelogits_norm_p 2 --prelogits_hist_max 10 "
        "--optimizer ADAM --learning_rate_decay_epochs 3 --learning_rate_decay_factor 0.5 --moving_average_decay 0.99 "
        "--seed 1 --nrof_preprocess_threads 0 --log_histograms --filter_filename f.h5 --filter_percentile 75 "
        "--filter_min_nrof_images_per_class 2 --validate_every_n_epochs 1 --validation_set_split_ratio 0.05 "
        "--min_nrof_val_images_per_class 1 --lfw_batch_size 100"
    )
    done, run, _ = train(cli, "train_softmax", line, data)
    trained = check_today(done, run)
    assert trained.input_spec == {
        "size": 150, "template": "box", "crop_margin": 32, "standardization": "fixed",
    }  # fmt: skip
    assert (trained.rotate, trained.dimension, trained.optimizer, trained.ema) == (10.0, 32, "adam", 0.99)
    assert (trained.decay_epochs, trained.decay_factor, trained.histograms) == (3, 0.5, True)
    assert (trained.seed, trained.min_images_per_person) == (1, 2)
    assert trained.losses[2].model_dump() == {"name": "features-norm", "weight": 5e-4, "order": 2.0}
    assert [line.split(": ignored because ")[0] for line in done.errors[:4]] == [
        "facespace: --prelogits_hist_max",
        "facespace: --filter_filename, --filter_percentile",
        "facespace: --validate_every_n_epochs, --validation_set_split_ratio, --min_nrof_val_images_per_class",
        "facespace: --lfw_batch_size",
    ]
    (gpu,) = [line for line in done.errors[4:] if "ignored because" in line]
    assert gpu == "facespace: --gpu_memory_fraction: ignored because there is no CUDA GPU"


def test_several_data_dirs_and_lfw_with_a_photo_missing(cli: Cli, data: Path, tmp_path: Path) -> None:
    for name in ("A/A_0009", "E/E_0001"):
        (tmp_path / "more" / name[0]).mkdir(parents=True)
        shutil.copy(data / "A" / "A_0001.png", tmp_path / "more" / f"{name}.png")
    random = np.random.default_rng(1)
    for name in ("A/A_0001", "A/A_0002", "A/A_0003", "A/A_0004", "B/B_0001", "B/B_0002", "B/B_0004", "B/B_0005"):
        (tmp_path / "lfw" / name[0]).mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8).repeat(20, 0).repeat(20, 1)
        Image.fromarray(pixels).save(tmp_path / "lfw" / f"{name}.png")
    write_pairs(tmp_path / "pairs.txt", ("A", "B"), n_folds=2, n_each=2)
    line = SQUEEZENET + (
        " --batch_size 4 --lfw_dir lfw --lfw_pairs pairs.txt --lfw_nrof_folds 2 --lfw_distance_metric 1 "
        "--lfw_use_flipped_images --lfw_subtract_mean --lfw_batch_size 7"
    )
    done, run, _ = train(cli, "train_softmax", line, data, *SHORT.split(), "--data_dir", "more")
    facts = json.loads((run / "run.json").read_text())["dataset"]
    assert (facts["n_images"], facts["n_people"]) == (14, 5)
    assert "LFW: 2 of 8 pairs are left out, because a photo is missing" in done.err
    trained = check_today(done, run)
    assert (trained.verify_distance, trained.verify_flip, trained.verify_subtract_mean) == ("angle", "concat", True)
    assert Path(trained.verify_pairs).read_text().splitlines()[:2] == [
        "a,b,same,fold,person_a,person_b", "A/A_0001,A/A_0002,1,1,A,A",
    ]  # fmt: skip
    assert {"lfw/accuracy", "time/lfw"} <= set(events(run).Tags()["scalars"])


def test_triplets(cli: Cli, data: Path, small: None) -> None:
    done, run, model = train(
        cli, "train_tripletloss", TRIPLETS, data, *SHORT.split(), "--people_per_batch", 3, "--images_per_person", 40
    )
    trained = check_today(done, run)
    assert todays(done)[2] == "facenet-triplet"
    assert (trained.batch_size, trained.images_per_person, trained.weight_decay) == (12, 4, 1e-4)
    assert trained.losses[0].model_dump() == {"name": "triplet", "weight": 1.0, "margin": 0.2, "miner": "vgg"}
    assert "each step trains on one batch of 3 people with 4 images each" in done.err
    assert read_record(model).training["steps"] == 2


def test_the_second_tutorials_defaults_and_a_rate_that_ends(cli: Cli, data: Path, small: None, tmp_path: Path) -> None:
    """A Windows data_dir, and a rate of −1 in the schedule, at which the old program went on."""
    drive = tmp_path / "D:"
    drive.mkdir()
    data.rename(drive / "casia")
    (tmp_path / "rates.txt").write_text("# rates\n0: 0.1\n2: -1\n")
    line = (
        "--logs_base_dir logs --models_base_dir models --data_dir D:/casia --max_nrof_epochs 100 --epoch_size 1 "
        "--people_per_batch 2 --images_per_person 3 --learning_rate -1 --learning_rate_schedule_file rates.txt "
        "--random_crop --random_flip --alpha 0.3 --keep_probability 0.9"
    )
    _, run, model = train(cli, "train_tripletloss", line, None)
    assert read_record(model).training["steps"] == 1
    assert recipes.load(run / "recipe.toml").schedule == "0: 0.1, 2: -1.0"


@pytest.mark.shared
def test_a_pretrained_model_of_the_old_program(cli: Cli, data: Path, shared: Path) -> None:
    source = shared / "data" / "tf1_squeezenet_128" / "model-20180101-000000.ckpt-7"
    line = SQUEEZENET + f" --batch_size 4 --epoch_size 1 --max_nrof_epochs 1 --pretrained_model {source}"
    done, run, _ = train(cli, "train_softmax", line, data)
    assert "starts from" in done.out and recipes.load(run / "recipe.toml").init == str(source)
    other, _, _ = train(cli, "train_softmax", line.replace(str(source), str(run)), data)
    assert f"{run}: a training run; using its model/" in other.out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("--data_dir nowhere", "--data_dir: nowhere: no such folder"),
        ("--data_dir {data}:nowhere", "--data_dir: nowhere: no such folder (folders are joined by"),
        ("--data_dir {data} --model_def models.nn4", "--model_def must be one of models.inception_resnet_v1"),
        ("--data_dir {data} --learning_rate -1", "data/learning_rate_schedule.txt: no such file; give one with lines"),
        ("--data_dir {data} --batch_size 0", "train_softmax: batch_size: "),
        ("--data_dir {data} --center_loss_factor 1 --center_loss_alfa 1", "--center_loss_alfa must be at least 0"),
        (
            "--data_dir {data} --lfw_dir {data}",
            "data/pairs.txt: no such file; facespace does not include LFW's list of pairs",
        ),
        ("--data_dir {data} --pretrained_model no", "no: neither a model's name"),
        ("--data_dir {data} --gpu_memory_fraction 0", "--gpu_memory_fraction must be above 0"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_done(cli: Cli, data: Path, words: str, complaint: str) -> None:
    done = cli("facenet", "train_softmax", "--logs_base_dir", "logs", *shlex.split(words.format(data=data)))
    assert done.code == 1 and complaint in done.errors[-1]
    assert all(line.startswith("facespace: ") for line in done.errors) and not done.out


def test_an_unknown_optimizer_is_one_line(cli: Cli) -> None:
    done = cli("facenet", "train_tripletloss", "--optimizer", "SGD")
    assert done.code == 2 and len(done.errors) == 1 and "invalid choice: 'SGD'" in done.err


# Parts


def test_every_schedule_of_facenet_is_valid(tmp_path: Path) -> None:
    from facespace.training.schedules import Schedule, read_table

    for name, text in learning_rates.SHIPPED.items():
        assert learning_rates.schedule_text(f"data/{name}") == text
        table = read_table(text)
        Schedule(epoch_size=10, n_epochs=3, table=table)
    file = tmp_path / "own.txt"
    file.write_text("0: 0.1\n65: 0.01\n77: -\n")
    assert learning_rates.schedule_text(str(file)) == "0: 0.1, 65: 0.01, 77: -1.0"
    assert learning_rates.keys_of(0.1, "none", 7, 0.5)["learning_rate"] == 0.1
    file.write_text("now: never\n")
    with pytest.raises(RecipeError, match="expected `epoch: rate`"):
        learning_rates.schedule_text(str(file))


@pytest.mark.parametrize(
    ("joined", "parts"),
    [
        ("D:/datasets/casia", ["D:/datasets/casia"]),
        (r"D:\a b;E:\c", [r"D:\a b", r"E:\c"]),
        ("D:/a:E:/b", ["D:/a", "E:/b"]),
        ("~/a:b;c", ["~/a", "b", "c"]),
        ("abc:/x", ["abc", "/x"]),
    ],
)
def test_colons_of_drives_are_not_separators(joined: str, parts: list[str]) -> None:
    assert data_dirs.split_paths(joined) == parts


def test_joined_folders(tmp_path: Path) -> None:
    for name in ("a", "b:c"):
        (tmp_path / name).mkdir()
    assert data_dirs.datasets_of("b:c") == ["b:c"]
    assert data_dirs.datasets_of("a;a") == ["a", "a"]
    assert data_dirs.datasets_of(f"a:{tmp_path}") == ["a", str(tmp_path)]
    with pytest.raises(DatasetError, match="``: no such folder"):
        data_dirs.datasets_of("a:")


def test_folds_stay_even() -> None:
    fold = np.repeat([1, 2, 3], 4)
    same = np.tile([True, True, False, False], 3)
    usable = np.ones(12, np.bool_)
    assert lfw_recipe_keys.even_folds(fold, same, usable).all()
    usable[[0, 1]] = False
    kept: Any = lfw_recipe_keys.even_folds(fold, same, usable)
    assert [(int((kept & (fold == k) & same).sum()), int((kept & (fold == k) & ~same).sum())) for k in (1, 2, 3)] == [
        (0, 2)
    ] * 3
    assert lfw_recipe_keys.even_folds(None, same, usable).tolist() == usable.tolist()


def test_folds_that_cannot_be_made_are_not_those_of_the_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pairs(tmp_path / "pairs.txt", ("A", "B"), n_folds=2, n_each=2)
    for name in read_lfw_pairs(tmp_path / "pairs.txt").photos:
        (tmp_path / "lfw" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (160, 160)).save(tmp_path / "lfw" / f"{name}.png")
    arguments = argparse.Namespace(
        lfw_dir=str(tmp_path / "lfw"), lfw_pairs=str(tmp_path / "pairs.txt"), lfw_nrof_folds=4, image_size=160
    )
    keys = lfw_recipe_keys.keys_of(arguments, tmp_path / "own.csv")
    assert "all pairs are scored at the best threshold" in capsys.readouterr().err
    assert keys["verify_pairs"] == str(tmp_path / "own.csv")
    assert (tmp_path / "own.csv").read_text().splitlines()[0] == "a,b,same,person_a,person_b"
    arguments.lfw_nrof_folds = 2
    assert lfw_recipe_keys.keys_of(arguments, tmp_path / "other.csv")["verify_pairs"] == str(tmp_path / "pairs.txt")
