"""facespace enroll --server: send photos to a service that enrolls them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from facespace.cli.shared.output import Report, progress, say, write_line
from facespace.client.client import Client
from facespace.client.journal import Journal, default_journal
from facespace.client.uploads import Sent, upload
from facespace.errors import ServiceError
from facespace.io.text import plain_text

_RETRIES = 8  # together they take about a minute, enough for a service to restart


def enroll_remote(
    server: str,
    work: list[tuple[str, str]],
    report: Report,
    *,
    key: str | None,
    collection: str,
    journal: Path | None,
    parallel: int,
    external_id: str | None,
    metadata: dict[str, Any] | None,
    largest: bool,
    try_rotations: bool,
    any_quality: bool,
) -> None:
    """Enrol photos at a server, and print the result of each. Failures are counted in `report`.

    `work` has the person's name and the path of each photo.
    """
    n_added = n_before = 0
    with Client(server, key, collection, retries=_RETRIES) as client:
        path = journal or default_journal(client.url, collection)
        with Journal(path) as memory:
            photos = upload(
                client, work, memory, parallel=parallel, external_id=external_id, metadata=metadata, largest=largest,
                try_rotations=try_rotations, accept=("poor_quality",) if any_quality else (),
            )  # fmt: skip
            try:
                for sent in progress(photos, len(work), "enrolling"):
                    n_added += sent.code == "added"
                    n_before += sent.code == "sent_before"
                    _print(sent, report)
            except ServiceError as error:
                raise ServiceError(
                    f"{error}; photos added before: {n_added}; run the same command again to resume",
                    status=error.status, code=error.code, request_id=error.request_id,
                ) from None  # fmt: skip
            except KeyboardInterrupt:
                say("stopped; run the same command again to resume")
                raise typer.Exit(130) from None
        if n_before:
            say(f"{n_before} photos were sent by an earlier run and are skipped; to send them again, remove {path}")
        write_line(
            f"{n_added} {'photo' if n_added == 1 else 'photos'} added to {plain_text(collection)} at {client.url}"
        )


def _print(sent: Sent, report: Report) -> None:
    for remark in sent.remarks:
        say(f"{sent.path}: {remark}")
    if sent.is_refused:
        report.fail(sent.path, f"{sent.detail or 'refused'}; left out ({sent.code})")
    elif sent.code != "sent_before":
        done = "enrolled" if sent.code == "added" else "known already"
        write_line(f"{plain_text(sent.name)}: {plain_text(sent.path)} {done}")
