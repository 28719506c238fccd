"""The command `facespace verify`."""

from __future__ import annotations

import json
import pickle
import shutil

import pytest

from facespace.faces.crops import CropRecord


@pytest.fixture
def album(tmp_path, hopper_file, collins_file):
    """Two people with two photos each, named as in LFW."""
    folder = tmp_path / "images"
    for name, file, ending in (("Grace", hopper_file, ".jpg"), ("Eileen", collins_file, ".png")):
        (folder / name).mkdir(parents=True)
        for k in (1, 2):
            shutil.copy(file, folder / name / f"{name}_{k:04d}{ending}")
    return folder


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.txt"
    path.write_bytes(b"2\r\nGrace\t1\t2\r\nEileen\t1\t2\r\nGrace\t1\tEileen\t1\r\nGrace\t2\tEileen\t2\r\n")
    return path


def test_lfw_from_photos(cli, album, pairs, tmp_path):
    done = cli("verify", "lfw", album, "--pairs", pairs, "--flip", "--distance", "angle", "--output", tmp_path / "r")
    assert done.code == 0, done.err
    assert done.lines[0].startswith("accuracy      1.00000")
    assert "chosen on these very pairs" in done.lines[1]
    assert "flip: concat" in done.lines[-2] and "distance: angle / pi" in done.lines[-2]
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    assert report["settings"]["flip"] == "concat" and report["accuracy"]["std"] is None
    assert (tmp_path / "r" / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize(("words", "flip"), [([], "none"), (["--flip", "add"], "add"), (["--flip"], "concat")])
def test_flip_with_and_without_a_value(cli, album, pairs, words, flip):
    done = cli("verify", "lfw", *words, album, "--pairs", pairs, "--json")
    assert done.code == 0, done.err
    assert done.json[0]["settings"]["flip"] == flip


def test_csv_with_groups_and_threshold_from_elsewhere(cli, album, pairs, tmp_path):
    table = tmp_path / "own.csv"
    table.write_text(
        "a,b,same,light\nGrace/Grace_0001.jpg,Grace/Grace_0002.jpg,1,day\n"
        "Grace/Grace_0001.jpg,Eileen/Eileen_0001.png,0,night\n"
    )
    done = cli("verify", "pairs", table, "--root", album, "--threshold-from", pairs, "--json")
    assert done.code == 0, done.err
    report = done.json[0]
    assert report["settings"]["threshold_from"] == "pairs.txt"
    assert report["groups"]["light"]["day"] == {
        "same": 1, "different": 0, "accuracy": 1.0, "fnmr": 0.0, "fmr": None,
    }  # fmt: skip


def test_missing_person(cli, album, pairs):
    shutil.rmtree(album / "Eileen")
    done = cli("verify", "lfw", album, "--pairs", pairs)
    assert done.code == 1
    assert "3 of 4 pairs lack a photo (Eileen/Eileen_0001, Eileen/Eileen_0002)" in done.err
    assert len(done.errors) == 1


def test_crops_aligned_in_another_way_are_refused(cli, album, pairs, tmp_path):
    crops = tmp_path / "crops"
    assert cli("align", album, crops, "--crop-margin", "44").code == 0
    done = cli("verify", "lfw", crops, "--pairs", pairs, "--aligned")
    assert done.code == 1
    assert "the crops are 160 px box with a margin of 44, the model takes 160 px box with a margin of 32" in done.err
    assert cli("verify", "lfw", crops, "--pairs", pairs, "--aligned", "--resize-crops").code == 0


def test_aligned_crops_give_the_same_result_as_photos(cli, album, pairs, tmp_path):
    assert cli("align", album, tmp_path / "crops").code == 0
    a = cli("verify", "lfw", album, "--pairs", pairs, "--json")
    b = cli("verify", "lfw", tmp_path / "crops", "--pairs", pairs, "--aligned", "--json")
    assert a.json[0]["accuracy"]["threshold"] == b.json[0]["accuracy"]["threshold"]
    assert b.json[0]["settings"]["faces"] == "aligned crops"


def test_bin_fits_only_models_for_its_crops(cli, album, tmp_path):
    images = [(album / "Grace" / "Grace_0001.jpg").read_bytes(), (album / "Eileen" / "Eileen_0001.png").read_bytes()]
    path = tmp_path / "a.bin"
    path.write_bytes(pickle.dumps((images * 2, [True, False]), protocol=2))
    done = cli("verify", "bin", path, "--model", "casia-webface")
    assert done.code == 1 and "the model takes 160 px box" in done.err


def test_code_in_a_bin_file_is_not_run(cli, tmp_path):
    path = tmp_path / "evil.bin"
    path.write_bytes(b"cposix\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR.")
    done = cli("verify", "bin", path)
    assert done.code == 1 and not (tmp_path / "ran").exists()
    assert len(done.errors) == 1 and "posix.system" in done.err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["lfw", "missing", "--pairs", "{pairs}"], "missing: no such folder of images"),
        (["lfw", "{album}", "--pairs", "{album}"], "not a regular file"),
        (["bin", "{pairs}"], "pairs.txt"),
        (["pairs", "{pairs}", "--root", "{album}"], "pairs.txt"),
    ],
)
def test_wrong_input_is_one_line(cli, album, pairs, arguments, complaint):
    done = cli("verify", *(argument.format(album=album, pairs=pairs) for argument in arguments))
    assert done.code == 1 and complaint in done.err and len(done.errors) == 1


@pytest.mark.shared
def test_bin_of_view_1(cli, shared, tmp_path):
    file = shared / "data" / "lfw_dev_40_protocol2.bin"
    facenet = ("--model", "casia-webface")
    assert "the crops are 112 px arcface" in cli("verify", "bin", file, *facenet).err
    assert "uneven folds, 0 to 4 pairs" in cli("verify", "bin", file, "--resize-crops", *facenet).err
    done = cli("verify", "bin", file, "--resize-crops", "--allow-missing", "--output", tmp_path, *facenet)
    assert done.code == 0 and done.lines[0].startswith("CROPS AND MODEL DO NOT FIT")
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["pairs"]["used"] == 40 and report["settings"]["folds"] is None
    assert "The folds were not used" in done.out
    assert report["accuracy"]["mean"] > 0.85


def test_a_damaged_record_is_an_error(cli, album, pairs):
    CropRecord(160, 32, "box").write(album)
    (album / "align.json").write_text("{}")
    done = cli("verify", "lfw", album, "--pairs", pairs, "--aligned")
    assert done.code == 1 and "align.json" in done.err
