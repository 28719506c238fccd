"""facespace facenet freeze_graph: a trained model in one file."""

from __future__ import annotations

from pathlib import Path

from facespace.cli.legacy.arguments import Program, say_all, say_equivalent
from facespace.cli.shared.output import say, write_line


def main(argv: list[str]) -> None:
    """Write the model as ONNX. TensorFlow 1 graphs can be read, but not written."""
    parser = Program(
        "facenet freeze_graph", "Write a trained model as one ONNX file; the old program wrote a TensorFlow graph."
    )
    parser.add_argument("model_dir", help="A checkpoint folder, a training run, or a model folder.")
    parser.add_argument("output_file", help="The file to write; its ending becomes .onnx.")
    arguments = parser.parse(argv)
    out = Path(arguments.output_file).expanduser().with_suffix(".onnx")
    say_equivalent("facespace", "export", arguments.model_dir, "--output", out)

    from facespace.conversion.exporter import export
    from facespace.formats.onnx_model import parse_model
    from facespace.models.opening import open_model

    if Path(arguments.output_file).suffix != ".onnx":
        say(
            f"writing ONNX instead of a TensorFlow graph: {out}, with its preprocessing in "
            f"{out.with_suffix('.json').name}; every command accepts it, also under the name {arguments.output_file}"
        )
    write_line(f"Model directory: {arguments.model_dir}")
    open_model(arguments.model_dir)  # so that a bad model is reported before a folder is made
    out.parent.mkdir(parents=True, exist_ok=True)
    exported = export(arguments.model_dir, out)
    say_all(exported.remarks)
    write_line(f"{len(parse_model(out.read_bytes(), str(out)).graph.node)} ops in the final graph.")
    write_line(f"cosine similarity to its source at least {exported.cosine:.6f} -> {out}")
