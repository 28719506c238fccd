"""Code that distributed commands share: the option --ray, its session, and progress over the parts."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from facespace.cli.shared.output import progress_bar, say

if TYPE_CHECKING:
    from facespace.distribution.parts import Work
    from facespace.distribution.plan import Plan
    from facespace.distribution.session import Session
    from facespace.models.opening import OpenedModel

Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="local|auto|HOST:PORT",
        help="Compute on Ray: on the cores of this machine, on the running cluster, or on the cluster at an address.",
        show_default=False,
    ),
]


def check_places(places: Iterable[str]) -> None:
    """Raise a usage error for a URL that contains a password."""
    from facespace.distribution.storage import check_no_password

    try:
        for place in places:
            check_no_password(place)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def name_for_workers(opened: OpenedModel) -> str:
    """Return how every worker can open a model: the name of a named model, or else the absolute path of its file."""
    return opened.name if opened.card is not None else os.path.abspath(opened.source)


def compute_with_progress(work: Work, plan: Plan, ray: str | None, what: str) -> int:
    """Compute the missing parts of a plan, locally or on a cluster; return the number of photos in these parts.

    Ctrl+C ends the command with exit code 130.
    """
    from facespace.distribution.parts import compute_parts

    done: list[int] = []  # photos done at the start, and now
    try:
        with connected(ray) as session, progress_bar(what) as show:
            for n_parts in compute_parts(work, plan, session):
                done = [*done[:1], min(n_parts * plan.per_part, plan.n_photos)]
                show(done[-1], plan.n_photos)
    except KeyboardInterrupt:
        say("stopped; run the same command again to resume")
        raise typer.Exit(130) from None
    return done[-1] - done[0]


@contextlib.contextmanager
def connected(ray: str | None) -> Iterator[Session | None]:
    """Connect to the cluster of `--ray`; yields None without the option."""
    if ray is None:
        yield None
        return
    from facespace.distribution.session import connect

    with connect(ray) as session:
        yield session
