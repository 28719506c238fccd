"""The commands classify, calibrate and cluster."""

from __future__ import annotations

import csv
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

import facespace


@pytest.fixture
def people(tmp_path, hopper_file, collins_file) -> Path:
    """Two people with six photos each: one picture of each, cropped around the face, in several brightnesses."""
    root = tmp_path / "people"
    for name, file, box in (
        ("Grace Hopper", hopper_file, (100, 0, 450, 350)),
        ("柯林斯", collins_file, (80, 0, 410, 200)),
    ):
        (root / name).mkdir(parents=True)
        picture = Image.open(file).convert("RGB").crop(box)
        for k in range(6):
            ImageEnhance.Brightness(picture).enhance(0.7 + 0.1 * k).save(root / name / f"{k}.jpg")
    return root


@pytest.fixture
def trained(cli, people, tmp_path) -> Path:
    file = tmp_path / "people.classifier"
    assert cli("classify", "train", people, "--output", file).code == 0
    return file


def test_train_test_and_predict(cli, people, tmp_path, stranger_file, cat_file):
    file = tmp_path / "people.classifier"
    done = cli("classify", "train", people, "--output", file, "--split", "4", "--report", tmp_path / "report")
    assert done.code == 0, done.err
    assert done.lines[0] == "on held-out training photos:"
    assert any("tested on 4 photos, 4 of people learned" in line for line in done.lines)
    assert any(line.startswith("8 photos of 2 people (0 known before)") for line in done.lines)
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "柯林斯" in page
    assert page.count("<td><img ") == 2, "one face per person"
    assert (
        json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))["test"]["closed_set_accuracy"][
            "share"
        ]
        == 1
    )

    (people / "A stranger").mkdir()
    shutil.copy(stranger_file, people / "A stranger")
    done = cli("classify", "test", file, people, "--json")
    assert done.code == 0, done.err
    found = done.json[0]["test"]
    assert found["known_named_right"] == {"share": 1.0, "low": pytest.approx(0.22, abs=0.01), "high": 1.0, "n": 12}
    assert found["strangers_named"]["share"] == 0
    done = cli("classify", "test", file, people)
    assert done.lines[0] == "note: 8 of these photos were used in training, so the accuracy is too optimistic"

    done = cli(
        "classify",
        "predict",
        file,
        people / "Grace Hopper" / "0.jpg",
        stranger_file,
        cat_file,
        "--draw",
        tmp_path / "drawn",
    )
    assert done.code == 0, done.err
    assert "Grace Hopper" in done.lines[1]
    assert "unknown" in done.lines[3]
    assert done.lines[4].endswith("no faces")
    assert len(list((tmp_path / "drawn").iterdir())) == 3
    done = cli("classify", "predict", file, stranger_file, "--json")
    face = done.json[0]["faces"][0]
    assert face["name"] is None
    assert face["nearest"] in ("Grace Hopper", "柯林斯")


def test_a_person_more_and_a_person_less(cli, people, trained, stranger_file):
    (people / "Ben").mkdir()
    shutil.copy(stranger_file, people / "Ben")
    done = cli("classify", "train", people, "--output", trained)
    assert done.lines[-1] == f"13 photos of 3 people (12 known before) -> {trained}"
    shutil.rmtree(people / "Grace Hopper")
    done = cli("classify", "train", people, "--output", trained)
    assert done.lines[-1] == f"7 photos of 2 people (7 known before) -> {trained}"


def test_a_closed_set_classifier_names_every_face(cli, people, tmp_path, stranger_file):
    file = tmp_path / "closed"
    cli("classify", "train", people, "--output", file, "--closed-set", "--method", "svm")
    done = cli("classify", "predict", file, stranger_file, "--json")
    assert done.json[0]["faces"][0]["name"] in ("Grace Hopper", "柯林斯")


def test_a_test_folder_of_other_people(cli, trained, tmp_path, stranger_file):
    others = tmp_path / "others"
    (others / "Nobody known").mkdir(parents=True)
    shutil.copy(stranger_file, others / "Nobody known")
    done = cli("classify", "test", trained, others)
    assert done.code == 0, done.err
    assert done.lines[0] == "tested on 1 photos, 0 of people learned, 1 of strangers:"
    assert len(done.lines) == 2


def test_a_separate_folder_is_tested_on(cli, people, tmp_path):
    test = tmp_path / "test"
    for name in ("Grace Hopper", "柯林斯"):
        (test / name).mkdir(parents=True)
        shutil.move(people / name / "5.jpg", test / name)
    done = cli("classify", "train", people, "--test-data", test, "--output", tmp_path / "c", "--json")
    assert done.json[0]["test"]["known_named_right"]["n"] == 2
    assert [face["name"] for face in done.json[0]["faces"]] == ["Grace Hopper", "柯林斯"]


