"""MXNet's part of recordio_real.py: prints one JSON line. Run with a Python that has MXNet (3.8 did).

usage: peer_recordio.py versions | read FOLDER | write IMAGES OUT one|two
"""

import hashlib
import json
import os
import sys

import mxnet as mx
import numpy as np


def versions():
    python = ".".join(map(str, sys.version_info[:3]))
    return f"MXNet {mx.__version__}, NumPy {np.__version__}, Python {python}"


def read(folder):
    """What insightface's `MXFaceDataset` sees: key, label and SHA-256 of every image; and the identities' ranges."""
    records = mx.recordio.MXIndexedRecordIO(os.path.join(folder, "train.idx"), os.path.join(folder, "train.rec"), "r")
    header, _ = mx.recordio.unpack(records.read_idx(0))
    ranges = []
    if header.flag > 0:
        n0, n1 = int(header.label[0]), int(header.label[1])
        keys = list(range(1, n0))
        for key in range(n0, n1):
            bounds, rest = mx.recordio.unpack(records.read_idx(key))
            assert not rest
            ranges.append([int(bounds.label[0]), int(bounds.label[1])])
    else:
        keys = list(records.keys)
    images = []
    for key in keys:
        header, content = mx.recordio.unpack(records.read_idx(key))
        label = header.label if isinstance(header.label, float) else header.label[0]
        images.append([key, int(label), hashlib.sha256(content).hexdigest()])
    in_order = mx.recordio.MXRecordIO(os.path.join(folder, "train.rec"), "r")
    n_in_order = 0
    while in_order.read() is not None:
        n_in_order += 1
    return {"images": images, "ranges": ranges, "n_in_order": n_in_order}


def write(folder, out, labels):
    """The images of a list of (label, file) in insightface's layout; `two` labels each, as its script writes them."""
    with open(os.path.join(folder, "list.json")) as stream:
        rows = json.load(stream)
    records = mx.recordio.MXIndexedRecordIO(os.path.join(out, "train.idx"), os.path.join(out, "train.rec"), "w")
    starts = []
    for key, (label, name) in enumerate(rows, 1):
        if key == 1 or label != rows[key - 2][0]:
            starts.append(key)
        with open(os.path.join(folder, name), "rb") as stream:
            content = stream.read()
        header = mx.recordio.IRHeader(0, [label, key] if labels == "two" else label, key, 0)
        records.write_idx(key, mx.recordio.pack(header, content))
    n0 = len(rows) + 1
    bounds = [*starts, n0]
    for k in range(len(starts)):
        header = mx.recordio.IRHeader(2, bounds[k : k + 2], n0 + k, 0)
        records.write_idx(n0 + k, mx.recordio.pack(header, b""))
    header = mx.recordio.IRHeader(2, [n0, n0 + len(starts)], 0, 0)
    records.write_idx(0, mx.recordio.pack(header, b""))
    records.close()


if __name__ == "__main__":
    print(json.dumps({"versions": versions, "read": read, "write": write}[sys.argv[1]](*sys.argv[2:])))
