"""facespace tiny: the programs of Tiny-Face-Recognition with their original arguments, one file per program."""

from __future__ import annotations

from facespace.cli.legacy.commands import command_group

PROGRAMS = {
    "mx2tfrecords": "Convert MXNet RecordIO to TFRecord; now: dataset convert --to tfrecord.",
    "train": "Train ResNet-50 with ArcFace; now: train.",
    "eval_veri": "Measure a model on a .bin file; now: verify bin.",
}
app = command_group(
    "tiny",
    "Run the programs of Tiny-Face-Recognition with their original arguments.",
    "facespace.cli.legacy.tiny",
    PROGRAMS,
)
