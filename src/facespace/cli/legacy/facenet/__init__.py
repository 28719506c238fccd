"""facespace facenet: the programs of the FaceNet tutorials with their original arguments, one file per program."""

from __future__ import annotations

from facespace.cli.legacy.commands import command_group

PROGRAMS = {
    "align_dataset_mtcnn": "Find the face of each photo and save it as a crop; now: align.",
    "train_softmax": "Train with softmax and center loss; now: train facenet-casia-2017.",
    "train_tripletloss": "Train with triplet loss; now: train facenet-triplet.",
    "validate_on_lfw": "Measure a model on the pairs of LFW; now: verify lfw.",
    "classifier": "Train a classifier, or test one; now: classify train, classify test.",
    "compare": "Print the distances between the faces of photos; now: compare.",
    "predict": "Name the faces of photos; now: classify predict.",
    "export_embeddings": "Write embeddings, labels and names of class folders as .npy; now: embed.",
    "batch_represent": "Write embeddings and labels of class folders as .npy; now: embed.",
    "cluster": "Sort the faces of photos into one folder per person; now: cluster.",
    "freeze_graph": "Write a trained model as one file, in ONNX; now: export.",
}
app = command_group(
    "facenet",
    "Run the programs of the FaceNet tutorials with their original arguments.",
    "facespace.cli.legacy.facenet",
    PROGRAMS,
)
