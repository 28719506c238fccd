"""The kind of a file by its content and its name: one table for all kinds."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from facespace.io.file_kinds import IMAGE_ENDINGS, START, Kind, image_ending, is_video, kind_in_folder, photo_format
from support.tiff_files import strips, tiff

KINDS = {
    "JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "GIF": ".gif", "TIFF": ".tif", "PPM": ".ppm",
    "AVIF": ".avif", "JPEG2000": ".jp2",
}  # fmt: skip
PHOTO, VIDEO, OTHER = Kind.PHOTO, Kind.VIDEO, Kind.OTHER


def encode(kind: str, mode: str = "RGB", **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)).convert(mode).save(
        stream, kind, **options
    )
    return stream.getvalue()


def box(brand: bytes, *compatible: bytes) -> bytes:
    return (
        (16 + 4 * len(compatible)).to_bytes(4, "big") + b"ftyp" + brand + bytes(4) + b"".join(compatible) + bytes(600)
    )


JPEG = encode("JPEG")
PART = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: 9\r\n\r\n"
HEVC = bytes.fromhex("00000001 40010c01ffff 00000001 4201010160")
H264 = bytes.fromhex("00000001 6742c01eda 00000001 68ce3880 00000001 65b80004")
# name → content, and the kind by the content alone
CONTENT: dict[str, tuple[bytes, Kind]] = {
    "jpeg": (JPEG, PHOTO),
    "newline before a jpeg": (b"\n" + JPEG, PHOTO),
    "jpeg and a film behind it": (JPEG + box(b"mp42"), PHOTO),
    "jpeg and its small copy": (JPEG + encode("JPEG", quality=50), PHOTO),
    "mpo": (encode("MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))] * 3), PHOTO),
    "png": (encode("PNG"), PHOTO),
    "webp": (encode("WEBP"), PHOTO),
    "gif": (encode("GIF"), PHOTO),
    "bmp": (encode("BMP"), PHOTO),
    "tiff": (encode("TIFF"), PHOTO),
    "ppm": (encode("PPM"), PHOTO),
    "pbm": (encode("PPM", "1"), PHOTO),
    "heic": (box(b"heic", b"mif1"), PHOTO),
    "heic of a burst": (box(b"msf1", b"hevc"), PHOTO),
    "avif": (box(b"mif1", b"avif"), PHOTO),
    "dng": (tiff([strips(4, 3, 0, 12, t50706=0x0401)], blobs=[bytes(12)]), PHOTO),
    "raf": (b"FUJIFILMCCD-RAW 0201FF383501" + bytes(600), PHOTO),
    "cr3": (box(b"crx ", b"isom"), PHOTO),
    "orf": (b"IIRO\x08\0\0\0" + bytes(600), PHOTO),
    "rw2": (b"IIU\0\x18\0\0\0" + bytes(600), PHOTO),
    "x3f": (b"FOVb" + bytes(600), PHOTO),
    "mp4": (box(b"isom", b"mp41"), VIDEO),
    "mov without a type": (b"\0\0\0\x08wide\0\1\x1e\x44mdat" + bytes(600), VIDEO),
    "matroska": (b"\x1aE\xdf\xa3" + bytes(600), VIDEO),
    "avi": (b"RIFF1234AVI LIST" + bytes(600), VIDEO),
    "flv": (b"FLV\x01" + bytes(600), VIDEO),
    "asf": (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11" + bytes(600), VIDEO),
    "mxf": (bytes.fromhex("060e2b34020501010d0102010102") + bytes(600), VIDEO),
    "ivf": (b"DKIF\0\0 \0VP80" + bytes(600), VIDEO),
    "nut": (b"nut/multimedia container\0" + bytes(600), VIDEO),
    "transport stream": ((b"G" + bytes(187)) * 3, VIDEO),
    "transport stream of a camera": ((b"\0\0\0\0G" + bytes(187)) * 3, VIDEO),
    "program stream": (b"\0\0\x01\xba" + bytes(600), VIDEO),
    "bare mpeg-2": (b"\0\0\x01\xb3" + bytes(600), VIDEO),
    "bare h.264": (H264, VIDEO),
    "bare h.264 behind a delimiter": (b"\0\0\0\x01\x09\xf0" + H264, VIDEO),
    "bare hevc": (HEVC, VIDEO),
    "theora": (b"OggS\0\x02" + bytes(22) + b"\x80theora" + bytes(600), VIDEO),
    "motion jpeg": (JPEG * 3, VIDEO),
    "motion jpeg in parts": (PART + JPEG, VIDEO),
    "motion jpeg 2000": (b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypmjp2" + bytes(600), VIDEO),
    "vorbis": (b"OggS\0\x02" + bytes(22) + b"\x01vorbis" + bytes(600), OTHER),
    "m4a": (box(b"M4A ", b"isom"), OTHER),
    "wav": (b"RIFF1234WAVEfmt " + bytes(600), OTHER),
    "icon": (bytes.fromhex("00000100 0100 1010 0000 0100 2000") + bytes(600), OTHER),
    "start codes without parameters": (b"\0\0\x01\x65\x88" + bytes(600), OTHER),
    "thumbs.db": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), OTHER),
    "desktop.ini": (b"[.ShellClassInfo]\r\n", OTHER),
    "appledouble": (b"\0\x05\x16\x07\0\x02\0\0Mac OS X" + bytes(600), OTHER),
    "text": (b"the free software\n" * 99, OTHER),
    "text that begins like a bitmap": (b"BMW and other cars\n" * 99, OTHER),
    "text that begins like a pixmap": (b"P5 of the series\n" * 99, OTHER),
    "gzip": (b"\x1f\x8b\x08" + bytes(600), OTHER),
    "nothing": (b"", OTHER),
}
if features.check("jpg_2000"):
    CONTENT["jp2"] = encode("JPEG2000"), PHOTO
    CONTENT["j2k"] = encode("JPEG2000", no_jp2=True), PHOTO


@pytest.mark.parametrize("name", ["IMG_1", "a.jpg~", "a.dat", "a.txt", "a.ts"])
@pytest.mark.parametrize("content", CONTENT)
def test_content_decides_if_the_ending_does_not(tmp_path: Path, content: str, name: str) -> None:
    data, kind = CONTENT[content]
    (tmp_path / name).write_bytes(data)
    assert kind_in_folder(tmp_path / name) is kind
    assert is_video(tmp_path / name) is (kind is VIDEO or (name == "a.ts" and kind is OTHER))


@pytest.mark.parametrize("content", CONTENT)
def test_a_file_with_the_ending_of_a_photo(tmp_path: Path, content: str) -> None:
    data, kind = CONTENT[content]
    (tmp_path / "a.JPG").write_bytes(data)
    assert kind_in_folder(tmp_path / "a.JPG") is PHOTO, "its reader reports what is wrong"
    assert is_video(tmp_path / "a.JPG") is (kind is VIDEO and content != "motion jpeg")


@pytest.mark.parametrize("content", CONTENT)
def test_a_file_with_the_ending_of_a_video(tmp_path: Path, content: str) -> None:
    data, kind = CONTENT[content]
    (tmp_path / "a.mp4").write_bytes(data)
    assert kind_in_folder(tmp_path / "a.mp4") is VIDEO
    assert is_video(tmp_path / "a.mp4") is (kind is not PHOTO)


def test_motion_jpeg_of_any_length_by_its_ending(tmp_path: Path) -> None:
    for name in ("a.mjpeg", "a.MJPG"):
        (tmp_path / name).write_bytes(JPEG)
        assert is_video(tmp_path / name)


def test_the_longest_start_is_checked(tmp_path: Path) -> None:
    for data, _ in CONTENT.values():
        assert photo_format(data[:START]) == photo_format(data)


def test_files_are_opened_only_if_their_ending_does_not_decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def counting(path: str, *_: object) -> io.BytesIO:
        opened.append(path)
        return io.BytesIO(JPEG)

    monkeypatch.setattr("builtins.open", counting)
    names = ["a.jpg", "b.HEIC", "c.nef", "d.mov", "e.h264", "f", "g.jpg~"]
    for name in names:
        os.close(os.open(tmp_path / name, os.O_CREAT))
    assert [kind_in_folder(tmp_path / name) for name in names] == [PHOTO] * 3 + [VIDEO] * 2 + [PHOTO] * 2
    assert [os.path.basename(path) for path in opened] == ["f", "g.jpg~"]


def test_files_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, kind in (("link.jpg", PHOTO), ("link", OTHER)):
        (tmp_path / name).symlink_to("nowhere")
        assert kind_in_folder(tmp_path / name) is kind
    os.mkfifo(tmp_path / "pipe")
    assert kind_in_folder(tmp_path / "pipe") is OTHER
    assert kind_in_folder("a\0") is OTHER

    def refuses(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "closed").write_bytes(JPEG)
    monkeypatch.setattr("builtins.open", refuses)
    assert kind_in_folder(tmp_path / "closed") is PHOTO, "its reader reports why"


# Endings


@pytest.mark.parametrize("kind", KINDS)
def test_endings_of_what_pillow_writes(kind: str) -> None:
    if (kind == "AVIF" and not features.check("avif")) or (kind == "JPEG2000" and not features.check("jpg_2000")):
        pytest.skip(f"Pillow without {kind}")
    assert image_ending(encode(kind)) == KINDS[kind]
    assert KINDS[kind] in IMAGE_ENDINGS


def test_others() -> None:
    assert image_ending(encode("PPM", "L")) == ".pgm"
    assert image_ending(encode("PPM", "1")) == ".pnm"
    heic = (Path(__file__).parents[1] / "data" / "orientation6.heic").read_bytes()
    assert image_ending(heic) == ".heic"
    for nothing in (b"", b"<html>", b"\xff\xd8", b"RIFF1234WAVE", box(b"mp42"), CONTENT["raf"][0]):
        assert image_ending(nothing) is None
