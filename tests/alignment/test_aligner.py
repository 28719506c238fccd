"""Tests the dataset aligner: its output, resuming, and sharing the work between processes."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import facespace
from facespace.alignment import aligner
from facespace.alignment.aligner import align_dataset, find_photos
from facespace.alignment.batch import outputs
from facespace.alignment.face_table import read_csv
from facespace.alignment.journal import BATCH
from facespace.errors import DatasetError
from facespace.faces.alignment import align
from facespace.faces.crops import CropRecord
from facespace.faces.face import central_face

RECORD = CropRecord(160, 32, "box", model="casia-webface")  # as the command makes it


def contents(folder: Path) -> dict[str, str]:
    """Map every file below a folder to the SHA-256 of its bytes, which pytest compares quickly."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def raw(tmp_path, hopper_file, collins_file, cat_file) -> Path:
    """Two people, a cat, a text file; names with a blank, in Chinese and not in UTF-8."""
    folder = tmp_path / "raw"
    for name in ("Grace Hopper", "艾琳", "nobody"):
        (folder / name).mkdir(parents=True)
    shutil.copy(hopper_file, folder / "Grace Hopper" / "1.jpg")
    shutil.copy(hopper_file, folder / "Grace Hopper" / "1.jpeg")
    shutil.copy(collins_file, folder / "艾琳" / "太空.png")
    shutil.copy(hopper_file, os.fsencode(folder / "艾琳") + b"/caf\xe9.jpg")
    shutil.copy(cat_file, folder / "nobody" / "cat.png")
    (folder / "nobody" / "notes.jpg").write_text("no image")
    (folder / "nobody" / ".hidden.jpg").write_text("left out")
    (folder / "loose.jpg").write_text("left out")
    return folder


@pytest.fixture
def group(hopper, collins_file) -> np.ndarray:
    """Two faces, the more certain one not the central one."""
    collins = facespace.read(collins_file)
    return np.hstack([hopper[:512], collins[:512], np.zeros((512, 300, 3), np.uint8)])


def run(raw: Path, out: Path, detector, record: CropRecord = RECORD) -> aligner.Summary:
    return align_dataset(raw, out, record, detector=lambda: detector)


