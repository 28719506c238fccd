"""facespace tiny: the programs of Tiny-Face-Recognition, with the arguments they always had; one file a program."""

from __future__ import annotations

from facespace.cli.legacy.commands import family

PROGRAMS = {
    "mx2tfrecords": "MXNet RecordIO to TFRecord; now: dataset convert --to tfrecord.",
    "train": "Train ResNet-50 with ArcFace; now: train.",
    "eval_veri": "Measure a model on a .bin file; now: verify bin.",
}
app = family(
    "tiny", "The programs of Tiny-Face-Recognition, with their old arguments.", "facespace.cli.legacy.tiny", PROGRAMS
)
