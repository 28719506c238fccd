"""The tutorials' classifier and predict: training, splits, tests on another folder; pickles are neither read nor written."""

from __future__ import annotations

import pickle
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

import facespace
from support.commands import Outcome
from support.tutorial_people import write_crops, write_photos

Cli = Callable[..., Outcome]
N = 6


@pytest.fixture(scope="module")
def crops(
    tmp_path_factory: pytest.TempPathFactory, detector: facespace.MTCNN, hopper_file: Path, collins_file: Path
) -> Path:
    people = {"Grace_Hopper": hopper_file, "Eileen_Collins": collins_file}
    return write_crops(tmp_path_factory.mktemp("crops") / "lfw-160", detector, people, N)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


LOADING = [
    "Loading feature extraction model", "Model filename: casia-webface", "Calculating features for images",
]  # fmt: skip
SPLIT = "--batch_size 1000 --min_nrof_images_per_class 6 --nrof_train_images_per_class 4 --use_split_dataset"


def check_lines(lines: list[str], n: int) -> tuple[float, float]:
    """Check the format of the lines, one per image; return the closed-set and open-set accuracies."""
    start = lines.index("Testing classifier") + 1
    start += lines[start].startswith("Loaded classifier model")
    body = lines[start : start + n]
    for k, line in enumerate(body):
        assert re.fullmatch(rf"{k:4d}  (Grace Hopper|Eileen Collins|unknown): \d\.\d{{3}}", line), line
    closed = re.fullmatch(r"Accuracy: ([01]\.\d{3})", lines[start + n])
    open_set = re.fullmatch(r"Open-set accuracy: ([01]\.\d{3})", lines[start + n + 1])
    assert closed and open_set and len(lines) == start + n + 2
    return float(closed[1]), float(open_set[1])


def test_train_and_classify_with_a_split(cli: Cli, crops: Path) -> None:
    done = cli("facenet", "classifier", "TRAIN", crops, "casia-webface", "my.pkl", *SPLIT.split())
    assert done.code == 0, done.err
    assert done.lines == [
        "Number of classes: 2", "Number of images: 8", *LOADING, "Training classifier",
        'Saved classifier model to file "my.pkl"',
    ]  # fmt: skip
    assert "my.pkl is in facespace's own format, not a pickle" in done.err
    todays = (
        "facespace: equivalent command: facespace classify train {crops} --output {out} --method svm --split 4 --min-images 6 "
        "--seed 666 --aligned --model casia-webface"
    )
    assert todays.format(crops=crops, out="my.pkl") in done.errors
    before = Path("my.pkl").read_bytes()
    done = cli("facenet", "classifier", "CLASSIFY", crops, "casia-webface", "my.pkl", *SPLIT.split())
    assert done.code == 0, done.err
    assert done.lines[:7] == [
        "Number of classes: 2", "Number of images: 4", *LOADING, "Testing classifier",
        'Loaded classifier model from file "my.pkl"',
    ]  # fmt: skip
    assert check_lines(done.lines, 4) == (1.0, 1.0)
    assert "used in training" not in done.err
    (apart,) = [line for line in done.errors if line.startswith("facespace: equivalent command: ")]
    assert apart.startswith(todays.format(crops=crops, out="my-split.pkl"))
    today = cli(
        *shlex.split(apart.removeprefix("facespace: equivalent command: facespace ").split(" (it also trains")[0])
    )
    assert today.code == 0, today.err
    assert "tested on 4 photos, 4 of people learned" in today.out
    assert Path("my.pkl").read_bytes() == before and Path("my-split.pkl").exists()
    again = cli("facenet", "classifier", "CLASSIFY", crops, "casia-webface", "my.pkl", *SPLIT.split())
    assert "--output my-split-2.pkl" in again.err


def test_the_equivalent_command_knows_the_people_of_the_old_one(cli: Cli, crops: Path) -> None:
    """The old programs display a space for an underscore; the classifier file keeps the folder's name."""
    assert cli("facenet", "classifier", "TRAIN", crops, "casia-webface", "my.pkl").code == 0
    done = cli("facenet", "classifier", "CLASSIFY", crops, "casia-webface", "my.pkl")
    (line,) = [line for line in done.errors if line.startswith("facespace: equivalent command: ")]
    today = cli(*shlex.split(line.removeprefix("facespace: equivalent command: facespace ")))
    assert today.code == 0 and f"tested on {2 * N} photos, {2 * N} of people learned, 0 of strangers:" in today.out


