"""Computes the missing parts of a plan, in this process or by the workers of a cluster."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from facespace.distribution.plan import Plan, leftovers
from facespace.distribution.session import Session
from facespace.distribution.storage import Folder


class Work(Protocol):
    """The work on the parts of a plan. It is pickled, so it contains names of models, not networks."""

    @property
    def folder(self) -> Folder:
        """The folder of the plan and the results."""

    @property
    def gpu(self) -> bool:
        """Whether each worker needs a GPU."""

    def result(self, number: int) -> str:
        """Return the name of the object, directly in `folder`, that marks a part as done."""

    def compute(self, number: int) -> None:
        """Compute a part and write its result with `Folder.create`. If a worker is lost, its part is computed again."""


def compute_parts(work: Work, plan: Plan, session: Session | None = None) -> Iterator[int]:
    """Compute every part that has no result yet; yield the number of finished parts at the start and after each part.

    The workers of the cluster compute them if there is a `session`. Otherwise this process computes one after another.
    """
    there = set(work.folder.names())
    missing = [number for number in range(plan.n_parts) if work.result(number) not in there]
    n_done = plan.n_parts - len(missing)
    yield n_done
    here: Iterable[object] = map(work.compute, missing)
    computed = here if session is None else session.map(work.compute, missing, gpu=work.gpu)
    for n_more, _ in enumerate(computed, start=1):
        yield n_done + n_more
    work.folder.remove_unfinished()


def remove_parts(work: Work, plan: Plan) -> None:
    """Remove the results and the plan, after the results have been joined.

    The results are removed first and the lists of photos last, so that a run that is killed here can be resumed.
    """
    results = map(work.result, range(plan.n_parts))
    work.folder.remove([*results, *plan.names(), *leftovers(work.folder, plan)])