def test_crops_equal_align_and_every_photo_has_a_row(raw, tmp_path, detector, hopper):
    out = tmp_path / "out"
    summary = run(raw, out, detector)
    assert (summary.n_photos, summary.n_faces, summary.n_no_face, summary.n_unreadable) == (6, 4, 1, 1)
    rows = {(row.input, row.output, row.status) for row in read_csv(out / "faces.csv")}
    assert rows == {
        ("Grace Hopper/1.jpeg", "Grace Hopper/1.png", "aligned"),
        ("Grace Hopper/1.jpg", "Grace Hopper/1.jpg.png", "aligned"),
        ("nobody/cat.png", "", "no face"),
        ("nobody/notes.jpg", "", "unreadable"),
        ("艾琳/caf\\xe9.jpg", "艾琳/caf\\xe9.png", "aligned"),
        ("艾琳/太空.png", "艾琳/太空.png", "aligned"),
    }
    face = central_face(detector.detect(hopper), hopper.shape[1], hopper.shape[0])
    crop = np.asarray(Image.open(out / "Grace Hopper" / "1.png"))
    np.testing.assert_array_equal(crop, align(hopper, face, RECORD.input_spec()))
    assert os.path.exists(os.fsencode(out / "艾琳") + b"/caf\xe9.png")
    assert {path.name for path in out.iterdir()} == {
        "Grace Hopper", "艾琳", "align.json", "faces.csv", ".align.lock",
    }  # fmt: skip
    header = (out / "faces.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header.startswith("# facespace align") and '"image_size": 160' in header and '"crop_margin": 32' in header


@pytest.mark.parametrize("faces", ["central", "most-confident", "all"])
def test_which_faces_are_kept(tmp_path, detector, group, faces):
    (tmp_path / "raw" / "g").mkdir(parents=True)
    Image.fromarray(group).save(tmp_path / "raw" / "g" / "1.png")
    found = detector.detect(group)
    assert len(found) > 1
    record = CropRecord(112, 0, "arcface", faces=faces, format="webp")
    run(tmp_path / "raw", tmp_path / "out", detector, record)
    rows = read_csv(tmp_path / "out" / "faces.csv")
    expected = {
        "central": [central_face(found, group.shape[1], group.shape[0])],
        "most-confident": [max(found, key=lambda face: face.score)],
        "all": found,
    }[faces]
    assert [float(row.numbers[0]) for row in rows] == [pytest.approx(face.box[0], abs=1e-3) for face in expected]
    names = [f"g/1_{k}.webp" for k in range(len(found))] if faces == "all" else ["g/1.webp"]
    assert [row.output for row in rows] == names
    for name, face in zip(names, expected, strict=True):
        crop = np.asarray(Image.open(tmp_path / "out" / name)).astype(int)
        assert abs(crop - align(group, face, record.input_spec())).max() <= 1  # landmarks rounded to 0.001 px


def test_second_run_does_nothing_and_a_new_photo_is_added(raw, tmp_path, detector, hopper_file):
    out = tmp_path / "out"
    run(raw, out, detector)
    before = contents(out)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    assert align_dataset(raw, out, RECORD, detector=lambda: pytest.fail("nothing to detect")).n_here == 0
    assert contents(out) == before
    shutil.copy(hopper_file, raw / "nobody" / "a new one.jpg")
    (out / "Grace Hopper" / "1.png").unlink()  # lost, so it is made again
    assert run(raw, out, detector).n_here == 2
    after = contents(out)
    assert set(after) - set(before) == {"nobody/a new one.png"}
    assert after["Grace Hopper/1.png"] == before["Grace Hopper/1.png"]
    kept = set(times) - {out / "Grace Hopper" / "1.png"}
    assert all(path.stat().st_mtime_ns == times[path] for path in kept)
    inputs = [row.input for row in read_csv(out / "faces.csv")]
    assert len(inputs) == 7 and inputs == sorted(inputs, key=lambda name: name.split("/", 1))


def test_leftovers_of_a_killed_process_are_removed(raw, tmp_path, detector):
    out = tmp_path / "out"
    run(raw, out, detector)
    before = contents(out)
    (out / ".align").mkdir()  # killed while it removed the plan
    (out / ".align" / "0000000.json").write_text("[]")
    (out / ".facespace-0123.csv").write_text("half a ta")
    run(raw, out, detector)
    assert contents(out) == before and not (out / ".align").exists()


def test_a_table_being_written_is_not_removed_by_another_process(raw, tmp_path, detector, monkeypatch):
    """While one process writes its bounding boxes, another one finishes and cleans up."""
    out = tmp_path / "out"
    run(raw, out, detector)
    written = aligner.write_bounding_boxes
    others = []

    def write(path, folder, record, rows):
        def rows_and_another_run():
            yield from rows
            others.append(threading.Thread(target=run, args=(raw, out, detector)))
            others[0].start()
            others[0].join(1.0)  # waits for this process; otherwise it would have cleaned up by now

        written(path, folder, record, rows_and_another_run())

    monkeypatch.setattr(aligner, "write_bounding_boxes", write)
    rows = aligner.write_more_tables(out, RECORD, bounding_boxes=True)
    others[0].join()
    n_lines = len((out / "bounding_boxes.txt").read_text(encoding="utf-8").splitlines())
    assert n_lines == sum(row.status != "unreadable" for row in rows)
    assert not list(out.glob(".facespace-*"))


def test_settings_of_another_run_are_refused(raw, tmp_path, detector):
    run(raw, tmp_path / "out", detector)
    with pytest.raises(DatasetError, match=r"crop_margin 32 \(requested: 44\)"):
        run(raw, tmp_path / "out", detector, CropRecord(160, 44, "box"))


def test_crops_without_a_record_are_not_overwritten(raw, tmp_path, detector):
    mine = tmp_path / "out" / "艾琳" / "太空.png"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(DatasetError, match=r"no align\.json"):
        run(raw, tmp_path / "out", detector)
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("out", ["", "deep/er"])
def test_output_within_the_photos_is_refused(raw, detector, out):
    with pytest.raises(DatasetError, match="lies in the folder of photos"):
        run(raw, raw / out, detector)


def test_no_photos(tmp_path, detector):
    with pytest.raises(DatasetError, match="no such folder"):
        find_photos(tmp_path / "missing")
    (tmp_path / "raw" / "empty").mkdir(parents=True)
    (tmp_path / "raw" / "loose.jpg").touch()
    with pytest.raises(DatasetError, match="one folder per person"):
        run(tmp_path / "raw", tmp_path / "out", detector)
    assert not (tmp_path / "out").exists()


def test_no_two_photos_share_a_crop():
    photos = ["A/1.jpg", "A/1.png", "A/1.png.png", "B/1.jpg"]
    names = outputs(photos, RECORD)
    assert len(set(names.values())) == len(photos)


@pytest.mark.parametrize("damage", ["{", "[]", '{"image_size": 160}'])
def test_damaged_record(raw, tmp_path, detector, damage):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "align.json").write_text(damage)
    with pytest.raises(DatasetError, match=r"align\.json"):
        run(raw, tmp_path / "out", detector)


