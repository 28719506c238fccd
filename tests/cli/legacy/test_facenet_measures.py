"""The tutorials' commands that use a model: evaluation on LFW, distances, embeddings as files, a model as one file."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import facespace
from facespace.faces.crops import CropRecord
from support.commands import Outcome
from support.tf_checkpoints import write_model
from support.tutorial_people import write_crops, write_pairs, write_photos

Cli = Callable[..., Outcome]
N_FOLDS, N_EACH = 5, 1
FIGURES = [
    r"Accuracy: [01]\.\d{5}\+-0\.\d{5}",
    r"Validation rate: not supported @ FAR=0\.00100: needs at least 1,000 pairs .*",
    r"Area Under Curve \(AUC\): [01]\.\d{3}",
    r"Equal Error Rate \(EER\): 0\.\d{3}",
]


@pytest.fixture(scope="module")
def people(hopper_file: Path, collins_file: Path) -> dict[str, Path]:
    return {"Grace_Hopper": hopper_file, "Eileen_Collins": collins_file}


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory, detector: facespace.MTCNN, people: dict[str, Path]) -> Path:
    return write_crops(tmp_path_factory.mktemp("crops") / "lfw-160", detector, people, N_FOLDS * N_EACH + 1)


@pytest.fixture
def lfw(crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Aligned LFW, with the list of pairs at the old programs' default path."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    write_pairs(tmp_path / "data" / "pairs.txt", ("Grace_Hopper", "Eileen_Collins"), n_folds=N_FOLDS, n_each=N_EACH)
    return Path(shutil.copytree(crops, tmp_path / "lfw"))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "20180101-000000"
    folder.mkdir()
    write_model(folder)
    return folder


def check_figures(lines: list[str]) -> None:
    assert len(lines) == len(FIGURES), lines
    for line, pattern in zip(lines, FIGURES, strict=True):
        assert re.fullmatch(pattern, line), line


def test_validate_on_lfw(cli: Cli, lfw: Path) -> None:
    done = cli("facenet", "validate_on_lfw", "lfw", "casia-webface", "--lfw_nrof_folds", "5")
    assert done.code == 0, done.err
    assert done.lines[:2] == ["Model filename: casia-webface", "Running forward pass on LFW images"]
    check_figures(done.lines[2:])
    assert done.lines[2] == "Accuracy: 1.00000+-0.00000" and done.lines[4:] == [
        "Area Under Curve (AUC): 1.000", "Equal Error Rate (EER): 0.000",
    ]  # fmt: skip
    assert done.errors == [
        "facespace: equivalent command: facespace verify lfw lfw --pairs data/pairs.txt --aligned --allow-missing --distance euclidean "
        "--model casia-webface"
    ]
    today = cli(*shlex.split(done.errors[0].removeprefix("facespace: equivalent command: facespace ")))
    assert today.code == 0 and today.lines[0].startswith("accuracy      1.00000 +- 0.00000")


def test_validate_with_every_flag(cli: Cli, lfw: Path) -> None:
    done = cli(
        *[
            "facenet",
            "validate_on_lfw",
            "lfw",
            "casia-webface",
            "--lfw_pairs",
            "data/pairs.txt",
            "--lfw_nrof_folds=5",
            "--distance_metric",
            "1",
            "--use_flipped_images",
            "--subtract_mean",
            "--use_fixed_image_standardization",
            "--image_size",
            "160",
            "--lfw_batch_size",
            "7",
            "--num_inter_threads",
            "2",
            "--num_intra_threads",
            "2",
        ]
    )
    assert done.code == 0, done.err
    check_figures(done.lines[2:])
    assert done.errors[0] == (
        "facespace: --use_fixed_image_standardization, --image_size: ignored because the model defines its own "
        "preprocessing"
    )
    assert done.errors[1:3] == [
        "facespace: --lfw_batch_size: ignored because the batch size is chosen automatically",
        "facespace: --num_inter_threads, --num_intra_threads: ignored because the number of threads follows from the "
        "available CPU cores",
    ]
    assert "--flip concat --subtract-mean --distance angle" in done.errors[3]


def test_the_validation_rate_in_the_old_shape(cli: Cli, lfw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a list as long as LFW's supports this rate, so the minimum length is lowered here."""
    from facespace.metrics import verification

    monkeypatch.setattr(verification, "_may_match", lambda target, n_different: 1)
    done = cli("facenet", "validate_on_lfw", "lfw", "casia-webface", "--lfw_nrof_folds", "5")
    assert re.fullmatch(r"Validation rate: [01]\.\d{5}\+-0\.\d{5} @ FAR=[01]\.\d{5}", done.lines[3])


def test_flags_of_preprocessing_change_nothing(cli: Cli, lfw: Path, checkpoint: Path) -> None:
    plain, flagged = (
        cli("facenet", "validate_on_lfw", "lfw", checkpoint, "--lfw_nrof_folds", "5", *words)
        for words in ([], ["--use_fixed_image_standardization"])
    )
    assert plain.code == 0, plain.err
    assert plain.lines == flagged.lines
    check_figures(plain.lines[2:])
    assert any("contains no input spec" in line for line in plain.errors)


