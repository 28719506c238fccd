"""facespace tiny mx2tfrecords: MXNet RecordIO to a TFRecord file."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from facespace.cli.legacy.arguments import Program, say_equivalent
from facespace.cli.shared.output import write_line
from facespace.errors import DatasetError
from facespace.io.text import plain_text

if TYPE_CHECKING:
    from facespace.datasets.protocol import LabelledImages

_EVERY = 10_000


def main(argv: list[str]) -> None:
    """Write the images unchanged to DIR/tran.tfrecords, the old program's spelling, and read them back to check them."""
    parser = Program("tiny mx2tfrecords", "Convert train.rec and train.idx to DIR/tran.tfrecords.")
    parser.flags(
        ("--bin_path", "/data/ChuyuanXiong/up/face/faces_emore/train.rec", "The .rec file to read."),
        ("--idx_path", "/data/ChuyuanXiong/up/face/faces_emore/train.idx", "Its .idx file."),
        (
            "--tfrecords_file_path",
            "/data/ChuyuanXiong/up/face/tfrecords",
            "The folder to write to; it must be empty or not exist.",
        ),
    )
    arguments = parser.parse(argv)
    rec, idx, out = (
        Path(given).expanduser() for given in (arguments.bin_path, arguments.idx_path, arguments.tfrecords_file_path)
    )
    say_equivalent("facespace", "dataset", "convert", rec, out, "--to", "tfrecord")
    for path in (rec, idx):
        if not path.is_file():
            raise DatasetError(f"{plain_text(str(path))}: no such file")

    from facespace.datasets.convert import convert_dataset
    from facespace.datasets.formats.tfrecord import FILE_NAME

    shown = 0

    def show(done: int, total: int) -> None:
        nonlocal shown
        copied = min(done, total // 2)  # the second half is reading back
        while shown + _EVERY <= copied:
            shown += _EVERY
            write_line(f"{shown} num image processed")

    with _opened(rec, idx) as source:
        made = convert_dataset(source, out, to="tfrecord", progress=show)
    write_line(f"id2range {made.n_identities}")
    write_line(f"{made.n_images} images -> {plain_text(str(out / FILE_NAME))}; checksum {made.checksum}")


@contextmanager
def _opened(rec: Path, idx: Path) -> Iterator[Path | LabelledImages]:
    """Open the .rec file. If its index has another name or folder, link both into a temporary folder first."""
    if os.path.realpath(rec.with_suffix(".idx")) == os.path.realpath(idx):
        yield rec
        return
    from facespace.datasets.formats.recordio import RecordImages

    together = tempfile.mkdtemp(prefix="facespace-")
    try:
        named = [(rec, "train.rec"), (idx, "train.idx"), (rec.with_name("property"), "property")]
        for path, name in named:
            if path.is_file():
                os.symlink(os.path.abspath(path), os.path.join(together, name))
        yield RecordImages(os.path.join(together, "train.rec"))
    finally:
        shutil.rmtree(together, ignore_errors=True)
