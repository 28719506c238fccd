"""The tutorials' aligner: their command lines as printed, also several at once."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import facespace
from support.commands import Outcome
from support.tutorial_people import write_photos

Cli = Callable[..., Outcome]
CREATING = "Creating networks and loading parameters"
TOTALS = ["Total number of images: 4", "Number of successfully aligned images: 4"]


@pytest.fixture
def raw(tmp_path: Path, hopper_file: Path, collins_file: Path) -> Path:
    return write_photos(tmp_path / "raw", {"Grace_Hopper": hopper_file, "Eileen_Collins": collins_file}, 2)


def sizes(out: Path) -> set[tuple[int, int]]:
    return {facespace.read(path).shape[:2] for path in out.glob("*/*.png")}


@pytest.mark.parametrize(
    ("line", "size", "margin"),
    [
        ("{raw} {out} --image_size 182 --margin 44", 182, 44),
        ("{raw} {out} --image_size 182 --margin 44 --random_order --gpu_memory_fraction 0.25", 182, 44),
        ("{raw} {out} --image_size 160 --margin 32 --random_order --gpu_memory_fraction 0.6", 160, 32),
        ("--image_size=160 --marg 32 --detect_multiple_faces False {raw} {out}", 160, 32),
        ("{raw} {out}", 182, 44),
    ],
)
def test_command_lines(cli: Cli, raw: Path, tmp_path: Path, line: str, size: int, margin: int) -> None:
    out = tmp_path / "out"
    done = cli("facenet", "align_dataset_mtcnn", *shlex.split(line.format(raw=raw, out=out)))
    assert (done.code, done.lines) == (0, [CREATING, *TOTALS])
    ignored = [line.split(": ignored because ")[0] for line in done.errors[:-1]]
    given = [word for word in line.split() if word in ("--random_order", "--gpu_memory_fraction")]
    assert ignored == [f"facespace: {word}" for word in given]
    assert done.errors[-1:] == [
        f"facespace: equivalent command: facespace align {raw} {out} --image-size {size} --crop-margin {margin} --bounding-boxes"
    ]
    assert sizes(out) == {(size, size)}
    assert sorted(str(path.relative_to(out)) for path in out.glob("*/*")) == [
        f"{name}/{name}_000{k}.png" for name in ("Eileen_Collins", "Grace_Hopper") for k in (1, 2)
    ]
    boxes = (out / "bounding_boxes.txt").read_text().splitlines()
    assert len(boxes) == 4
    assert re.fullmatch(r".*/Eileen_Collins_0001\.png( \d+){4}", boxes[0])


def test_the_equivalent_command_finds_nothing_left_to_do(cli: Cli, raw: Path, tmp_path: Path) -> None:
    done = cli("facenet", "align_dataset_mtcnn", raw, tmp_path / "out")
    again = cli(*shlex.split(done.errors[0].removeprefix("facespace: equivalent command: facespace ")))
    assert (again.code, again.lines) == (
        0,
        [f"4 photos: 4 faces, 0 without a face, 0 unreadable -> {tmp_path / 'out'}"],
    )


@pytest.mark.parametrize("words", [["--detect_multiple_faces", "True"], ["--detect_multiple_faces"]])
def test_all_faces_of_a_photo(
    cli: Cli, tmp_path: Path, hopper_file: Path, collins_file: Path, words: list[str]
) -> None:
    (tmp_path / "raw" / "both").mkdir(parents=True)
    picture = Image.new("RGB", (1024, 512))
    for x, file in ((0, hopper_file), (512, collins_file)):
        picture.paste(Image.fromarray(facespace.read(file)).resize((512, 512)), (x, 0))
    picture.save(tmp_path / "raw" / "both" / "1.png")
    done = cli("facenet", "align_dataset_mtcnn", tmp_path / "raw", tmp_path / "out", *words)
    assert done.lines == [CREATING, "Total number of images: 1", "Number of successfully aligned images: 2"]
    assert "--all-faces" in done.errors[0]
    assert sorted(os.listdir(tmp_path / "out" / "both")) == ["1_0.png", "1_1.png"]


def test_photos_that_cannot_be_aligned_are_reported_and_the_run_goes_on(
    cli: Cli, raw: Path, tmp_path: Path, cat_file: Path
) -> None:
    (raw / "Eileen_Collins" / "Eileen_Collins_0002.jpg").write_bytes(b"no picture")
    (raw / "Grace_Hopper" / "Grace_Hopper_0002.jpg").write_bytes(cat_file.read_bytes())
    done = cli("facenet", "align_dataset_mtcnn", raw, tmp_path / "out")
    assert done.code == 0
    assert done.lines == [
        CREATING,
        'Unable to align "Grace_Hopper/Grace_Hopper_0002.jpg"', TOTALS[0], "Number of successfully aligned images: 2",
    ]  # fmt: skip
    assert done.errors[1].startswith("facespace: Eileen_Collins/Eileen_Collins_0002.jpg: not an image")


def test_the_loop_of_four(raw: Path, tmp_path: Path) -> None:
    """`for N in {1..4}; do … & done`: the four share the work."""
    command = f"{shlex.quote(sys.executable)} -W error -m facespace facenet align_dataset_mtcnn"
    loop = (
        f"for N in {{1..4}}; do {command} raw out --image_size 182 --margin 44 --random_order "
        "--gpu_memory_fraction 0.25 & done; wait"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-c", loop], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=True
    )
    assert sorted(done.stdout.splitlines()) == sorted([CREATING, *TOTALS] * 4), done.stderr
    assert sizes(tmp_path / "out") == {(182, 182)}
    assert len(list((tmp_path / "out").glob("*/*.png"))) == 4


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["raw"], "the following arguments are required: output_dir"),
        (["raw", "out", "--image_size", "big"], "argument --image_size: invalid int value: 'big'"),
        (["raw", "out", "--size", "3"], "unrecognized arguments: --size 3"),
        (["raw", "out", "--detect_multiple_faces", "perhaps"], "must be True or False, got 'perhaps'"),
    ],
)
def test_a_wrong_command_line_is_one_line(cli: Cli, words: list[str], complaint: str) -> None:
    done = cli("facenet", "align_dataset_mtcnn", *words)
    assert done.code == 2
    assert len(done.errors) == 1 and complaint in done.err and "align_dataset_mtcnn --help" in done.err


def test_no_photos_is_one_line(cli: Cli, tmp_path: Path) -> None:
    done = cli("facenet", "align_dataset_mtcnn", tmp_path / "none", tmp_path / "out")
    assert done.code == 1 and "no such folder" in done.errors[-1]


def test_help_is_that_of_the_old_program(cli: Cli) -> None:
    done = cli("facenet", "align_dataset_mtcnn", "--help")
    assert done.code == 0
    for flag in ("--image_size", "--margin", "--random_order", "--gpu_memory_fraction", "--detect_multiple_faces"):
        assert flag in done.out