def test_one_person_and_one_photo_each(cli, people, tmp_path):
    shutil.rmtree(people / "柯林斯")
    done = cli("classify", "train", people, "--output", tmp_path / "one")
    assert done.code == 0, done.err
    assert any("strangers called unknown" in line and "not measured" in line for line in done.lines)
    for file in sorted((people / "Grace Hopper").iterdir())[1:]:
        file.unlink()
    done = cli("classify", "train", people, "--output", tmp_path / "two")
    assert done.code == 0, done.err
    assert any(line.startswith("1 photos of 1 people") for line in done.lines)


def test_a_person_without_a_face_is_reported_and_left_out(cli, people, tmp_path, cat_file):
    (people / "Cat").mkdir()
    shutil.copy(cat_file, people / "Cat")
    done = cli("classify", "train", people, "--output", tmp_path / "c")
    assert done.code == 1
    assert any("no face found; left out" in line for line in done.errors)
    assert any(line.endswith("Cat: no photo with a face; this person is left out") for line in done.errors)
    assert any(line.startswith("12 photos of 2 people") for line in done.lines), "the others are used nevertheless"


def test_people_with_too_few_photos_are_reported_and_left_out(cli, people, tmp_path, stranger_file):
    (people / "Ben").mkdir()
    shutil.copy(stranger_file, people / "Ben")
    done = cli("classify", "train", people, "--output", tmp_path / "c", "--min-images", "2")
    assert "facespace: 1 people with fewer than 2 photos are left out: Ben" in done.errors
    done = cli("classify", "train", people, "--output", tmp_path / "d", "--min-images", "9")
    assert done.code == 1
    assert done.errors[-1].endswith(
        "no person has 9 photos with a face, the largest number is 6; give a lower number with --min-images or --split"
    )


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was run",))


def test_bad_files_are_one_line(cli, people, trained, tmp_path, stranger_file):
    evil = tmp_path / "svm.pkl"
    evil.write_bytes(pickle.dumps(Evil()))
    for arguments in (("predict", evil, stranger_file), ("test", evil, people), ("train", people, "--output", evil)):
        done = cli("classify", *arguments)
        assert done.code == 1
        assert len(done.errors) == 1
        assert "a pickle, which could run any code" in done.errors[0]
    trained.write_bytes(trained.read_bytes()[:500])
    done = cli("classify", "predict", trained, stranger_file)
    assert done.code == 1
    assert "classifier" in done.errors[0]
    assert len(done.errors) == 1
    done = cli("classify", "predict", tmp_path / "none", stranger_file)
    assert done.errors == [
        f"facespace: {tmp_path / 'none'}: no classifier there; train one from the photos: "
        "facespace classify train DIR --output FILE"
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rate", "2"], "between 0 and 1"),
        (["--split", "1", "--test-data", "x"], "--split and --test-data exclude each other"),
    ],
)
def test_options_that_do_not_fit(cli, people, tmp_path, arguments, words):
    done = cli("classify", "train", people, "--output", tmp_path / "c", *arguments)
    assert done.code == 2
    assert words in done.err


def test_calibrate_a_classifier_and_a_gallery(cli, people, trained, tmp_path, stranger_file, hopper_file, collins_file):
    photos = tmp_path / "photos"
    for name, file in (("Grace Hopper", hopper_file), ("柯林斯", collins_file), ("Stranger", stranger_file)):
        (photos / name).mkdir(parents=True)
        Image.open(file).convert("RGB").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(photos / name / "mirrored.png")
    done = cli("calibrate", trained, photos, "--rate", "0.05")
    assert done.code == 0, done.err
    assert done.lines[-1].startswith("threshold ")
    assert "for 0.05 of strangers named" in done.lines[-1]
    gallery = tmp_path / "people.gallery"
    cli("enroll", "--gallery", gallery, "--folder", people)
    before = cli("identify", "--gallery", gallery, stranger_file, "--json").json
    done = cli("calibrate", gallery, photos, "--rate", "0.2", "--json")
    assert done.code == 0, done.err
    stored = done.json[0]
    assert stored["rate"] == 0.2
    assert set(stored["thresholds"]) == {"Grace Hopper", "柯林斯"}
    with facespace.Gallery(gallery, facespace.Embedder.load("sface")) as people_now:
        assert [round(t, 4) for t in people_now.thresholds()] == list(stored["thresholds"].values())
        assert people_now.calibration().offset == stored["offset"]
    assert before[0]["faces"][0]["name"] is None
    no_strangers = tmp_path / "no strangers"
    (no_strangers / "Grace Hopper").mkdir(parents=True)
    shutil.copy(people / "Grace Hopper" / "0.jpg", no_strangers / "Grace Hopper")
    done = cli("calibrate", trained, no_strangers)
    assert done.code == 1
    assert "no photos to calibrate with: 1 of 1 photos are enrolled" in done.errors[0]


