"""What commands share that compute in parts: the option --ray, its session, and progress over the parts."""

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
        help="Compute on Ray: started on this machine's cores, the cluster found on it, or the one at this address.",
        show_default=False,
    ),
]


def check_places(places: Iterable[str]) -> None:
    """A usage error for a URL with a password in it."""
    from facespace.distribution.storage import check_no_password

    try:
        for place in places:
            check_no_password(place)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def name_for_workers(opened: OpenedModel) -> str:
    """A model by a name that means the same on every worker: its own, or an absolute path."""
    return opened.name if opened.card is not None else os.path.abspath(opened.source)


def compute_with_progress(work: Work, plan: Plan, ray: str | None, what: str) -> int:
    """Compute the parts that are missing, here or on the workers of a cluster; the number of their photos.

    Stopped, the command leaves with 130.
    """
    from facespace.distribution.parts import compute_parts

    done: list[int] = []  # at first, and now
    try:
        with connected(ray) as session, progress_bar(what) as show:
            for n_parts in compute_parts(work, plan, session):
                done = [*done[:1], min(n_parts * plan.per_part, plan.n_photos)]
                show(done[-1], plan.n_photos)
    except KeyboardInterrupt:
        say("stopped; what is done is kept, the same command goes on from there")
        raise typer.Exit(130) from None
    return done[-1] - done[0]


@contextlib.contextmanager
def connected(ray: str | None) -> Iterator[Session | None]:
    """The session of an address of `--ray`; None without it."""
    if ray is None:
        yield None
        return
    from facespace.distribution.session import connect

    with connect(ray) as session:
        yield session
