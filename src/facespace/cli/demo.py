"""facespace demo: enroll, identify and draw, on images from installed packages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facespace.cli.shared.output import write_line


def demo(
    output: Annotated[
        Path, typer.Option("--output", metavar="DIR", help="The folder to write the picture and the gallery to.")
    ] = Path("facespace-demo"),
) -> None:
    """Enroll two people, identify them in a group picture, and draw the result."""
    from facespace.demo import PORTRAITS, run

    result = run(output)
    write_line(f"enrolled: {', '.join(PORTRAITS)}, one photo each -> {result.gallery}")
    write_line(f"found {len(result.photo.faces)} faces in the group picture:")
    write_line(f"  {'face':<4}  {'named':<16}{'similarity':>10}  {'needed':>6}  {'really':<16}")
    right = 0
    for number, (match, expected) in enumerate(zip(result.matches, result.expected, strict=True), 1):
        right += match.name == expected
        similarity = match.similarity if match.similarity is not None else float("nan")
        write_line(
            f"  {number:<4}  {match.name or 'unknown':<16}{similarity:>10.3f}  {match.threshold:>6.3f}  "
            f"{expected or 'a stranger':<16}"
        )
    write_line(f"{right} of {len(result.matches)} right. The picture: {result.picture.resolve()}")
    if right < len(result.matches) or not {match.name for match in result.matches} >= set(PORTRAITS):
        write_line("The demo did not recognise everybody; run `facespace doctor`.")
        raise typer.Exit(1)
