"""facespace facenet: the programs of the FaceNet tutorials, with the arguments they always had; one file a program."""

from __future__ import annotations

from facespace.cli.legacy.commands import family

PROGRAMS = {
    "align_dataset_mtcnn": "Find and cut out a face a photo; now: align.",
    "train_softmax": "Train with softmax and center loss; now: train facenet-casia-2017.",
    "train_tripletloss": "Train with triplet loss; now: train facenet-triplet.",
    "validate_on_lfw": "Measure a model on the pairs of LFW; now: verify lfw.",
    "classifier": "Learn people, or name them; now: classify train, classify test.",
    "compare": "Distances between the faces of photos; now: compare.",
    "predict": "Name the faces of photos; now: classify predict.",
    "export_embeddings": "Embeddings, labels and names of a folder as .npy; now: embed.",
    "batch_represent": "Embeddings and labels of a folder as .npy; now: embed.",
    "cluster": "Sort the faces of photos by person; now: cluster.",
    "freeze_graph": "One file of a trained model; ONNX now: export.",
}
app = family(
    "facenet",
    "The programs of the FaceNet tutorials, with their old arguments.",
    "facespace.cli.legacy.facenet",
    PROGRAMS,
)
