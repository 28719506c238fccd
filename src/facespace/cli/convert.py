"""facespace convert: convert models of other programs to model folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facespace.cli.shared.options import Json
from facespace.cli.shared.output import write_json, write_line


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A TensorFlow 1 .pb or checkpoint folder, an ONNX file, torch weights, or a model name.",
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The model folder to write; it must not exist.")],
    input_spec: Annotated[
        str | None,
        typer.Option(
            "--input-spec",
            metavar="facenet-2018|facenet-2017|arcface-112|FILE.json",
            help="The preprocessing of the network, if its file does not define it.",
        ),
    ] = None,
    crops: Annotated[
        Path | None,
        typer.Option("--crops", metavar="DIR", help="Aligned crops, from which folded batch norms are restored."),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the model; by default that of the file.")] = None,
    json: Json = False,
) -> None:
    """Convert a model to a model folder, which --model accepts."""
    from facespace.conversion.converter import convert as convert_model
    from facespace.faces.input_spec import INPUT_SPECS, describe_spec
    from facespace.models.spec_file import read_spec

    spec = None
    if input_spec is not None and input_spec in INPUT_SPECS:
        spec = INPUT_SPECS[input_spec]
    elif input_spec is not None:
        if not Path(input_spec).is_file():
            raise typer.BadParameter(
                f"must be a preset ({', '.join(INPUT_SPECS)}) or a file, got {input_spec}", param_hint="--input-spec"
            )
        spec = read_spec(Path(input_spec))
    conversion = convert_model(source, out, input_spec=spec, crops=crops, name=name)
    record = conversion.record
    if json:
        write_json({**record.as_dict(), "remarks": conversion.remarks, "folder": str(out)})
        return
    for remark in conversion.remarks:
        write_line(remark)
    network = record.backbone or "unknown network"
    write_line(
        f"{record.source['format']}: {network}, {record.dimension} dimensions, "
        f"input {describe_spec(record.input_spec)} -> {out} ({', '.join(record.files)})"
    )