def test_full_disk_keeps_finished_batches(tmp_path, detector, hopper_file, monkeypatch):
    raw, out = tmp_path / "raw", tmp_path / "out"
    (raw / "h").mkdir(parents=True)
    small = Image.open(hopper_file).resize((150, 128))
    for k in range(2 * 24 + 5):
        small.save(raw / "h" / f"{k:03d}.png")
    replace = os.replace

    def full(source, target):
        if str(target).endswith("050.png"):
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("facespace.io.files.os.replace", full)
        with pytest.raises(OSError, match="No space left"):
            run(raw, out, detector)
    assert (out / ".align" / "0000000.json").is_file()
    assert not list((out / "h").glob(".facespace-*"))
    for path in (out / "h").glob("*.png"):
        Image.open(path).load()
    assert run(raw, out, detector).n_here <= 2 * BATCH + 5
    clean = tmp_path / "clean"
    run(raw, clean, detector)
    assert contents(out) == contents(clean)


@pytest.fixture(scope="module")
def many(tmp_path_factory, shared) -> Path:
    """150 photos of LFW in their class folders, as links."""
    folder = tmp_path_factory.mktemp("many") / "raw"
    for path in sorted((shared / "data/lfw_view1/images").rglob("*.jpg"))[::33][:150]:
        (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
        (folder / path.parent.name / path.name).symlink_to(path)
    return folder


@pytest.fixture(scope="module")
def undisturbed(many, tmp_path_factory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("clean") / "out"
    run(many, out, facespace.MTCNN())
    return contents(out)


def start(raw: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-W", "error", "-m", "facespace", "align", str(raw), str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.shared
def test_four_processes_give_the_result_of_one(many, undisturbed, tmp_path):
    running = [start(many, tmp_path / "out") for _ in range(4)]
    for process in running:
        printed, complaint = process.communicate(timeout=300)
        assert process.returncode == 0, complaint.decode()
        assert b"150 photos: 150 faces" in printed
    assert contents(tmp_path / "out") == undisturbed


@pytest.mark.shared
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_processes_killed_repeatedly(many, undisturbed, tmp_path):
    out = tmp_path / "out"
    chance = random.Random(7)
    done = 0
    for _ in range(4):
        process = start(many, out)
        until = time.monotonic() + 60
        while time.monotonic() < until and process.poll() is None and len(list(out.glob("*/*.png"))) <= done:
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 0.3))
        process.kill()
        process.communicate()
        done = len(list(out.glob("*/*.png")))
        for path in out.glob("*/*.png"):
            if not path.name.startswith("."):
                Image.open(path).load()  # nothing half written
    process = start(many, out)
    _, complaint = process.communicate(timeout=300)
    assert process.returncode == 0, complaint.decode()
    assert contents(out) == undisturbed


@pytest.mark.shared
def test_a_file_system_that_is_really_full(many, tmp_path):
    """Uses a file system of 900 kB, mounted in a separate namespace."""
    disk = tmp_path / "disk"
    disk.mkdir()
    script = (
        f"mount -t tmpfs -o size=900k tmpfs {disk} || exit 99; "
        f"{sys.executable} -m facespace align {many} {disk}/out; code=$?; "
        f"ls -a {disk}/out/*/ | grep -c facespace-; ls {disk}/out/.align; exit $code"
    )
    try:
        done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, timeout=120)
    except FileNotFoundError:
        pytest.skip("no unshare on this system")
    if done.returncode == 99 or done.stderr.startswith("unshare:"):
        pytest.skip(f"no mount in a namespace here: {done.stderr.strip()[-100:]}")
    assert done.returncode == 1
    assert "No space left on device; make room and start the same command again; finished work is kept" in done.stderr
    leftovers, *journal = done.stdout.splitlines()
    assert leftovers == "0"
    assert "plan.json" in journal


@pytest.mark.shared
def test_boxes_equal_the_2018_program(many, tmp_path, shared, cli):
    assert cli("align", many, tmp_path / "out", "--bounding-boxes").code == 0
    golden = {}
    for line in (shared / "golden/lfw_view1_boxes_160_32.txt").read_text().splitlines():
        name, *box = line.split()
        golden[Path(name).stem] = [int(value) for value in box]
    lines = (tmp_path / "out" / "bounding_boxes.txt").read_text().splitlines()
    assert len(lines) == 150
    for line in lines:
        name, *box = line.rsplit(" ", 4)
        assert np.abs(np.subtract([int(value) for value in box], golden[Path(name).stem])).max() <= 1, name


def test_large_photos_are_detected_one_by_one(raw, tmp_path, detector, monkeypatch):
    """The crops equal those of a batch; no photo waits in memory for the others of its batch."""
    run(raw, tmp_path / "together", detector)
    together = contents(tmp_path / "together")
    n_photos = []

    class Counted:
        def detect_many(self, images):
            photos = list(images)
            n_photos.append(len(photos))
            return detector.detect_many(photos)

    monkeypatch.setattr("facespace.pipeline.face_batches._MAX_PIXELS", 1)
    run(raw, tmp_path / "alone", Counted())
    assert contents(tmp_path / "alone") == together
    assert max(n_photos) == 1 and sum(n_photos) > 2