def test_another_folder_is_tested_by_names(
    cli: Cli, crops: Path, cat_file: Path, hopper_file: Path, stranger_file: Path
) -> None:
    """The test folder has other people; the old program matched folders by number."""
    assert cli("facenet", "classifier", "TRAIN", crops, "casia-webface", "my.pkl").code == 0
    write_photos(Path("test"), {"Aaron": stranger_file, "Grace_Hopper": hopper_file, "cat": cat_file}, 1)
    done = cli("facenet", "classifier", "CLASSIFY", "nothing", "casia-webface", "my.pkl", "--test_data_dir", "test")
    assert done.code == 1 and "cat_0001.jpg: no face found; left out" in done.err
    assert "faces are detected and cropped" in done.err
    assert check_lines(done.lines, 2) == (0.5, 1.0)  # the nearest person is never right for a stranger
    assert [line.split(": ")[0].split("  ")[-1] for line in done.lines[-4:-2]] == ["unknown", "Grace Hopper"]
    assert "Accuracy is closed-set, as in the old program" in done.err
    assert (
        "Open-set: 1 of 2 were called unknown, which is right for the 1 of people the classifier was not trained on"
        in done.err
    )
    assert "facespace: equivalent command: facespace classify test my.pkl test --model casia-webface" in done.errors
    trained = cli("facenet", "classifier", "TRAIN", crops, "casia-webface", "other.pkl", "--test_data_dir", crops)
    assert trained.code == 0, trained.err
    assert check_lines(trained.lines, 2 * N) == (1.0, 1.0)


def test_images_used_in_training_are_reported(cli: Cli, crops: Path) -> None:
    assert cli("facenet", "classifier", "TRAIN", crops, "casia-webface", "my.pkl").code == 0
    done = cli(
        "facenet", "classifier", "CLASSIFY", crops, "casia-webface", "my.pkl", "--image_size", "160", "--seed", "1"
    )
    assert done.code == 0 and f"{2 * N} of these images were used in training" in done.err


def test_a_pickle_is_not_read_and_not_overwritten(cli: Cli, crops: Path, hopper_file: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str, str]]:
            return open, ("ran", "w")

    Path("old.pkl").write_bytes(pickle.dumps((Evil(), ["Grace Hopper"]), protocol=2))
    before = Path("old.pkl").read_bytes()
    for words in (
        ["classifier", "CLASSIFY", crops, "casia-webface", "old.pkl"],
        ["predict", hopper_file, "casia-webface", "old.pkl"],
    ):
        done = cli("facenet", *words)
        assert done.code == 1 and "a pickle, which could run any code" in done.errors[-1]
    done = cli("facenet", "classifier", "TRAIN", crops, "casia-webface", "old.pkl")
    assert done.code == 1 and "is not a facespace classifier, so it is not overwritten" in done.errors[-1]
    assert not Path("ran").exists() and Path("old.pkl").read_bytes() == before


def test_predict(cli: Cli, crops: Path, hopper_file: Path, cat_file: Path, stranger_file: Path) -> None:
    assert cli("facenet", "classifier", "TRAIN", crops, "casia-webface", "my.pkl").code == 0
    done = cli("facenet", "predict", hopper_file, cat_file, stranger_file, "casia-webface", "my.pkl", "--margin", "44")
    assert done.code == 0, done.err
    assert done.lines[:3] == [
        "Creating networks and loading parameters", "Model filename: casia-webface",
        'Loaded classifier model from file "my.pkl"',
    ]  # fmt: skip
    assert [line for line in done.lines[3:] if line] == [
        f"people in image {hopper_file} :", done.lines[5], f"people in image {cat_file} :",
        f"people in image {stranger_file} :", done.lines[-1],
    ]  # fmt: skip
    assert re.fullmatch(r"Grace Hopper: \d\.\d{3}", done.lines[5])
    assert re.fullmatch(r"unknown: -?\d\.\d{3}", done.lines[-1])
    assert "the numbers after the names are similarities" in done.err
    assert "--margin: ignored because the model defines" in done.err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["CLASSIFY", "{crops}", "casia-webface", "no.pkl"], "no.pkl: no classifier there"),
        (["TRAIN", "nowhere", "casia-webface", "my.pkl"], "nowhere: not a folder"),
        (["TRAIN", "{crops}", "casia-webface", "no/my.pkl"], "no: no such folder to write to"),
        (
            ["TRAIN", "{crops}", "casia-webface", "my.pkl", "--use_split_dataset"],
            "no person has 20 images (--min_nrof_images_per_class); the largest number is 6, of Eileen_Collins: give at most 6",
        ),
        (
            [
                "TRAIN",
                "{crops}",
                "casia-webface",
                "my.pkl",
                "--use_split_dataset",
                "--nrof_train_images_per_class",
                "0",
            ],
            "--nrof_train_images_per_class must be at least 1, got 0",
        ),
        (
            [
                "CLASSIFY",
                "{crops}",
                "casia-webface",
                "no.pkl",
                "--use_split_dataset",
                "--min_nrof_images_per_class",
                "6",
            ],
            "--nrof_train_images_per_class 10 uses all; the largest number is 6, of Eileen_Collins: give less than 6",
        ),
    ],
)
def test_a_mistake_is_one_line(cli: Cli, crops: Path, words: list[str], complaint: str) -> None:
    done = cli("facenet", "classifier", *(word.format(crops=crops) for word in words))
    assert done.code == 1 and complaint in done.errors[-1]
