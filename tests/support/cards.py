"""A named model that is not on any web server, and a stub of its conversion."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from facespace.faces.input_spec import InputSpec
from facespace.models.folder import ONNX, ModelRecord, write_model
from facespace.models.zoo import MODELS

RUN = "20180402-114759"


GRAPH = b"\x0agraph" + os.urandom(1000)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in members.items():
            file.writestr(zipfile.ZipInfo(name), data)  # without a date, so that the bytes are the same each time
    return buffer.getvalue()


ZIP = zipped({f"{RUN}/{RUN}.pb": GRAPH, f"{RUN}/model-{RUN}.meta": b"meta"})


CARD = replace(MODELS[f"facenet-{RUN}"], sha256=sha256(ZIP), graph_sha256=sha256(GRAPH))


class Converter:
    """Replaces `convert`: records its arguments, and writes a model folder that contains the source."""

    def __init__(self) -> None:
        self.sources: list[Path] = []
        self.error: BaseException | None = None

    def __call__(
        self, source: Path, out: Path, *, input_spec: InputSpec, name: str, origin: dict[str, Any]
    ) -> SimpleNamespace:
        self.sources.append(source)
        if self.error is not None:
            out.with_name("rubbish").write_bytes(b"x")
            raise self.error
        data = source.read_bytes() if source.is_file() else b"".join(sorted(map(Path.read_bytes, source.iterdir())))
        record = ModelRecord(name, sha256(data), 512, input_spec, source={"format": "test", **origin})
        write_model(out, record, {ONNX: data})
        return SimpleNamespace(record=record, remarks=["a remark"])
