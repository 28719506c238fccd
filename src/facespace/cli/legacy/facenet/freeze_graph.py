"""facespace facenet freeze_graph: a trained model in one file."""

from __future__ import annotations

from pathlib import Path

from facespace.cli.legacy.arguments import Program, say_all, today
from facespace.cli.shared.output import say, write_line


def main(argv: list[str]) -> None:
    """Write the model as ONNX: TensorFlow's format of 2018 is read here, and not written."""
    parser = Program("facenet freeze_graph", "A trained model as one file: ONNX in the place of a TensorFlow graph.")
    parser.add_argument("model_dir", help="The folder of a checkpoint or of a training run, or a model folder.")
    parser.add_argument("output_file", help="The file; .pb becomes .onnx.")
    arguments = parser.parse(argv)
    out = Path(arguments.output_file).expanduser().with_suffix(".onnx")
    today("facespace", "export", arguments.model_dir, "--output", out)

    from facespace.conversion.exporter import export
    from facespace.formats.onnx_model import parse_model
    from facespace.models.opening import open_model

    if Path(arguments.output_file).suffix != ".onnx":
        say(
            f"no TensorFlow graph is written: {out} is ONNX, with what the model was trained to see in "
            f"{out.with_suffix('.json').name}; every command takes it, under the name {arguments.output_file} too"
        )
    write_line(f"Model directory: {arguments.model_dir}")
    open_model(arguments.model_dir)  # which says what is wrong with it before a folder is made
    out.parent.mkdir(parents=True, exist_ok=True)
    exported = export(arguments.model_dir, out)
    say_all(exported.remarks)
    write_line(f"{len(parse_model(out.read_bytes(), str(out)).graph.node)} ops in the final graph.")
    write_line(f"cosine to its source at least {exported.cosine:.6f} -> {out}")
