"""The layers of the package, read from its imports."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "facespace"

# A module imports only from layers above its own line here (function-level imports and TYPE_CHECKING included).
LAYERS = [
    [
        "errors",
        "text",
        "files",
        "rates",
        "resample",
        "pyramid",
        "distance",
        "ahead",
        "png",
        "masked_crc",
        "tracking",
        "wire_format",
    ],
    ["registry", "ranks", "optimizers", "sampling", "augmentation", "tensor_file", "report_page"],
    [
        "image",
        "onnx_graph",
        "face",
        "calibration",
        "network",
        "store",
        "verification",
        "backbones",
        "losses",
        "archive",
        "download",
    ],
    [
        "datasets",
        "graphdef",
        "tensorflow1_values",
        "quantization",
        "suppression",
        "mtcnn_networks",
        "draw",
        "crop_record",
        "intervals",
        "model_folder",
        "preprocessing_graph",
        "batch_norms",
        "onnx_export",
        "onnx_input_spec",
        "torch_network",
        "tensor_bundle",
        "checkpoint",
        "guards",
        "open_set",
        "similarity_graph",
    ],
    [
        "tensorflow1",
        "tensorflow1_folding",
        "tensorflow1_checkpoint",
        "mtcnn",
        "video",
        "face_table",
        "pretrained",
        "torch_weights",
        "foreign_onnx",
        "dataset_convert",
        "pair_sets",
        "schedules",
        "recipe",
        "batches",
        "training_step",
        "naming",
        "clustering",
    ],
    ["model_source", "align_journal", "run_folder", "camera", "classifier_evidence"],
    ["embedder", "fine_tuning", "run_log", "own_calibration"],
    ["gallery", "pipeline", "selftest", "aligner", "dataset_images", "classifier"],
    ["video_naming"],
    [
        "demo",
        "evaluation",
        "bin_verification",
        "dataset_copies",
        "sample_crops",
        "people_folder",
        "classifier_file",
        "classifier_test",
        "face_groups",
    ],
    ["video_drawing", "subtitles"],
    ["verification_report", "dataset_check", "convert", "export", "training_verification"],
    ["dataset_apply", "install", "training_state", "foreign_model", "classifier_report", "group_folders"],
    ["training_setup"],
    ["training"],
    ["dataset_report"],
    ["cli"],
]
LAYER = {module: depth for depth, modules in enumerate(LAYERS) for module in modules}
# The front door names every module lazily; `python -m facespace` opens the command line.
DOORS = {"__init__", "__main__"}
MAX_LINES = 400


def module_of(path: Path) -> str:
    """`face` for face.py, `cli` for everything in cli/."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imported_by(path: Path) -> set[str]:
    """Modules of facespace that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "facespace":
                names |= {alias.name for alias in node.names}
            elif node.module and node.module.startswith("facespace."):
                names.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("facespace.")}
            assert not any(alias.name == "facespace" for alias in node.names), f"{path}: imports the front door"
    return names - {"__version__"}


def test_every_module_has_its_layer():
    assert {module_of(path) for path in sources()} - DOORS == set(LAYER)
    assert len(LAYER) == sum(len(modules) for modules in LAYERS)


@pytest.mark.parametrize("path", [path for path in sources() if module_of(path) not in DOORS], ids=lambda p: p.stem)
def test_imports_go_down(path):
    module = module_of(path)
    for name in imported_by(path):
        assert name in LAYER, f"{module} imports {name}, which is no module of facespace"
        if not (module == name and name in ("cli", "datasets", "backbones", "losses")):
            assert LAYER[name] < LAYER[module], f"{module} imports {name}, which lies no deeper"


def test_the_test_reads_imports_in_functions():
    assert "draw" in imported_by(PACKAGE / "cli" / "output.py")
    assert "face" in imported_by(PACKAGE / "pipeline.py")


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_is_too_long_to_read(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def test_no_module_has_a_name_that_says_nothing():
    assert not {path.stem for path in sources()} & {"utils", "util", "helpers", "common", "base", "manager", "misc"}


def test_the_architecture_page_names_every_module():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for module in LAYER:
        assert re.search(rf"\b{module}(\.py|/|`|\b)", page), f"docs/architecture.md does not name {module}"