def test_pairs_without_a_photo_are_skipped_and_counted(cli: Cli, lfw: Path) -> None:
    (lfw / "Eileen_Collins" / "Eileen_Collins_0001.png").unlink()
    done = cli("facenet", "validate_on_lfw", "lfw", "casia-webface", "--lfw_nrof_folds", "5")
    assert done.code == 0, done.err
    assert done.lines[1] == "Skipped 1 image pairs"
    assert "1 of 10 pairs are left out because a photo is missing (Eileen_Collins/Eileen_Collins_0001)" in done.err
    assert done.lines[3] == "Accuracy: 1.00000"  # one fold has pairs of one kind only, so there are no folds


def test_other_folds_than_the_lists(cli: Cli, lfw: Path) -> None:
    done = cli("facenet", "validate_on_lfw", "lfw", "casia-webface", "--lfw_nrof_folds", "2")
    assert done.code == 0, done.err
    check_figures(done.lines[2:])
    done = cli("facenet", "validate_on_lfw", "lfw", "casia-webface")
    assert "some of 10 folds would have pairs of one kind only" in done.err
    assert done.lines[2] == "Accuracy: 1.00000"


@pytest.mark.parametrize(
    ("size", "said"), [(182, "the central 160 px of 182 px crops"), (0, "faces are detected and cropped")]
)
def test_larger_crops_give_their_centre_and_photos_their_faces(
    cli: Cli, lfw: Path, detector: facespace.MTCNN, people: dict[str, Path], size: int, said: str
) -> None:
    shutil.rmtree(lfw)
    if size == 182:
        write_crops(lfw, detector, people, N_FOLDS + 1, size=182, margin=44)
    else:
        write_photos(lfw, people, N_FOLDS + 1)
    done = cli("facenet", "validate_on_lfw", "lfw", "casia-webface", "--lfw_nrof_folds", "5")
    assert done.code == 0, done.err
    assert said in done.err
    check_figures(done.lines[2:])
    assert done.lines[4:] == ["Area Under Curve (AUC): 1.000", "Equal Error Rate (EER): 0.000"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["no-folder", "casia-webface"], "no-folder: no such folder of images"),
        (
            ["lfw", "casia-webface", "--lfw_pairs", "no.txt"],
            "no.txt: no such file; facespace does not include LFW's list of pairs",
        ),
        (["lfw", "casia-webface", "--distance_metric", "2"], "must be 0 (squared Euclidean) or 1 (angle), got 2"),
        (["lfw", "no-model"], "neither a model's name"),
        (["data", "casia-webface"], "contains none of the photos of pairs.txt"),
    ],
)
def test_a_mistake_is_one_line(cli: Cli, lfw: Path, words: list[str], complaint: str) -> None:
    done = cli("facenet", "validate_on_lfw", *words)
    assert done.code == 1
    assert complaint in done.errors[-1]
    assert all(line.startswith("facespace: ") for line in done.errors)


def test_crops_of_five_points_are_refused(cli: Cli, lfw: Path) -> None:
    CropRecord(160, 0, "arcface").write(lfw)
    done = cli("facenet", "validate_on_lfw", "lfw", "casia-webface")
    assert done.code == 1 and "align the photos for this model" in done.errors[-1]


def test_compare(cli: Cli, hopper_file: Path, collins_file: Path, cat_file: Path, checkpoint: Path) -> None:
    done = cli(
        "facenet", "compare", "casia-webface", hopper_file, cat_file, collins_file, hopper_file, "--margin", "44"
    )
    assert done.code == 0, done.err
    assert done.lines[:2] == ["Creating networks and loading parameters", "Model filename: casia-webface"]
    assert done.lines[2:9] == [
        f"can't detect face, remove {cat_file}", "Images:", f"0: {hopper_file}", f"1: {collins_file}", f"2: {hopper_file}",
        "", "Distance matrix",
    ]  # fmt: skip
    assert done.lines[9].split() == ["0", "1", "2"]
    rows = [line.split() for line in done.lines[10:]]
    assert [row[0] for row in rows] == ["0", "1", "2"]
    assert all(re.fullmatch(r"\d\.\d{4}", number) for row in rows for number in row[1:])
    distances = np.array([[float(number) for number in row[1:]] for row in rows])
    assert np.allclose(distances, distances.T) and not distances.diagonal().any()
    assert distances[0, 2] < 0.01 and 0.9 < distances[0, 1] < 1.7
    assert "--margin: ignored because the model defines" in done.errors[0]
    other = cli("facenet", "compare", checkpoint, hopper_file, collins_file, "--image_size", "160")
    assert other.code == 0 and len(other.lines) == 10


def test_compare_reports_what_cannot_be_read(cli: Cli, hopper_file: Path, cat_file: Path) -> None:
    done = cli("facenet", "compare", "casia-webface", "no.jpg", hopper_file)
    assert done.code == 1 and "facespace: no.jpg: no such file" in done.errors
    assert f"0: {hopper_file}" in done.lines
    done = cli("facenet", "compare", "casia-webface", cat_file)
    assert done.code == 1 and done.errors[-1] == "facespace: no face was found in any of these photos"


