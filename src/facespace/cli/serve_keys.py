"""facespace serve key: create, list and revoke the API keys of a service, whether or not it is running."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facespace.cli.shared.options import GALLERY_VARIABLE, Json
from facespace.cli.shared.output import write_json, write_line
from facespace.io.text import one_line

if TYPE_CHECKING:
    from facespace.server.keys import KeyRecord
    from facespace.server.state import State

app = typer.Typer(
    help="Create, list and revoke the API keys of a service.", no_args_is_help=True, rich_markup_mode=None
)

_SPAN = re.compile(r"(\d{1,5})\s*([hdwy])")
_HOURS = {"h": 1, "d": 24, "w": 7 * 24, "y": 365 * 24}


class Role(str, Enum):
    """The role of a key, which decides what it may do; see docs/serving.md."""

    identify = "identify"
    read = "read"
    enroll = "enroll"
    admin = "admin"


Gallery = Annotated[
    str,
    typer.Option("--gallery", metavar="FILE|URL", envvar=GALLERY_VARIABLE, help="The gallery that is served."),
]
StateFolder = Annotated[
    str | None,
    typer.Option("--state", metavar="DIR", help="The state folder of the service; by default next to the gallery."),
]


@app.command("create")
def create(
    role: Annotated[Role, typer.Option("--role", help="What the key may do.")],
    collection: Annotated[
        str | None, typer.Option("--collection", metavar="NAME", help="Limit the key to this collection.")
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(
            "--expires",
            metavar="WHEN",
            help="When the key expires: 12h, 30d, 8w, 1y, or a date such as 2027-12-31; by default never.",
        ),
    ] = None,
    label: Annotated[str, typer.Option("--label", metavar="TEXT", help="A note on what the key is used for.")] = "",
    gallery: Gallery = "people.gallery",
    state: StateFolder = None,
    json: Json = False,
) -> None:
    """Create a key and print it. It cannot be shown again, because only its hash is stored.

    A running service accepts the key at once. The owner of the state folder can always create keys, even if the last key of
    an administrator is lost or revoked.
    """
    from facespace.identification.stores.actors import user_name
    from facespace.server.audit import Audit
    from facespace.server.keys import Keys

    ends = None if expires is None else _end(expires, datetime.now(timezone.utc))
    opened = _open(gallery, state, create=True)
    try:
        new = Keys(opened).create(role.value, collection, ends, label, created_by=user_name())
        details = {"key": new.id, "role": role.value, "label": label, "expires": expires}
        Audit(opened).record(f"{user_name()} at the command line", "create_key", collection=collection, details=details)
    finally:
        opened.close()
    if json:
        write_json({"id": new.id, "key": new.text, "role": role.value, "collection": collection, "label": label})
    else:
        write_line(new.text)


@app.command("list")
def list_(gallery: Gallery = "people.gallery", state: StateFolder = None, json: Json = False) -> None:
    """List the keys, latest first."""
    from facespace.server.keys import Keys

    opened = _open(gallery, state)
    try:
        found = Keys(opened).list()
    finally:
        opened.close()
    for record in found:
        if json:
            write_json(_as_json(record))
        else:
            collection = record.collection or "all collections"
            write_line(
                f"{record.id}  {record.role:8}  {one_line(collection)}  {_validity(record)}  {one_line(record.label)}".rstrip()
            )
    if not json:
        write_line(f"{len(found)} {'key' if len(found) == 1 else 'keys'}")


@app.command("revoke")
def revoke(
    key: Annotated[str, typer.Argument(metavar="ID", help="The id of the key as shown by `list`, or the key itself.")],
    gallery: Gallery = "people.gallery",
    state: StateFolder = None,
) -> None:
    """Make a key invalid at once, also in a running service."""
    from facespace.identification.stores.actors import user_name
    from facespace.server.audit import Audit
    from facespace.server.keys import Keys

    identifier = key.split("_")[1] if key.count("_") > 1 else key
    opened = _open(gallery, state)
    try:
        keys = Keys(opened)
        record = keys.find(identifier)
        if record is None:
            raise ValueError(
                f"{opened.path}: no key with the id {one_line(identifier)[:20]}; see facespace serve key list"
            )
        if keys.revoke(identifier):
            Audit(opened).record(
                f"{user_name()} at the command line",
                "revoke_key",
                collection=record.collection,
                details={"key": identifier},
            )
            write_line(f"{identifier} revoked")
        else:
            write_line(f"{identifier} was already revoked")
    finally:
        opened.close()


def check_options_before(context: typer.Context) -> None:
    """Raise a usage error for options of `serve` given before `key`, which would be ignored."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = f"--{name.replace('_', '-')}"
            raise typer.BadParameter(
                f"must come after the command: facespace serve key list {option} …", param_hint=option
            )


def _open(gallery: str, folder: str | None, *, create: bool = False) -> State:
    from facespace.server.settings import default_state
    from facespace.server.state import FILE, State

    folder = folder or default_state(gallery)
    if not create and not Path(folder, FILE).exists():
        raise ValueError(
            f"{one_line(folder)}: not the state folder of a service; give it with --state, or its gallery with --gallery"
        )
    return State(folder)


def _end(text: str, now: datetime) -> float:
    """Return the time that the value of `--expires` means, in seconds since 1970.

    The value is a period from `now`, such as 30d, or a date, which means the end of that day in UTC.

    >>> _end("2h", datetime(2027, 1, 1, tzinfo=timezone.utc)) - datetime(2027, 1, 1, tzinfo=timezone.utc).timestamp()
    7200.0
    """
    if found := _SPAN.fullmatch(text.strip()):
        return (now + timedelta(hours=int(found[1]) * _HOURS[found[2]])).timestamp()
    try:
        given = datetime.fromisoformat(text.strip())
    except ValueError:
        raise typer.BadParameter(
            f"must be like 12h, 30d, 8w, 1y or 2027-12-31, got {one_line(text)[:40]!r}", param_hint="--expires"
        ) from None
    if given.time() == datetime.min.time() and len(text.strip()) <= len("2027-12-31"):
        given += timedelta(days=1)
    end = (given if given.tzinfo else given.replace(tzinfo=timezone.utc)).timestamp()
    if end <= now.timestamp():
        raise typer.BadParameter(f"must be in the future, got {one_line(text)[:40]}", param_hint="--expires")
    return end


def _validity(record: KeyRecord) -> str:
    if record.revoked is not None:
        return f"revoked {_date(record.revoked)}"
    if record.expires is None:
        return "valid"
    is_valid = record.is_valid(datetime.now(timezone.utc).timestamp())
    return f"{'valid until' if is_valid else 'expired'} {_date(record.expires)}"


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _as_json(record: KeyRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "role": record.role,
        "collection": record.collection,
        "label": record.label,
        "created": _date(record.created),
        "created_by": record.created_by,
        "expires": None if record.expires is None else _date(record.expires),
        "revoked": None if record.revoked is None else _date(record.revoked),
    }
