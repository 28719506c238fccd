"""Tests networks compiled by ONNX Runtime: names, shapes and results; see also test_onnx_network and test_kept_networks."""

from __future__ import annotations

import numpy as np
import pytest

from facespace.errors import RuntimeUnavailable
from facespace.runtime import onnxruntime_session
from facespace.runtime.onnxruntime_session import OnnxRuntimeSession, check_cuda, with_fast_operators
from support.tiny_model import SIZE, tiny_model


@pytest.mark.parametrize("side_by_side", [False, True])
def test_names_shapes_and_threads(monkeypatch: pytest.MonkeyPatch, side_by_side: bool) -> None:
    monkeypatch.setattr(onnxruntime_session, "usable_cores", lambda: 3)
    session = OnnxRuntimeSession(tiny_model(), side_by_side=side_by_side)
    assert session._session.get_session_options().intra_op_num_threads == (1 if side_by_side else 3)
    (shape,) = session.inputs.values()
    assert isinstance(shape[0], str) and shape[1:] == [SIZE, SIZE, 3]
    (found,) = session.run([np.zeros((2, SIZE, SIZE, 3), np.float32)])
    (declared,) = session.outputs.values()
    assert found.shape == (2, declared[1])


def test_a_gpu_that_the_library_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(RuntimeUnavailable, match=r"^device cuda: .* pip install 'onnxruntime-gpu\[cuda,cudnn\]'$"):
        check_cuda()


def test_models_without_prelu_are_not_rewritten() -> None:
    data = tiny_model()
    assert with_fast_operators(lambda: data, "tiny.onnx") is data
