"""The tables of SQL stores, with the types of each database."""

from __future__ import annotations

import re

from facespace.identification.stores.sql_tables import TABLES


def test_every_table_is_in_words_that_each_database_has() -> None:
    words = {word for statement in TABLES for word in re.findall(r"{(\w+)}", statement)}
    assert words == {"id", "integer", "blob", "real", "name"}


def test_what_must_be_there_is_never_null() -> None:
    """Only the time of removal and rarely used columns of people and photos may be NULL."""
    optional = set()
    for statement in TABLES:
        if match := re.match(r"CREATE TABLE (\w+) \((.*)\)$", statement):
            for column in re.sub(r"\([^()]*\)", "", match[2]).split(", "):
                if "NOT NULL" not in column and "KEY" not in column and "{id}" not in column and "UNIQUE" not in column:
                    optional.add(f"{match[1]}.{column.split()[0]}")
    assert optional == {
        "person.external_id", "person.gone", "person.extra", "face.gone", "face.quality", "face.extra", "log.change",
    }  # fmt: skip
