"""Decides whether a file is a photo, a video, or neither, for every command and reader.

The first bytes decide. When a folder is searched, the ending of a photo or video is trusted, so that folders of hundreds of
thousands of photos are not opened twice; the reader of such a file reports what is wrong with it. All other files are
opened, so a photo without an ending, or with a name such as `a.jpg~`, is found too.
"""

from __future__ import annotations

import enum
import os
import re
import stat
from typing import BinaryIO

from facespace.io.motion_jpeg import follows_itself

START = 512  # bytes that identify a file's format


class Kind(enum.Enum):
    """The kind of a file."""

    PHOTO = "photo"
    VIDEO = "video"
    OTHER = "other"


_PHOTOS = (
    "jpg jpeg jpe jfif mpo png webp bmp dib gif tif tiff ppm pgm pbm pnm pfm avif heic heif hif jp2 j2k jpc j2c jpf jpx"
)
_RAW_PHOTOS = "dng nef nrw cr2 cr3 crw arw srf sr2 orf rw2 raf pef srw x3f mrw 3fr iiq erf kdc dcr rwl"
_VIDEOS = (
    "mp4 m4v mov qt mkv webm avi mpg mpeg m1v m2v mpv vob ts mts m2ts flv wmv asf ogv 3gp 3g2 mj2 mxf ivf nut "
    "h264 264 avc h265 265 hevc"
)
IMAGE_ENDINGS = frozenset(f".{ending}" for ending in f"{_PHOTOS} {_RAW_PHOTOS}".split())
MOTION_JPEG_ENDINGS = frozenset({".mjpeg", ".mjpg", ".mjpe"})
VIDEO_ENDINGS = MOTION_JPEG_ENDINGS | {f".{ending}" for ending in _VIDEOS.split()}
_SHARED_ENDINGS = {".ts", ".mts"}  # also the endings of TypeScript sources

