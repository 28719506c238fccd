# /// script
# dependencies = ["torch==2.13.0", "numpy", "pillow", "opencv-python-headless", "requests", "tqdm"]
# [tool.bench]
# title = "facenet-pytorch"
# alone = ["facenet-pytorch==2.6.0"]
# advice = "none in its documentation"
# ///
"""facenet-pytorch: MTCNN and InceptionResnetV1 with torch.

Its package requires a torch of 2024, so it is installed without its requirements, and `stand_in` replaces the three functions
of torchvision that it calls. It contains no weights for its embedder: random ones are used, which does not change the speed, unless
PEER_MODELS contains 20180402-114759-vggface2.pt.
"""

import os
import sys
import types
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from PIL import Image


def nms(boxes, scores, iou_threshold):
    """torchvision.ops.boxes.nms: the kept of (N,4) boxes, best first."""
    corners, order, kept = boxes.double().numpy(), scores.argsort(descending=True).numpy(), []
    areas = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    while len(order):
        best, order = order[0], order[1:]
        kept.append(int(best))
        low, high = np.maximum(corners[best, :2], corners[order, :2]), np.minimum(corners[best, 2:], corners[order, 2:])
        shared = np.prod(np.maximum(high - low, 0), axis=1)
        order = order[shared <= iou_threshold * (areas[best] + areas[order] - shared)]
    return torch.tensor(kept, dtype=torch.int64)


def batched_nms(boxes, scores, groups, iou_threshold):
    """torchvision.ops.boxes.batched_nms: the same within each group alone, by moving groups apart."""
    if not len(boxes):
        return torch.zeros(0, dtype=torch.int64)
    return nms(boxes + groups.to(boxes)[:, None] * (boxes.max() + 1), scores, iou_threshold)


def to_tensor(image):
    """torchvision.transforms.functional.to_tensor: (H,W,C) to (C,H,W), bytes divided by 255."""
    pixels = np.array(image)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    return tensor.float() / 255 if pixels.dtype == np.uint8 else tensor.float()


def stand_in():
    for name, functions in (
        ("torchvision", {}),
        ("torchvision.ops", {}),
        ("torchvision.ops.boxes", {"nms": nms, "batched_nms": batched_nms}),
        ("torchvision.transforms", {}),
        ("torchvision.transforms.functional", {"to_tensor": to_tensor}),
    ):
        module = sys.modules[name] = types.ModuleType(name)
        vars(module).update(functions)
        parent, _, own = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], own, module)


stand_in()
from facenet_pytorch import MTCNN, InceptionResnetV1  # noqa: E402, it needs the stand-in


class Peer:
    def __init__(self):
        self.versions = {name: metadata.version(name) for name in ("facenet-pytorch", "torch")}
        torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
        self.mtcnn = MTCNN(keep_all=True)  # min_face_size=20, thresholds 0.6, 0.7, 0.7, image_size=160
        self.net = InceptionResnetV1().eval()
        weights = Path(os.environ.get("PEER_MODELS", ""), "20180402-114759-vggface2.pt")
        self.recognises = weights.is_file()
        if self.recognises:
            kept = torch.load(weights, weights_only=True)
            self.net.load_state_dict({key: value for key, value in kept.items() if not key.startswith("logits")})
        self.training = None

    def read(self, path):
        return Image.open(path).convert("RGB")

    def size(self, photo):
        return photo.size

    @torch.inference_mode()
    def detect(self, photo):
        boxes = self.mtcnn.detect(photo)[0]
        return [] if boxes is None else boxes

    @torch.inference_mode()
    def detect_many(self, photos):
        found = []
        for start in range(0, len(photos), 16):
            found += [[] if of_one is None else of_one for of_one in self.mtcnn.detect(photos[start : start + 16])[0]]
        return found

    def crops(self, n):
        return torch.randn(n, 3, 160, 160, generator=torch.Generator().manual_seed(0))

    @torch.inference_mode()
    def embed(self, crops):
        return self.net(crops)

    @torch.inference_mode()
    def represent(self, photo):
        boxes = self.mtcnn.detect(photo)[0]
        if boxes is None:
            return []
        features = self.net(self.mtcnn.extract(photo, boxes, None))
        return [(tuple(map(float, box)), row) for box, row in zip(boxes, features, strict=True)]

    def verdict(self, a, b):
        return -float((a - b).norm()), None

    @torch.inference_mode()
    def align(self, paths, out, size):
        """Crops of 160 px with a margin of 32 written into a folder, photos `size` a call."""
        mtcnn = MTCNN(image_size=160, margin=32, post_process=False)
        for start in range(0, len(paths), size):
            photos = [self.read(path) for path in paths[start : start + size]]
            crops = [str(Path(out, f"{size}-{start + k}.png")) for k in range(len(photos))]
            mtcnn(photos if size > 1 else photos[0], save_path=crops if size > 1 else crops[0])

    def train_step(self, n):
        """As in its example `finetune.ipynb`: cross entropy and Adam."""
        if self.training is None:
            torch.manual_seed(0)
            net = InceptionResnetV1(classify=True, num_classes=130).train()
            self.training = net, torch.optim.Adam(net.parameters(), lr=1e-3), self.crops(n), torch.arange(n) % 130
        net, optimizer, images, labels = self.training
        loss = torch.nn.functional.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())
