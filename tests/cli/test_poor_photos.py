"""Photos of poor quality, with many faces, with copies, or without a face, in enroll, identify, cluster and detect."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

import facespace
from facespace.faces.quality import LOW_QUALITY
from support.commands import Outcome

Cli = Callable[..., Outcome]


@pytest.fixture
def gallery(cli: Cli, tmp_path: Path, hopper_file: Path, collins_file: Path) -> Path:
    path = tmp_path / "people.gallery"
    for name, file in (("Grace", hopper_file), ("Eileen", collins_file)):
        assert cli("enroll", "--gallery", path, name, file).code == 0
    return path


def saved(path: Path, pixels: np.ndarray | Image.Image) -> Path:
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    picture.save(path)
    return path


def scaled(pixels: np.ndarray, factor: float) -> np.ndarray:
    whole = Image.fromarray(pixels)
    size = (round(whole.width * factor), round(whole.height * factor))
    return np.asarray(whole.resize(size, Image.Resampling.LANCZOS))


def far(pixels: np.ndarray) -> Image.Image:
    """A face of 20 px, out of focus."""
    return Image.fromarray(scaled(pixels, 0.09)).filter(ImageFilter.GaussianBlur(1.5))


def names(outcome: Outcome) -> list[Any]:
    return [face["name"] for face in outcome.json[0]["faces"]]


def test_a_photo_is_enrolled_until_it_is_blurred_too_much(cli: Cli, tmp_path: Path, hopper: np.ndarray) -> None:
    codes = []
    for radius in (0, 3, 8, 19):
        photo = saved(tmp_path / f"{radius}.png", Image.fromarray(hopper).filter(ImageFilter.GaussianBlur(radius)))
        outcome = cli("enroll", "--gallery", tmp_path / f"g{radius}", "Grace", photo)
        codes.append(outcome.code)
        if outcome.code:
            assert "left out" in outcome.err
    assert codes[0] == 0 and codes[-1] == 1
    assert codes == sorted(codes), "once refused, a photo that is blurred more is refused too"


def test_a_face_too_small_is_refused_and_can_be_forced(cli: Cli, tmp_path: Path, hopper: np.ndarray) -> None:
    photo = saved(tmp_path / "small.png", far(hopper))
    (face,) = cli("detect", "--json", photo).json[0]["faces"]
    assert face["quality"] < LOW_QUALITY and face["box"][3] - face["box"][1] < 32
    outcome = cli("enroll", "--gallery", tmp_path / "g", "Grace", photo)
    assert outcome.code == 1
    quality = re.search(
        r"small\.png: too small \(quality (0\.\d\d)\); left out \(--any-quality takes it\)$", outcome.errors[-1]
    )
    assert quality is not None and float(quality[1]) == pytest.approx(face["quality"], abs=0.006)
    assert cli("enroll", "--gallery", tmp_path / "g", "Grace", photo, "--any-quality").code == 0


def test_a_face_too_small_is_unknown_with_the_reason(
    cli: Cli, tmp_path: Path, gallery: Path, hopper: np.ndarray
) -> None:
    assert cli("gallery", "remove", "--gallery", gallery, "Grace").code == 0
    photo = saved(tmp_path / "far.png", far(hopper))
    outcome = cli("identify", "--gallery", gallery, photo)
    assert "unknown (too small)" in outcome.out
    (face,) = cli("identify", "--gallery", gallery, "--json", photo).json[0]["faces"]
    assert (face["name"], face["reason"]) == (None, "too small")
    drawn = cli("identify", "--gallery", gallery, photo, "--draw", tmp_path / "drawn")
    assert drawn.code == 0 and (tmp_path / "drawn" / "far.png.jpg").is_file()


def test_of_a_portrait_with_a_far_smaller_face_the_portrait_is_enrolled(
    cli: Cli, tmp_path: Path, hopper: np.ndarray, collins_file: Path, gallery: Path
) -> None:
    small = scaled(facespace.read(collins_file), 0.25)
    canvas = np.zeros((hopper.shape[0], hopper.shape[1] + small.shape[1], 3), np.uint8)
    canvas[:, : hopper.shape[1]] = hopper
    canvas[: small.shape[0], hopper.shape[1] :] = small
    photo = saved(tmp_path / "portrait.png", canvas)
    assert len(cli("detect", "--json", photo).json[0]["faces"]) == 2
    assert cli("enroll", "--gallery", tmp_path / "g", "Somebody", photo).code == 0
    outcome = cli("identify", "--gallery", tmp_path / "g", "--json", photo)
    assert [name for name in names(outcome) if name] == ["Somebody"]


def test_a_person_is_named_once_per_picture_unless_repeats_is_given(
    cli: Cli, tmp_path: Path, gallery: Path, hopper: np.ndarray
) -> None:
    twice = saved(tmp_path / "twice.png", np.hstack([hopper, hopper[:, ::-1]]))
    assert sorted(names(cli("identify", "--gallery", gallery, "--json", twice)), key=str) == ["Grace", None]
    assert names(cli("identify", "--gallery", gallery, "--json", "--repeats", twice)) == ["Grace", "Grace"]


@pytest.mark.shared
def test_the_collage_of_one_person(cli: Cli, tmp_path: Path, shared: Path) -> None:
    collage = shared / "data" / "faults" / "twice.jpg"
    faces = cli("detect", "--json", collage).json[0]["faces"]
    assert len(faces) == 2
    assert cli("enroll", "--gallery", tmp_path / "g", "Twice", "--largest", collage).code == 0
    once = names(cli("identify", "--gallery", tmp_path / "g", "--json", collage))
    both = names(cli("identify", "--gallery", tmp_path / "g", "--json", "--repeats", collage))
    assert (once.count("Twice"), both.count("Twice")) == (1, 2)


def test_one_person_under_two_names_is_reported(cli: Cli, tmp_path: Path, gallery: Path, hopper: np.ndarray) -> None:
    mirrored = saved(tmp_path / "again.png", hopper[:, ::-1])
    outcome = cli("enroll", "--gallery", gallery, "Rear Admiral", mirrored)
    assert outcome.code == 0
    assert outcome.errors == [
        f"facespace: {mirrored}: resembles Grace, who is enrolled; is Rear Admiral the same person?"
    ]
    assert cli("enroll", "--gallery", gallery, "Grace", mirrored).errors == [
        f"facespace: {mirrored}: the same photo is enrolled as Rear Admiral; is Grace the same person?"
    ]


@pytest.mark.parametrize("kind", ["black", "white", "noise", "waves"])
def test_pictures_without_people(cli: Cli, tmp_path: Path, gallery: Path, kind: str) -> None:
    y, x = np.mgrid[0:240, 0:320]
    pixels = {
        "black": np.zeros((240, 320, 3)),
        "white": np.full((240, 320, 3), 255),
        "noise": np.random.default_rng(0).integers(0, 256, (240, 320, 3)),
        "waves": np.repeat((127 + 120 * np.sin(x / 9) * np.cos(y / 7))[..., None], 3, axis=2),
    }[kind].astype(np.uint8)
    photo = saved(tmp_path / f"{kind}.png", pixels)
    outcome = cli("identify", "--gallery", gallery, "--json", photo)
    assert (outcome.code, outcome.json) == (0, [{"image": str(photo), "faces": []}])
    assert cli("enroll", "--gallery", gallery, "Nobody", photo).code == 1


@pytest.mark.parametrize("kind", ["gray", "infrared"])
def test_pictures_without_colour(cli: Cli, tmp_path: Path, gallery: Path, hopper: np.ndarray, kind: str) -> None:
    """An infrared picture as from night cameras: bright skin, and a single channel."""
    gray = Image.fromarray(hopper).convert("L")
    picture = gray if kind == "gray" else gray.point(lambda value: min(255, 90 + value))
    photo = saved(tmp_path / f"{kind}.png", picture)
    assert names(cli("identify", "--gallery", gallery, "--json", photo)) == ["Grace"]


def of_stone(pixels: np.ndarray) -> np.ndarray:
    """A marble bust: hard light, no colours of skin and eyes, and grain."""
    gray = np.asarray(Image.fromarray(pixels).convert("L").filter(ImageFilter.GaussianBlur(2)), np.float32)
    y, x = np.gradient(gray)
    light = 150 + 0.25 * (gray - gray.mean()) + 6 * (x + y)
    grain = np.random.default_rng(0).normal(0, 4, gray.shape)
    return np.clip((light + grain)[..., None] * (1.0, 0.98, 0.93), 0, 255).astype(np.uint8)


def in_pencil(pixels: np.ndarray) -> np.ndarray:
    """A drawing: lines on paper, hatched in dark areas."""
    gray = Image.fromarray(pixels).convert("L")
    lines = 255 - 3 * np.asarray(gray.filter(ImageFilter.GaussianBlur(1)).filter(ImageFilter.FIND_EDGES), np.float32)
    dark = np.asarray(gray) < 90
    y, x = np.mgrid[: dark.shape[0], : dark.shape[1]]
    lines[dark & ((x + y) % 7 < 2)] = 90
    return np.repeat(np.clip(lines, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize("made", [of_stone, in_pencil], ids=["statue", "drawing"])
def test_a_statue_and_a_drawing_of_somebody_else_are_not_named(
    cli: Cli, tmp_path: Path, collins_file: Path, hopper_file: Path, made: Callable[[np.ndarray], np.ndarray]
) -> None:
    """They may be detected as faces, but must not get a name."""
    gallery = tmp_path / "people.gallery"
    assert cli("enroll", "--gallery", gallery, "Grace", hopper_file).code == 0
    picture = saved(tmp_path / "made.png", made(facespace.read(collins_file)))
    outcome = cli("identify", "--gallery", gallery, "--json", picture)
    assert outcome.code == 0 and len(outcome.json[0]["faces"]) <= 1
    assert not any(names(outcome))


def test_a_printed_photo_in_the_picture_is_named_as_its_person(
    cli: Cli, tmp_path: Path, gallery: Path, hopper: np.ndarray, collins_file: Path
) -> None:
    """A washed-out, tilted print. Next to the person it shows, the person is named only once."""
    page = np.pad(hopper, ((30, 30), (30, 30), (0, 0)), constant_values=245)
    washed = Image.fromarray((70 + 0.6 * page).astype(np.uint8)).convert("RGBA")
    corners = (-20, -10, -60, page.shape[0] + 40, page.shape[1] + 30, page.shape[0] + 10, page.shape[1] + 80, -60)
    held = washed.transform((260, 300), Image.Transform.QUAD, corners, Image.Resampling.BICUBIC)

    def beside(pixels: np.ndarray) -> Path:
        whole = Image.new("RGB", (pixels.shape[1] + 300, max(pixels.shape[0], 320)), (96, 104, 90))
        whole.paste(Image.fromarray(pixels), (0, 0))
        whole.paste(held, (pixels.shape[1] + 20, 10), held)
        return saved(tmp_path / "print.png", whole)

    other = names(cli("identify", "--gallery", gallery, "--json", beside(facespace.read(collins_file))))
    assert sorted(other) == ["Eileen", "Grace"]
    own = names(cli("identify", "--gallery", gallery, "--json", beside(hopper)))
    assert sorted(own, key=str) == ["Grace", None]


def test_faces_of_eight_pixels_are_not_named(cli: Cli, tmp_path: Path, gallery: Path, hopper: np.ndarray) -> None:
    photo = saved(tmp_path / "tiny.png", np.pad(scaled(hopper, 0.035), ((60, 60), (60, 60), (0, 0)), mode="edge"))
    assert not any(names(cli("identify", "--gallery", gallery, "--json", photo)))


@pytest.mark.shared
def test_a_photo_of_over_a_hundred_faces(cli: Cli, gallery: Path, shared: Path) -> None:
    outcome = cli("identify", "--gallery", gallery, "--json", shared / "data" / "groups" / "g2.jpg")
    assert len(outcome.json[0]["faces"]) >= 110
    assert not any(names(outcome)), "none of them is enrolled"


def test_two_faces_of_one_photo_are_two_people(cli: Cli, tmp_path: Path, hopper: np.ndarray, hopper_file: Path) -> None:
    (tmp_path / "photos").mkdir()
    saved(tmp_path / "photos" / "twice.png", np.hstack([hopper, hopper[:, ::-1]]))
    saved(tmp_path / "photos" / "once.png", hopper)
    saved(tmp_path / "photos" / "far.png", far(hopper))

    def groups(*options: str) -> dict[str, list[str]]:
        out = tmp_path / f"out{len(options)}"
        assert cli("cluster", tmp_path / "photos", "--output", out, *options).code == 0
        found: dict[str, list[str]] = {}
        with (out / "groups.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                found.setdefault(row["group"], []).append(Path(row["photo"]).stem)
        return {name: sorted(photos) for name, photos in found.items()}

    assert groups() == {"person-0001": ["once", "twice"], "alone": ["twice"], "too-poor": ["far"]}
    assert groups("--repeats") == {"person-0001": ["once", "twice", "twice"], "too-poor": ["far"]}