def test_export_embeddings(cli: Cli, lfw: Path, embedder: facespace.Embedder) -> None:
    done = cli("facenet", "export_embeddings", "casia-webface", "lfw", "--image_batch", "3")
    assert done.code == 0, done.err
    assert done.lines[:2] == ["Model filename: casia-webface", "Number of images:  12"]
    embeddings, labels, names = (np.load(f"{name}.npy") for name in ("embeddings", "labels", "label_strings"))
    assert labels.tolist() == [0] * 6 + [1] * 6
    assert names.tolist() == ["Eileen_Collins"] * 6 + ["Grace_Hopper"] * 6
    expected = embedder.embed(facespace.read(lfw / "Grace_Hopper" / "Grace_Hopper_0003.png")[None])[0]
    assert expected @ embeddings[8] > 0.99999


def test_export_embeddings_of_whole_photos(
    cli: Cli, lfw: Path, tmp_path: Path, people: dict[str, Path], cat_file: Path
) -> None:
    write_photos(tmp_path / "raw", {**people, "cat": cat_file}, 1)
    done = cli(
        *[
            "facenet",
            "export_embeddings",
            "casia-webface",
            "raw",
            "--is_aligned",
            "False",
            "--embeddings_name",
            "e.npy",
            "--labels_name",
            "l.npy",
            "--labels_strings_name",
            "n.npy",
        ]
    )
    assert done.code == 1 and "cat_0001.jpg: no face found" in done.err
    assert np.load("l.npy").tolist() == [0, 1]
    assert np.load("n.npy").tolist() == ["Eileen_Collins", "Grace_Hopper"]
    np.testing.assert_allclose(np.linalg.norm(np.load("e.npy"), axis=1), 1, atol=1e-5)


def test_batch_represent(cli: Cli, lfw: Path, checkpoint: Path) -> None:
    done = cli(
        "facenet", "batch_represent", "-d", "lfw", "-o", "out", "--trained_model_dir", checkpoint, "--batch_size", "50"
    )
    assert done.code == 0, done.err
    assert np.load("out/gallery.npy").tolist() == [0] * 6 + [1] * 6
    assert np.load("out/signatures.npy").shape == (12, 5)
    assert done.lines[:4] == [
        "Loading trained model...",
        "",
        f"Model directory: {checkpoint}",
        "Finding image paths and targets...",
    ]
    assert "--batch_size: ignored because the batch size is chosen automatically" in done.errors[0]
    assert "Finally saving embeddings and gallery to: out" in done.lines


def test_freeze_graph(cli: Cli, lfw: Path, checkpoint: Path) -> None:
    done = cli("facenet", "freeze_graph", checkpoint, "frozen/my.pb")
    assert done.code == 0, done.err
    assert done.lines[0] == f"Model directory: {checkpoint}"
    assert re.fullmatch(r"\d+ ops in the final graph\.", done.lines[1])
    assert "writing ONNX instead of a TensorFlow graph: frozen/my.onnx" in done.err
    assert sorted(path.name for path in Path("frozen").iterdir()) == ["my.json", "my.onnx"]
    a, b = (
        cli("facenet", "validate_on_lfw", "lfw", model, "--lfw_nrof_folds", "5")
        for model in (checkpoint, "frozen/my.pb")
    )
    assert a.code == b.code == 0, b.err
    assert a.lines[1:] == b.lines[1:]  # the first names the model
    again = cli("facenet", "freeze_graph", checkpoint, "frozen/my.pb")
    assert again.code == 1 and "already exists" in again.errors[-1]


@pytest.mark.shared
def test_lfw_view_1_with_a_frozen_graph(cli: Cli, shared: Path, tmp_path: Path) -> None:
    """Align photos of LFW with our aligner, and evaluate a frozen graph of the old trainer on them."""
    view = shared / "data" / "lfw_view1"
    few = sorted(path for path in (view / "images").iterdir() if len(list(path.iterdir())) > 3)[:3]
    for folder in few:
        shutil.copytree(folder, tmp_path / "raw" / folder.name)
    aligned = cli(*f"facenet align_dataset_mtcnn {tmp_path}/raw {tmp_path}/lfw --image_size 160 --margin 32".split())
    assert aligned.code == 0, aligned.err
    a, b, _ = (folder.name for folder in few)
    (tmp_path / "pairs.txt").write_text(f"2\t1\n{a}\t1\t2\n{a}\t1\t{b}\t2\n{b}\t1\t2\n{a}\t2\t{b}\t1\n")
    model = shared / "data" / "tf1_squeezenet_128" / "20180101-000000.pb"
    words = ["--lfw_pairs", tmp_path / "pairs.txt", "--lfw_nrof_folds", "2"]
    done = cli("facenet", "validate_on_lfw", tmp_path / "lfw", model, *words)
    assert done.code == 0, done.err
    check_figures(done.lines[2:])
    named = cli("facenet", "validate_on_lfw", tmp_path / "lfw", "casia-webface", *words)
    assert named.lines[4:] == ["Area Under Curve (AUC): 1.000", "Equal Error Rate (EER): 0.000"]
