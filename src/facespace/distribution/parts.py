"""The parts of a plan that are not done yet, computed here or by the workers of a cluster."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from facespace.distribution.plan import Plan, leftovers
from facespace.distribution.session import Session
from facespace.distribution.storage import Folder


class Work(Protocol):
    """What is done for each part of a plan. It is pickled, so it holds names, not networks."""

    @property
    def folder(self) -> Folder:
        """Where plan and results are."""

    @property
    def gpu(self) -> bool:
        """Whether each worker needs a GPU."""

    def result(self, number: int) -> str:
        """The name of the object that says that a part is done, in `folder` itself."""

    def compute(self, number: int) -> None:
        """Compute a part and write its result by `Folder.create`. It may be called again after a worker was lost."""


def compute_parts(work: Work, plan: Plan, session: Session | None = None) -> Iterator[int]:
    """Compute every part whose result is not there; the number of parts that are done, first those of earlier runs.

    With a `session` the workers of its cluster compute, else this process, one part after another.
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
    """Remove results and plan once they are joined.

    Results go first and the photos of the parts last, so that a run that is killed here can be taken up.
    """
    results = map(work.result, range(plan.n_parts))
    work.folder.remove([*results, *plan.names(), *leftovers(work.folder, plan)])
