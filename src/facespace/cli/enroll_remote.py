"""facespace enroll --server: photos sent to a service that enrols them."""

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

_RETRIES = 8  # with the pauses between them a minute: a service that is started again is waited for


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
    """Send (name, path) after (name, path), and print what became of each; failures are counted in `report`."""
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
                    f"{error}; photos added until then: {n_added}; the same command goes on from there",
                    status=error.status, code=error.code, request_id=error.request_id,
                ) from None  # fmt: skip
            except KeyboardInterrupt:
                say("stopped; what is done is kept, the same command goes on from there")
                raise typer.Exit(130) from None
        if n_before:
            say(
                f"{n_before} photos were sent by an earlier run and are not sent again; to send them again, remove {path}"
            )
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
