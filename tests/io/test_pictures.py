"""Pictures are encoded in memory, so a disk that stores only a part gives an error, and the old picture is kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facespace.io import pictures


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8))


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {"quality": 95}), ("WEBP", {"lossless": True}), ("PNG", {})])
def test_a_picture_is_what_pillow_writes(tmp_path: Path, kind: str, options: dict[str, object]) -> None:
    pictures.save(noise(), tmp_path / "a", kind, **options)
    noise().save(tmp_path / "b", kind, **options)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == pictures.encode(noise(), kind, **options)


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of a file's size")
@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG"])
def test_a_picture_cut_short_is_an_error(tmp_path: Path, kind: str) -> None:
    """Files are limited to 20,000 bytes; a larger write is done in part, as on a full disk."""
    target = tmp_path / "a"
    target.write_text("old")
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from test_pictures import noise; from facespace.io import pictures\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "try: pictures.save(noise(), Path(sys.argv[1]), sys.argv[2])\n"
        "except OSError as error: print(error.strerror)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, target, kind],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent,
    )
    assert done.stdout == "File too large\n"
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]
