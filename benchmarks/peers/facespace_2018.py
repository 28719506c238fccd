# /// script
# dependencies = []
# [tool.bench]
# title = "facespace, 2018's model"
# project = true
# advice = "its default error rates"
# ///
"""This project with FaceNet's model of 2018 and MTCNN, the networks that most of the peers use."""

import importlib.util
from pathlib import Path

spec = importlib.util.spec_from_file_location("bench_facespace", Path(__file__).with_name("facespace.py"))
default = importlib.util.module_from_spec(spec)
spec.loader.exec_module(default)


class Peer(default.Peer):
    model = "casia-webface"
    leaves_out = ("train_step", "search")  # they do not depend on the model