def groups_of(folder: Path) -> dict[str, list[str]]:
    with (folder / "groups.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row["group"] or row["reason"], []).append(Path(row["photo"]).name)
    return {name: sorted(files) for name, files in found.items()}


def test_cluster_and_again_with_more_photos(cli, people, tmp_path, stranger_file, cat_file):
    out = tmp_path / "groups"
    held_back = tmp_path / "held"
    held_back.mkdir()
    shutil.move(people / "Grace Hopper" / "5.jpg", held_back / "new.jpg")
    shutil.copy(people / "Grace Hopper" / "0.jpg", people / "Grace Hopper" / "a copy.jpg")
    done = cli("cluster", people, stranger_file, cat_file, "--output", out)
    assert done.code == 0, done.err
    assert done.lines[0].startswith("12 faces in 13 photos (0 known before): 2 people, 1 faces without a group")
    found = groups_of(out)
    assert found["person-0001"] == ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg"]
    assert len(found["person-0002"]) == 5
    assert found["alone"] == [stranger_file.name]
    assert found["no face found"] == [cat_file.name]
    page = (out / "index.html").read_text(encoding="utf-8")
    assert page.count("<img") == 12
    for picture in (out / "faces").iterdir():
        assert picture.name in page
        with Image.open(picture) as opened:
            assert max(opened.size) <= 160

    (out / "person-0002").rename(out / "Grace")
    done = cli("cluster", people, held_back, stranger_file, "--output", out, "--photos", "copy")
    assert done.code == 0, done.err
    assert done.lines[1] == "1 new faces joined existing groups"
    found = groups_of(out)
    assert "new.jpg" in found["Grace"]
    assert "person-0002" not in found
    assert not (out / "person-0002").exists()
    assert len(list((out / "Grace" / "photos").iterdir())) == 6

    # A second photo of the stranger: now the two form a group.
    shutil.copy(stranger_file, held_back / "stranger.png")
    Image.open(stranger_file).convert("RGB").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(held_back / "stranger.png")
    cli("cluster", held_back, "--output", out)
    assert "alone" not in groups_of(out)
    assert not list((out / "alone").glob("*.jpg"))


def test_groups_take_the_names_of_a_gallery(cli, people, tmp_path):
    gallery = tmp_path / "g"
    cli("enroll", "--gallery", gallery, "Grace/Hopper", people / "Grace Hopper" / "0.jpg")
    done = cli("cluster", people, "--output", tmp_path / "out", "--gallery", gallery, "--json")
    assert done.code == 0, done.err
    assert done.json[0]["people"] == {"Grace_Hopper": 6, "person-0001": 6}


def test_nothing_to_cluster(cli, tmp_path, cat_file):
    empty = tmp_path / "empty"
    empty.mkdir()
    done = cli("cluster", empty, "--output", tmp_path / "out")
    assert done.code == 1
    assert "no images in this folder" in done.err
    done = cli("cluster", cat_file, "--output", tmp_path / "out2")
    assert done.code == 1
    assert done.errors[-1] == "facespace: no faces were found in 1 photos; there is nothing to group"


def test_groups_of_another_model_or_detector_are_refused(cli, tmp_path, hopper_file):
    out = tmp_path / "out"
    cli("cluster", hopper_file, "--output", out)
    state = out / "faces.safetensors"
    state.write_bytes(state.read_bytes()[:100])
    done = cli("cluster", hopper_file, "--output", out)
    assert done.code == 1
    assert len(done.errors) == 1
    assert "remove it to start again" in done.errors[0]


def test_the_output_is_not_searched_for_photos(cli, people, tmp_path):
    out = people / "groups"
    cli("cluster", people, "--output", out)
    n = len(list((out / "faces").iterdir()))
    done = cli("cluster", people, "--output", out)
    assert done.lines[0].startswith(f"{n} faces in 12 photos (12 known before)")
    assert np.array_equal(n, 12)


def test_videos_are_named(cli, trained, tmp_path, hopper, cat_file):
    from support.video_files import write_video

    video = tmp_path / "clip.mp4"
    write_video(video, [hopper[:350, 100:450]] * 6, rate=5)
    done = cli("classify", "predict", trained, video, "--json", "--subtitles", tmp_path / "srt")
    assert done.code == 0, done.err
    assert done.json[-1]["appearances"][0]["name"] == "Grace Hopper"
    assert "Grace Hopper" in (tmp_path / "srt" / "clip.srt").read_text(encoding="utf-8")
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(video.read_bytes()[:200])
    done = cli("classify", "predict", trained, damaged)
    assert done.code == 1
    assert len(done.errors) == 1
    no_faces = tmp_path / "no faces.mp4"
    with Image.open(cat_file) as cat:
        write_video(no_faces, [np.asarray(cat.convert("RGB"))[:300, :450]] * 3, rate=5)
    done = cli("classify", "predict", trained, no_faces, "--json")
    assert done.code == 0
    assert done.json[-1]["appearances"] == []


def test_a_camera_or_photos(cli, trained, hopper_file, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "facespace.cli.shared.name_files.name_camera", lambda number, **options: asked.append((number, options["json"]))
    )
    assert cli("classify", "predict", trained, "--camera", "1", "--json").code == 0
    assert asked == [(1, True)]
    done = cli("classify", "predict", trained, hopper_file, "--camera", "0")
    assert done.code == 2
    assert "cannot be combined with IMAGE, --draw or --subtitles" in done.err
    done = cli("classify", "predict", trained)
    assert done.code == 2
    assert "is missing; give photos or videos, or --camera N" in done.err
