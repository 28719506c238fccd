"""Writes the command reference from the commands themselves: docs/commands.md and a page in docs/commands/ for each command.

    .venv/bin/python scripts/command_reference.py

Usage, help texts, options and defaults are read from the commands, the example of each from `EXAMPLES`. Run it after a
change of a help text; tests/cli/test_command_reference.py fails when the pages and the commands differ.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
import typing
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import typer
from typer.models import ParameterInfo

from facespace.cli.legacy.arguments import Program
from facespace.cli.legacy.commands import Verbatim
from facespace.cli.main import app

DOCS = Path(__file__).resolve().parents[1] / "docs"
INTRODUCTION = """# Commands

`facespace COMMAND --help` prints what these pages say: usage, options and defaults of each command. They are written by
`scripts/command_reference.py`, so change the help texts, not the pages.

A file that cannot be read is named on stderr and the run goes on. The exit code is 0 when everything was read, 1 when
something failed, 2 for a wrong command line. Results go to stdout, remarks and progress to stderr.
"""
# What is code in a help text: words in backticks, options, and names with an underscore.
_CODE = re.compile(r"(`[^`]+`|(?<![\w-])--[a-z][\w-]*|[\w./]*\w_\w[\w./]*\w)")
# What a user types, for each command. A group has the examples of its commands; `serve` and `models` are commands, too.
EXAMPLES = {
    "detect": "facespace detect party.jpg --draw drawn/",
    "compare": "facespace compare a.jpg b.jpg",
    "embed": "facespace embed photos/ --output faces.npz",
    "enroll": 'facespace enroll --gallery people.gallery "Ada Lovelace" ada1.jpg ada2.jpg',
    "identify": "facespace identify --gallery people.gallery party.jpg --draw named/",
    "watch": "facespace watch door=rtsp://192.168.1.20/live --gallery people.gallery",
    "gallery list": "facespace gallery list people.gallery",
    "gallery show": 'facespace gallery show people.gallery "Ada Lovelace"',
    "gallery rename": "facespace gallery rename people.gallery Ada Augusta",
    "gallery remove": "facespace gallery remove people.gallery Ada --photo 3",
    "gallery merge": "facespace gallery merge people.gallery Ada Augusta --into Ada",
    "gallery split": "facespace gallery split people.gallery Ada --photo 3,5-7 --to Byron",
    "gallery reject": "facespace gallery reject people.gallery Ada --photo 3",
    "gallery set": 'facespace gallery set people.gallery Ada --external-id 1815 --metadata \'{"team": "engine"}\'',
    "gallery templates": "facespace gallery templates people.gallery best",
    "gallery log": "facespace gallery log people.gallery --limit 20",
    "gallery undo": "facespace gallery undo people.gallery",
    "gallery erase": "facespace gallery erase people.gallery --older-than 30",
    "gallery retention": "facespace gallery retention people.gallery 30",
    "gallery check": "facespace gallery check people.gallery",
    "gallery collections": "facespace gallery collections people.gallery",
    "gallery export": "facespace gallery export people.gallery people.facespace",
    "gallery import": "facespace gallery import other.gallery people.facespace",
    "gallery migrate": "facespace gallery migrate people.gallery --model arcface.onnx",
    "gallery copy": "facespace gallery copy people.gallery postgresql://user@host/database",
    "serve": "facespace serve --gallery people.gallery --port 8000",
    "serve key create": 'facespace serve key create --role identify --label "front door" --expires 90d',
    "serve key list": "facespace serve key list",
    "serve key revoke": "facespace serve key revoke 3f2a9c0d1b7e",
    "classify train": "facespace classify train people/ --output people.classifier --report report/",
    "classify test": "facespace classify test people.classifier held-out/",
    "classify predict": "facespace classify predict people.classifier party.jpg --draw named/",
    "calibrate": "facespace calibrate people.gallery labelled/ --rate 0.01",
    "cluster": "facespace cluster photos/ --output grouped/",
    "align": "facespace align raw/ crops/ --image-size 182 --crop-margin 44",
    "dataset check": "facespace dataset check crops/ --against lfw-160/ --output check/",
    "dataset convert": "facespace dataset convert faces_emore/ shards/ --to webdataset",
    "verify lfw": "facespace verify lfw lfw/ --pairs pairs.txt --output report/",
    "verify bin": "facespace verify bin agedb_30.bin --model my_arcface.onnx",
    "verify pairs": "facespace verify pairs mine.csv --root photos/ --threshold-from pairsDevTrain.txt",
    "train": "facespace train fine-tune data=crops/ --output runs/mine",
    "runs": "facespace runs runs/",
    "convert": "facespace convert 20170512-110547.pb ms-celeb/ --input-spec facenet-2017",
    "export": "facespace export casia-webface --output casia.onnx --precision int8",
    "models": "facespace models",
    "models list": "facespace models list --json",
    "models download": "facespace models download facenet-20180402-114759",
    "models add": "facespace models add 20180402-114759.zip facenet-20180402-114759",
    "models remove": "facespace models remove facenet-20180402-114759",
    "doctor": "facespace doctor",
    "demo": "facespace demo --output demo/",
    "facenet align_dataset_mtcnn": "facespace facenet align_dataset_mtcnn raw/ casia-182/ --image_size 182 --margin 44",
    "facenet train_softmax": "facespace facenet train_softmax --data_dir casia-182/ --image_size 160 \\\n"
    "    --model_def models.inception_resnet_v1 --optimizer RMSPROP --center_loss_factor 1e-2",
    "facenet train_tripletloss": "facespace facenet train_tripletloss --data_dir casia-182/ --image_size 160 \\\n"
    "    --model_def models.inception_resnet_v1 --optimizer ADAGRAD",
    "facenet validate_on_lfw": "facespace facenet validate_on_lfw lfw-160/ casia-webface --lfw_pairs pairs.txt",
    "facenet classifier": "facespace facenet classifier TRAIN people-160/ casia-webface people.pkl",
    "facenet compare": "facespace facenet compare casia-webface a.jpg b.jpg",
    "facenet predict": "facespace facenet predict party.jpg casia-webface people.pkl",
    "facenet export_embeddings": "facespace facenet export_embeddings casia-webface people-160/",
    "facenet batch_represent": "facespace facenet batch_represent --data_dir people-160/ --output_dir vectors/ \\\n"
    "    --trained_model_dir casia-webface",
    "facenet cluster": "facespace facenet cluster casia-webface photos/ grouped/",
    "facenet freeze_graph": "facespace facenet freeze_graph models/20260101-120000/ frozen.pb",
    "tiny mx2tfrecords": "facespace tiny mx2tfrecords --bin_path faces_emore/train.rec \\\n"
    "    --idx_path faces_emore/train.idx --tfrecords_file_path tfrecords/",
    "tiny train": "facespace tiny train --tfrecords tfrecords/tran.tfrecords --batch_size 64 --ckpt_save_dir ckpt/",
    "tiny eval_veri": "facespace tiny eval_veri --datasets faces_emore/cfp_fp.bin --dataset_name cfp_fp \\\n"
    "    --ckpt_restore_dir ckpt/",
}


def commands() -> Iterator[tuple[str, Any]]:
    """Yield every command and group below `facespace` with its words, such as `gallery list`, groups first."""

    def below(path: str, command: Any) -> Iterator[tuple[str, Any]]:
        for name, inner in getattr(command, "commands", {}).items():
            words = f"{path} {name}".strip()
            yield words, inner
            yield from below(words, inner)

    return below("", typer.main.get_command(app))


def parser_of(words: str) -> argparse.ArgumentParser:
    """Return the parser of an old program, which its `main` makes before it does anything else."""

    class MadeParser(Exception):
        pass

    def give(parser: Program, _argv: list[str]) -> None:
        raise MadeParser(parser)

    module = importlib.import_module("facespace.cli.legacy." + words.replace(" ", "."))
    parse, Program.parse = Program.parse, give  # type: ignore[assignment, method-assign]
    try:
        module.main([])
    except MadeParser as made:
        return typing.cast("argparse.ArgumentParser", made.args[0])
    finally:
        Program.parse = parse  # type: ignore[method-assign]
    raise AssertionError(f"{words} did not parse its arguments first")


def pages() -> dict[str, str]:
    """Return the text of every page by its path below docs/."""
    every = dict(commands())
    tops = [words for words in every if " " not in words]
    made = {f"commands/{top}.md": _page(top, every) for top in tops}
    rows = [f"| [`{top}`](commands/{top}.md) | {_inline(_summary(every[top]), table=True)} |" for top in tops]
    root = typer.main.get_command(app)
    parts = [INTRODUCTION, "| command | meaning |\n|---|---|\n" + "\n".join(rows)]
    parts += [
        "## Options of every command\n\nThey stand before the command: `facespace --max-pixels 400000000 detect …`."
    ]
    parts += [_table("option", _option_rows(root))]
    # The table of contents is for the site alone.
    parts.append("```{toctree}\n:hidden:\n\n" + "\n".join(f"commands/{top}" for top in sorted(tops)) + "\n```")
    made["commands.md"] = "\n\n".join(part.strip() for part in parts) + "\n"
    return made


def _page(top: str, every: dict[str, Any]) -> str:
    parts = []
    for words, command in every.items():
        if words == top or words.startswith(f"{top} "):
            parts += _section("#" if words == top else "##", words, command)
    return "\n\n".join(parts) + "\n"


def _section(level: str, words: str, command: Any) -> list[str]:
    parts = [f"{level} facespace {words}"]
    if isinstance(command, Verbatim):
        parser = parser_of(words)
        usage, arguments, options = _old_program(parser)
        parts.append(_inline(_summary(command)))
    else:
        usage, arguments, options = _usage(command), _argument_rows(command), _option_rows(command)
        parts += [_inline(paragraph) for paragraph in _paragraphs(command.help)]
    parts.append(f"```\n{' '.join(['facespace', words, *usage])}\n```")
    if words in EXAMPLES:
        parts.append(f"Example:\n\n```\n{EXAMPLES[words]}\n```")
    if arguments:
        parts.append(_table("argument", arguments))
    if options:
        parts.append(_table("option", options))
    inner = getattr(command, "commands", {})
    if inner:
        rows = [(name, _inline(_summary(one), table=True)) for name, one in inner.items()]
        parts.append(_table("command", rows))
    return parts


def _paragraphs(text: str | None) -> list[str]:
    return [" ".join(paragraph.split()) for paragraph in inspect.cleandoc(text or "").split("\n\n")]


def _summary(command: Any) -> str:
    return _paragraphs(command.help)[0]


def _usage(command: Any) -> list[str]:
    """Return the words behind the command's name; typer's own differ from version to version."""
    pieces = ["[OPTIONS]"]
    context = typer.Context(command, info_name="facespace", resilient_parsing=True)
    if "[GALLERY]" in command.collect_usage_pieces(context):
        pieces.append("[GALLERY]")
    pieces += [_argument_name(parameter) for parameter in command.params if parameter.param_type_name == "argument"]
    if hasattr(command, "commands"):
        pieces.append("COMMAND ..." if not command.invoke_without_command else "[COMMAND ...]")
    return pieces


def _argument_name(parameter: Any) -> str:
    name = parameter.metavar or parameter.name.upper()
    name = name if parameter.required or name.startswith("[") else f"[{name}]"
    return f"{name}..." if parameter.nargs == -1 else name


def _argument_rows(command: Any) -> list[tuple[str, str]]:
    """Return the name and the help of each argument that has a help text."""
    return [
        ((parameter.metavar or parameter.name.upper()), _described(parameter, command))
        for parameter in command.params
        if parameter.param_type_name == "argument" and parameter.help
    ]


def _option_rows(command: Any) -> list[tuple[str, str]]:
    """Return the spelling and the description of each option, without --help."""
    return [
        (_spelling(parameter, command), _described(parameter, command))
        for parameter in command.params
        if parameter.param_type_name == "option" and parameter.name != "help" and not parameter.hidden
    ]


def _spelling(parameter: Any, command: Any) -> str:
    names = ", ".join([*parameter.opts, *parameter.secondary_opts])
    if parameter.is_flag:
        return names
    choices = _choices(parameter, command)
    return f"{names} {parameter.metavar or '|'.join(choices) or 'TEXT'}"


def _annotation(parameter: Any, command: Any) -> Any:
    callback = command.callback
    return typing.get_type_hints(callback, include_extras=True).get(parameter.name) if callback else None


def _choices(parameter: Any, command: Any) -> list[str]:
    """Return the values of an option that is an enumeration."""
    found = _annotation(parameter, command)
    inner = list(typing.get_args(found)) if found is not None else []
    for kind in inner + [deeper for one in inner for deeper in typing.get_args(one)]:
        if inspect.isclass(kind) and issubclass(kind, Enum):
            return [str(value.value) for value in kind]
    return []


def _described(parameter: Any, command: Any) -> str:
    """Return the help text of a parameter with its bounds, its default and its variable."""
    text = [_sentence(parameter.help or "")]
    declared = getattr(_annotation(parameter, command), "__metadata__", ())
    text += [_bounds(info.min, info.max) for info in declared if isinstance(info, ParameterInfo)]
    if parameter.param_type_name == "option" and parameter.required:
        text.append("Required.")
    text.append(_default(parameter.show_default, parameter.default))
    if parameter.envvar:
        text.append(f"Environment variable: `{parameter.envvar}`.")
    return _inline(" ".join(part for part in text if part), table=True)


def _bounds(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f"From {low:g} to {high:g}." if abs(high) < 1e6 else f"From {low} to {high}."
    return f"At least {low:g}." if low is not None else f"At most {high:g}." if high is not None else ""


def _default(shown: bool | str | None, value: Any) -> str:
    if isinstance(shown, str):
        return f"Default: {shown}."
    if not shown or value is None or isinstance(value, bool) or value in ("", []) or callable(value):
        return ""
    value = value.value if isinstance(value, Enum) else f"{value:.10g}" if isinstance(value, float) else value
    return f"Default: `{value}`."


def _old_program(parser: argparse.ArgumentParser) -> tuple[list[str], list[tuple[str, str]], list[tuple[str, str]]]:
    """Return usage, arguments and options of an old program."""
    usage, arguments, options = ["[OPTIONS]"], [], []
    for action in parser._actions:
        meaning = _sentence((action.help or "").replace("%%", "%"))
        name = "|".join(map(str, action.choices)) if action.choices else str(action.metavar or action.dest).upper()
        if isinstance(action, argparse._HelpAction):
            continue
        if not action.option_strings:
            shown = f"[{name}]" if action.nargs in ("?", "*") else name
            usage.append(f"{shown}..." if action.nargs in ("+", "*") else shown)
            arguments.append((name, _inline(meaning, table=True)))
            continue
        takes = "" if action.nargs == 0 else f" {name}..." if action.nargs in ("+", "*") else f" {name}"
        if action.required:
            meaning += " Required."
        default = action.default[0] if isinstance(action.default, list) and len(action.default) == 1 else action.default
        text = " ".join(part for part in (meaning, _default(True, default)) if part)
        options.append((", ".join(action.option_strings) + takes, _inline(text, table=True)))
    return usage, arguments, options


def _sentence(text: str) -> str:
    """Return a help text on one line, with a full stop at its end.

    >>> _sentence("the path"), _sentence("The path.")
    ('the path.', 'The path.')
    """
    text = " ".join(text.split())
    return text if not text or text[-1] in ".!?…" else f"{text}."


def _inline(text: str, *, table: bool = False) -> str:
    """Return plain text as Markdown: options become code, and what Markdown reads as marks is escaped.

    >>> _inline("Use --json; <b> and `a|b`.", table=True)
    'Use `--json`; \\\\<b> and `a\\\\|b`.'
    """
    parts = _CODE.split(text)
    for i, part in enumerate(parts):
        parts[i] = f"`{part.strip('`')}`" if i % 2 else re.sub(r"([\\*_<\[\]#])", r"\\\1", part)
        if table:
            parts[i] = parts[i].replace("|", "\\|")
    return "".join(parts)


def _table(first: str, rows: list[tuple[str, str]]) -> str:
    lines = [f"| `{name.replace('|', chr(92) + '|')}` | {text} |" for name, text in rows]
    return "\n".join([f"| {first} | meaning |", "|---|---|", *lines])


def main() -> None:
    """Write the pages, and remove those of commands that are gone."""
    made = pages()
    (DOCS / "commands").mkdir(exist_ok=True)
    for path in (DOCS / "commands").glob("*.md"):
        if f"commands/{path.name}" not in made:
            path.unlink()
    for name, text in made.items():
        (DOCS / name).write_text(text, encoding="utf-8")
    print(f"{len(made)} pages written to {DOCS}")


if __name__ == "__main__":
    main()
