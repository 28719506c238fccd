"""Lines of JSON without data about people."""

from __future__ import annotations

import json
import logging

import pytest

from facespace.server import logs


@pytest.fixture(autouse=True)
def _as_before():
    names = (logs.LOGGER, "facespace.webhooks", "facespace.mqtt", "uvicorn.error", "asyncio", "uvicorn.access")
    before = [(logging.getLogger(name), dict(vars(logging.getLogger(name)))) for name in names]
    handlers = [list(logger.handlers) for logger, _ in before]
    yield
    for (logger, held), of_logger in zip(before, handlers, strict=True):
        logger.handlers[:] = of_logger
        logger.propagate = held["propagate"]
        logger.setLevel(held["level"])


def fail() -> None:
    raise ValueError("Ada's photo")


def test_lines(capsys):
    logs.configure()
    try:
        fail()
    except ValueError as error:
        logs.log("failed", level=logging.ERROR, error=error, request_id="a")
    logs.log("done", seconds=0.5)
    failed, done = map(json.loads, capsys.readouterr().err.splitlines())
    assert (failed["level"], failed["error"], failed["request_id"]) == ("error", "builtins.ValueError", "a")
    assert "Ada" not in json.dumps(failed)
    assert failed["at"][-1].endswith("fail")
    assert (done["message"], done["seconds"]) == ("done", 0.5)
    assert done["time"].endswith("Z")


def test_a_level_suppresses_lines(capsys):
    logs.configure("warning")
    logs.log("done")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["facespace.webhooks", "facespace.mqtt"])
def test_loggers_of_deliveries_write_json_too(name, capsys):
    logs.configure()
    logging.getLogger(name).warning("event %s was not delivered", 7)
    assert json.loads(capsys.readouterr().err)["message"] == "event 7 was not delivered"