_RAW_STARTS = (
    (b"FUJIFILMCCD-RAW", "Fujifilm RAF"),
    (b"FOVb", "Sigma X3F"),
    (b"IIRO", "Olympus ORF"),
    (b"IIRS", "Olympus ORF"),
    (b"MMOR", "Olympus ORF"),
    (b"IIU\0", "Panasonic RW2"),
    (b"\0MRM", "Minolta MRW"),
)
_HEIC_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis"}
_AVIF_BRANDS = {b"avif", b"avis"}
_SOUND_BRANDS = {b"M4A ", b"M4B ", b"M4P "}
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"MM*\0", b"II\0*", b"MM\0+", b"II+\0")
_BMP_HEADERS = {12, 16, 40, 52, 56, 64, 108, 124}
_PPM = re.compile(rb"P[1-6fFy]\s+(?:#[^\n]*\n\s*)*\d")
_JPEG = b"\xff\xd8\xff"
_STRAY = 16  # the most bytes in front of a JPEG that are skipped
_VIDEO_STARTS = (
    b"\x1aE\xdf\xa3",  # Matroska, WebM
    b"FLV\x01",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",  # ASF
    b"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02\x01\x01\x02",  # MXF
    b"DKIF",  # IVF
    b"nut/multimedia container\0",
    b"\0\0\x01\xba",  # MPEG program stream
    b"\0\0\x01\xb3",  # MPEG-1 or -2 video without a container
)
_QUICKTIME_BOXES = {b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"}
_OGG_VIDEO = (b"\x80theora", b"OVP80", b"BBCD\0")
_H264_PROFILES = {44, 66, 77, 83, 86, 88, 100, 110, 118, 122, 128, 134, 135, 138, 139, 144, 244}
_START_CODE = re.compile(rb"\0\0\x01(.)(.?)", re.DOTALL)
_MULTIPART = re.compile(rb"--[^\r\n]{1,200}\r?\n(?:[^\r\n]+\r?\n)*?content-type:\s*image/jpe?g", re.IGNORECASE)


def photo_format(start: bytes) -> str:
    """Return the format of a photo by its first `START` bytes; "" if unknown, "RAW" for a raw photo that is not a TIFF.

    >>> photo_format(b"RIFF....WEBPVP8 "), photo_format(b"<html>")
    ('WEBP', '')
    """
    if start.startswith(_JPEG):
        return "JPEG"
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WEBP"
    if start.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if start.startswith(_TIFF_STARTS):
        return "TIFF"
    if start.startswith(b"BM") and int.from_bytes(start[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    if start.startswith(b"\xff\x4f\xff\x51") or (start.startswith(b"\0\0\0\x0cjP  \r\n\x87\n") and not _is_mj2(start)):
        return "JPEG2000"
    if _PPM.match(start):
        return "PPM"
    if raw_format(start):
        return "RAW"
    if start[4:8] == b"ftyp":
        brand, box = start[8:12], start[: int.from_bytes(start[:4], "big")]
        compatible = {box[at : at + 4] for at in range(16, len(box), 4)}
        if brand in _AVIF_BRANDS or (brand in (b"mif1", b"msf1") and compatible & _AVIF_BRANDS):
            return "AVIF"
        if brand in _HEIC_BRANDS or brand in (b"mif1", b"msf1"):
            return "HEIC"
    return "JPEG" if stray_bytes(start) else ""


def stray_bytes(start: bytes) -> int:
    """Return the number of stray bytes in front of a JPEG; 0 for everything else.

    >>> stray_bytes(b"\\n\\xff\\xd8\\xff\\xe0"), stray_bytes(b"\\xff\\xd8\\xff\\xe0"), stray_bytes(b"text")
    (1, 0, 0)
    """
    return max(start.find(_JPEG, 1, _STRAY + len(_JPEG)), 0) if not start.startswith(_JPEG) else 0


def raw_format(start: bytes) -> str:
    """Return the name of the format of a raw photo that is not a TIFF file; "" for everything else.

    >>> raw_format(b"FUJIFILMCCD-RAW 0201")
    'Fujifilm RAF'
    """
    if start[4:12] == b"ftypcrx ":
        return "Canon CR3"
    if start[6:14] == b"HEAPCCDR":
        return "Canon CRW"
    return next((name for begin, name in _RAW_STARTS if start.startswith(begin)), "")


def image_ending(encoded: bytes) -> str | None:
    """Return the file ending for an encoded image; None for an unknown format.

    >>> image_ending(b"RIFF....WEBPVP8 "), image_ending(b"<html>")
    ('.webp', None)
    """
    image_format = photo_format(encoded[:START])
    if image_format == "PPM":
        return {b"5": ".pgm", b"6": ".ppm"}.get(encoded[1:2], ".pnm")
    if image_format == "JPEG2000":
        return ".j2k" if encoded.startswith(b"\xff\x4f") else ".jp2"
    endings = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "TIFF": ".tif", "BMP": ".bmp"}
    return {**endings, "AVIF": ".avif", "HEIC": ".heic"}.get(image_format)


def is_video(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is a video: it begins like one, or has the ending of one and is not a photo.

    Nothing is decoded and PyAV is not needed. A file that cannot be opened is not a video; reading it as a photo reports why.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "holiday")
    ...     with open(path, "wb") as file:
    ...         _ = file.write(b"\\x00\\x00\\x00\\x18ftypmp42")
    ...     is_video(path), is_video(folder)
    (True, False)
    """
    try:
        start, motion_jpeg = _look(os.fspath(path))
    except (OSError, ValueError):  # ValueError: an impossible file name
        return False
    if start is None:
        return False
    if motion_jpeg or video_start(start):
        return True
    return _ending(path) in VIDEO_ENDINGS and not photo_format(start)


def kind_in_folder(path: str | os.PathLike[str]) -> Kind:
    """Return the kind of a file found in a folder; the file is opened only if its ending does not decide.

    A file that exists but cannot be opened counts as a photo, so that the reader of photos reports why.

    >>> kind_in_folder("not there.JPG"), kind_in_folder("not there.mov"), kind_in_folder("not there.txt")
    (<Kind.PHOTO: 'photo'>, <Kind.VIDEO: 'video'>, <Kind.OTHER: 'other'>)
    """
    ending = _ending(path)
    if ending in IMAGE_ENDINGS:
        return Kind.PHOTO
    if ending in VIDEO_ENDINGS and ending not in _SHARED_ENDINGS:
        return Kind.VIDEO
    try:
        start, motion_jpeg = _look(os.fspath(path))
    except (FileNotFoundError, ValueError):  # a broken link; an impossible file name
        return Kind.OTHER
    except OSError:
        return Kind.PHOTO
    if start is None:
        return Kind.OTHER
    if motion_jpeg or video_start(start):
        return Kind.VIDEO
    return Kind.PHOTO if photo_format(start) else Kind.OTHER


def video_start(start: bytes) -> bool:
    """Return whether the first `START` bytes of a file are those of a video: a container, or a bare stream.

    >>> video_start(b"\\0\\0\\0\\1\\x67\\x42\\0\\x1e"), video_start(b"\\xff\\xd8\\xff\\xe0")
    (True, False)
    """
    if photo_format(start):
        return False
    if start[4:8] == b"ftyp":
        return start[8:12] not in _SOUND_BRANDS
    if start[4:8] in _QUICKTIME_BOXES and start[0] < 0x20:  # first byte of a size, not of text
        return True
    # Packets of 188 bytes; in files of cameras, 4 more bytes precede each.
    transport = any(start[at : at + 1 + 2 * size : size] == b"GGG" for at, size in ((0, 188), (4, 192)))
    return (
        transport
        or start.startswith(_VIDEO_STARTS)
        or (start[:4] == b"RIFF" and start[8:12] == b"AVI ")
        or (start[:4] == b"OggS" and any(codec in start for codec in _OGG_VIDEO))
        or _is_mj2(start)
        or _MULTIPART.match(start) is not None
        or _is_bare_stream(start)
    )


def _is_mj2(start: bytes) -> bool:
    return start[4:8] == b"jP  " and start[16:24] == b"ftypmjp2"


def _is_bare_stream(start: bytes) -> bool:
    """Return whether the bytes are H.264 or HEVC without a container: NAL units with parameter sets (Annex B)."""
    if not start.startswith((b"\0\0\x01", b"\0\0\0\x01")):
        return False
    units = [(found[1][0], start[found.end(1) : found.end(1) + 2]) for found in _START_CODE.finditer(start)]
    first = units[0][0] if units else 0xFF
    h264 = first & 0x9F in (6, 7, 9) and any(
        header & 0x9F == 7 and header & 0x60 and behind[:1] and behind[0] in _H264_PROFILES for header, behind in units
    )
    hevc = first & 0x81 == 0 and first >> 1 in (32, 33, 35, 39) and any(
        header == 0x40 and behind[:1] == b"\x01" for header, behind in units
    )  # fmt: skip
    return h264 or hevc


def _look(path: str) -> tuple[bytes | None, bool]:
    """Return the first bytes of a file (None if it is not a regular file), and whether it is Motion JPEG."""
    if not stat.S_ISREG(os.stat(path).st_mode):  # opening a fifo would wait for its writer
        return None, False
    with open(path, "rb") as file:
        start = file.read(START)
        return start, start.startswith(_JPEG) and is_motion_jpeg(file, path)


def is_motion_jpeg(file: BinaryIO, name: str) -> bool:
    """Return whether a file that begins with a JPEG is Motion JPEG: by its ending, or because more frames follow.

    A file with the ending of a photo is a photo: phones append panoramas, depth maps and motion pictures to photos.
    """
    ending = _ending(name)
    if ending in MOTION_JPEG_ENDINGS or ending in IMAGE_ENDINGS:
        return ending in MOTION_JPEG_ENDINGS
    return follows_itself(file)


def _ending(path: str | os.PathLike[str]) -> str:
    return os.path.splitext(os.fsdecode(path))[1].lower()
