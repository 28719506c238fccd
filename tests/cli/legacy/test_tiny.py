"""The commands of Tiny-Face-Recognition as printed: conversion, training, evaluation."""

from __future__ import annotations

import io
import pickle
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from facespace.cli.legacy import recipes as legacy_recipes  # noqa: E402
from facespace.cli.legacy.tiny import train as tiny_train  # noqa: E402
from facespace.datasets.formats.recordio_writer import RecordWriter  # noqa: E402
from facespace.datasets.opening import open_dataset  # noqa: E402
from facespace.errors import RecipeError, RuntimeUnavailable  # noqa: E402
from facespace.models.spec_inference import TINY_SPEC  # noqa: E402
from facespace.training import recipe as recipes  # noqa: E402
from support.commands import Outcome  # noqa: E402

Cli = Callable[..., Outcome]
as_recipe = legacy_recipes.as_recipe
LR = "--lr [0.001, 0.0005, 0.0003, 0.0001]"


def crop(seed: int, person: int) -> bytes:
    pattern = np.random.default_rng(person).integers(0, 256, (8, 8, 3)).repeat(14, 0).repeat(14, 1)
    noisy = np.clip(pattern + np.random.default_rng(1000 + seed).normal(0, 20, pattern.shape), 0, 255)
    file = io.BytesIO()
    Image.fromarray(noisy.astype(np.uint8)).save(file, "JPEG", quality=95)
    return file.getvalue()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use an empty folder, write no ONNX, and train a small network, because ResNet-50 would take minutes."""

    def unavailable(*arguments: object) -> bytes:
        raise RuntimeUnavailable("not in these tests")

    monkeypatch.setattr("facespace.backbones.onnx_export.backbone_to_onnx", unavailable)
    monkeypatch.setattr(tiny_train, "NETWORK", "tiny")
    monkeypatch.setattr(legacy_recipes, "as_recipe", lambda keys, program: as_recipe({"workers": 0, **keys}, program))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    with RecordWriter(tmp_path / "faces_emore") as writer:
        for person in range(3):
            for k in range(4):
                writer.write(crop(10 * person + k, person), person)
    return tmp_path / "faces_emore"


@pytest.fixture
def bin_file(tmp_path: Path) -> Path:
    """20 pairs of two people, alternately same and different."""
    images, same = [], []
    for k in range(20):
        person = k // 2 % 2
        same.append(k % 2 == 0)
        images += [crop(50 + k, person), crop(80 + k, person if same[-1] else 1 - person)]
    path = tmp_path / "lfw.bin"
    path.write_bytes(pickle.dumps((images, same), protocol=2))
    return path


def test_mx2tfrecords(cli: Cli, faces: Path) -> None:
    done = cli(
        "tiny", "mx2tfrecords", "--bin_path", faces / "train.rec", "--idx_path", faces / "train.idx",
        "--tfrecords_file_path", "tfrecords",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert done.lines[0] == "id2range 3" and done.lines[1].startswith(
        "12 images -> tfrecords/tran.tfrecords; checksum "
    )
    assert done.errors == [
        f"facespace: equivalent command: facespace dataset convert {faces}/train.rec tfrecords --to tfrecord"
    ]
    made, source = open_dataset("tfrecords/tran.tfrecords"), open_dataset(faces)
    assert made.labels.tolist() == source.labels.tolist()
    assert all(made.encoded(k) == source.encoded(k) for k in range(12))


def test_an_index_of_another_name_and_progress(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facespace.cli.legacy.tiny.mx2tfrecords._EVERY", 50)
    image = crop(0, 0)
    with RecordWriter("faces") as writer:
        for k in range(120):
            writer.write(image, k // 60)
    shutil.move("faces/train.idx", "elsewhere.index")
    words = (
        "tiny",
        "mx2tfrecords",
        "--bin_path",
        "faces/train.rec",
        "--tfrecords_file_path",
        "tfrecords",
        "--idx_path",
    )
    done = cli(*words, "elsewhere.index")
    assert done.code == 0, done.err
    assert done.lines[:2] == ["50 num image processed", "100 num image processed"]
    assert len(open_dataset("tfrecords")) == 120
    missing = cli(*words, "no.idx")
    assert missing.code == 1 and missing.errors[-1] == "facespace: no.idx: no such file"


def train(cli: Cli, line: str) -> tuple[Outcome, recipes.Recipe]:
    done = cli("tiny", "train", *shlex.split(line))
    assert done.code == 0, done.err
    (today,) = (line for line in done.errors if line.startswith("facespace: equivalent command: "))
    words = shlex.split(today.removeprefix("facespace: equivalent command: "))
    trained = recipes.load("ckpt/recipe.toml")
    assert words[:3] == ["facespace", "train", "arcface-ms1mv2"] and words[-2:] == ["--output", "ckpt"]
    assert recipes.load(words[2], words[3:-2]) == trained
    return done, trained


def test_train_as_printed_and_evaluate(cli: Cli, faces: Path, bin_file: Path) -> None:
    """The unquoted list of rates arrives as four words; the number of classes comes from the file."""
    line = f"--tfrecords {faces} --batch_size 4 --num_classes 85742 {LR} --ckpt_save_dir ckpt --epoch 1"
    done, trained = train(cli, line)
    assert f"--num_classes 85742: ignored because {faces} contains 3 people" in done.err
    assert done.lines[0] == "-------------Training Args-----------------"
    assert f"--tfrecords         :   {faces}" in done.lines
    assert "--lr                :   [0.001, 0.0005, 0.0003, 0.0001]" in done.lines
    assert (trained.epoch_size, trained.n_epochs, trained.optimizer, trained.weight_decay) == (3, 1, "sgd", 0.0)
    assert trained.input_spec == TINY_SPEC.as_dict() and trained.flip and trained.crop == "center"
    assert trained.losses[0].model_dump() == {"name": "arcface", "weight": 1.0, "margin": 0.5, "scale": 64.0}

    done = cli(
        *f"tiny eval_veri --datasets {bin_file} --dataset_name cfp_fp --num_classes 85742 --ckpt_restore_dir ckpt".split()
    )
    assert done.code == 0, done.err
    assert re.fullmatch(r"\[cfp_fp\]\[0\]XNorm: \d+\.\d{6}", done.lines[0])
    assert re.fullmatch(r"\[cfp_fp\]\[0\]Accuracy-Flip: [01]\.\d{5}\+-0\.\d{5}", done.lines[1])
    assert done.errors[:3] == [
        "facespace: --num_classes: ignored because the classification layer is only used in training",
        f"facespace: equivalent command: facespace verify bin {bin_file} --flip add --model ckpt",
        "facespace: ckpt: a training run; using its model/",
    ]
    # After so few steps its embeddings may be all alike.
    assert all("its embeddings are all alike" in line for line in done.errors[3:])
    again = cli("tiny", "eval_veri", "--datasets", bin_file, "--ckpt_restore_dir", "ckpt/model")
    assert [line.replace("[lfw]", "[cfp_fp]") for line in again.lines] == done.lines


def test_a_run_goes_on_in_its_folder(cli: Cli, faces: Path) -> None:
    line = f"--tfrecords {faces} --batch_size 4 --num_classes 3 {LR} --ckpt_save_dir ckpt --epoch "
    assert "--num_classes" not in train(cli, line + "1")[0].err
    done = cli("tiny", "train", *shlex.split(line + "1"))
    assert done.code == 0 and "resumes after step 3 of 3" in done.out


def test_rates_drop_at_the_intended_steps(cli: Cli) -> None:
    """After 40,000 steps of 512 images, not of 256."""
    steps = tiny_train._steps(1_000_000, 64, [0.001, 0.0005, 0.0003, 0.0001])
    assert (steps["epoch_size"], steps["n_epochs"]) == (100, 10_000)
    table = dict(entry.split(": ") for entry in steps["schedule"].split(", "))
    first = {float(rate): (int(epoch) - 1) * 100 for epoch, rate in table.items()}
    assert first == {0.001: 0, 0.0005: 320_000, 0.0003: 480_000, 0.0001: 640_000}


@pytest.mark.parametrize(
    ("words", "rates"),
    [
        (["[0.001,", "0.0005,", "0.0003,", "0.0001]"], [0.001, 0.0005, 0.0003, 0.0001]),
        (["[0.001, 0.0005, 0.0003, 0.0001]"], [0.001, 0.0005, 0.0003, 0.0001]),
        (["0.1", "0.2", "0.3", "4e-1"], [0.1, 0.2, 0.3, 0.4]),
        (["0.1"], [0.1] * 4),
    ],
)
def test_rates_as_typed(words: list[str], rates: list[float]) -> None:
    assert tiny_train.rates_of(words) == rates


@pytest.mark.parametrize("words", [["[0.1,", "0.2]"], ["fast"], ["0.1", "0.1", "0.1", "-1"], ["nan"], ["[]"]])
def test_wrong_rates(words: list[str]) -> None:
    with pytest.raises(RecipeError, match="--lr must be 4 numbers above 0"):
        tiny_train.rates_of(words)


@pytest.mark.parametrize(
    ("line", "code", "complaint"),
    [
        (f"train --batch_size 4 {LR} --ckpt_save_dir x", 2, "required: --tfrecords"),
        (f"train --tfrecords none {LR} --ckpt_save_dir x", 1, "none: no such file or folder"),
        ("eval_veri --datasets no.bin --ckpt_restore_dir casia-webface", 1, "no.bin: no such file"),
        ("eval_veri --datasets lfw.bin --ckpt_restore_dir no", 1, "no: neither a model's name"),
    ],
)
def test_a_mistake_is_one_line(cli: Cli, line: str, code: int, complaint: str) -> None:
    done = cli("tiny", *shlex.split(line))
    assert done.code == code and complaint in done.errors[-1]
    assert all(error.startswith("facespace: ") for error in done.errors)


def test_code_in_a_bin_file_is_not_run(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "evil.bin").write_bytes(b"cposix\nsystem\n(S'touch ran'\ntR.")
    done = cli("tiny", "eval_veri", "--datasets", "evil.bin", "--ckpt_restore_dir", "casia-webface")
    assert done.code == 1 and not (tmp_path / "ran").exists()


@pytest.mark.shared
def test_real_records_and_pairs(cli: Cli, shared: Path) -> None:
    """Records that MXNet wrote, and a verification set of LFW measured with a model for other crops."""
    records = shared / "data" / "records"
    done = cli(
        *f"tiny mx2tfrecords --bin_path {records}/train.rec --idx_path {records}/train.idx --tfrecords_file_path tf".split()
    )
    assert done.code == 0 and done.lines[0] == "id2range 130"
    done = cli(
        "tiny",
        "eval_veri",
        "--datasets",
        shared / "data" / "lfw_dev_40_protocol2.bin",
        "--ckpt_restore_dir",
        "casia-webface",
    )
    assert done.code == 0, done.err
    assert done.lines == ["[lfw_dev_40_protocol2][0]XNorm: 1.000000", "[lfw_dev_40_protocol2][0]Accuracy-Flip: 1.00000"]
    assert "they were resized, which lowers the accuracy" in done.err
