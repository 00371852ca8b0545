"""Uses the server's database layer, in the server's Python environment: `python driver_probe.py WHAT [JSON]`.

Prints what it found as JSON. Settings come from the environment, as the server's do.
"""

from __future__ import annotations

import datetime
import json
import os
import signal
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy.dialects.mysql import DOUBLE, JSON, LONGBLOB
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError
from tracking_server import database
from tracking_server.settings import read_database


def new_engine(*, pool_size: int = 1) -> Engine:
    return database.create_server_engine(read_database(os.environ), pool_size=pool_size)


def failure(error: DBAPIError) -> dict[str, Any]:
    """What the code above the driver sees of an error."""
    return {
        "type": type(error.orig).__name__,
        "number": error.orig.args[0],
        "text": str(error.orig.args[1]),
        "invalidated": error.connection_invalidated,
    }


def attempt(engine: Engine, statement: str = "SELECT 1") -> dict[str, Any]:
    """Run a statement on a connection of the pool: its value or its error, and the seconds it took."""
    begun = time.monotonic()
    try:
        with engine.connect() as connection:
            found: dict[str, Any] = {"value": connection.scalar(sqlalchemy.text(statement))}
    except DBAPIError as error:
        found = failure(error)
    return {**found, "seconds": time.monotonic() - begun}


def connect() -> Any:
    """Connect once, or be refused."""
    engine = new_engine()
    found = attempt(engine, "SELECT CONCAT(CURRENT_USER(), ' ', DATABASE())")
    visible = Path("/proc/self/cmdline").read_text() + Path("/proc/self/environ").read_text()
    return {**found, "url": engine.url.render_as_string(hide_password=False), "visible": visible}


def rotate() -> Any:
    """Connect before and after the account has changed; says when it may change."""
    engine = new_engine(pool_size=2)
    before = attempt(engine)
    print("connected", flush=True)
    sys.stdin.readline()
    pooled = attempt(engine)
    engine.dispose()
    return [before, pooled, attempt(engine)]


def hang(pid: int) -> Any:
    """Take a connection from the pool while the database has stopped answering, and after."""
    engine = new_engine()
    found = [attempt(engine)]
    os.kill(pid, signal.SIGSTOP)
    time.sleep(0.5)  # until its last thread has stopped
    try:
        found.append(attempt(engine))
    finally:
        os.kill(pid, signal.SIGCONT)
    return [*found, attempt(engine)]


def wait() -> Any:
    """A statement that takes longer than a server's query may, on both kinds of engine; then another."""
    database.CONNECT_SECONDS, database.QUERY_SECONDS = 1, 2
    server = new_engine()
    found = [attempt(server, "SELECT SLEEP(5)"), attempt(server)]
    migration = database.create_migration_engine(read_database(os.environ))
    return [*found, attempt(migration, "SELECT SLEEP(3)")]


def kill() -> Any:
    """Use a connection that the database has ended: from the pool, in a query and at a commit."""
    engine, other = new_engine(), new_engine()

    def identify(connection: Connection) -> int:
        return int(connection.scalar(sqlalchemy.text("SELECT CONNECTION_ID()")))

    def end(identifier: int) -> None:
        with other.connect() as connection:
            connection.execute(sqlalchemy.text(f"KILL {identifier}"))
        time.sleep(0.2)

    with engine.connect() as connection:
        identifier = identify(connection)
    end(identifier)
    found = {"pooled": attempt(engine)}
    for when in ("query", "commit"):
        try:
            with engine.connect() as connection:
                end(identify(connection))
                if when == "query":
                    connection.execute(sqlalchemy.text("SELECT 1"))
                connection.commit()
        except DBAPIError as error:
            found[when] = failure(error)
    return {**found, "after": attempt(engine)}


def session() -> Any:
    """What a connection has agreed with the database, and what it does where drivers differ."""
    variables = sqlalchemy.text(
        "SHOW VARIABLES WHERE Variable_name LIKE 'character_set_%' OR Variable_name LIKE 'collation_%' "
        "OR Variable_name IN ('autocommit', 'sql_mode', 'transaction_isolation', 'tx_isolation', 'local_infile')"
    )
    engine = new_engine(pool_size=2)
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("CREATE TEMPORARY TABLE t (a INT)"))
        connection.execute(sqlalchemy.text("INSERT INTO t VALUES (1)"))
        unchanged = connection.execute(sqlalchemy.text("UPDATE t SET a = 1")).rowcount
        found = {row[0]: row[1] for row in connection.execute(variables)}
    return {
        "variables": found,
        "rows of an update that changes nothing": unchanged,
        "two statements": {**attempt(engine, "SELECT 1; SELECT 2"), "seconds": 0, "text": ""},
        "file of the client": {
            **attempt(engine, "LOAD DATA LOCAL INFILE '/etc/passwd' INTO TABLE t"),
            "seconds": 0,
            "text": "",
        },
    }


def round_trip(values: dict[str, list[Any]]) -> Any:
    """Write values and read them back: `repr` of each, of numbers also as the driver itself gives them."""
    kinds: dict[str, Any] = {
        "float": DOUBLE(asdecimal=False),
        "int": sqlalchemy.BigInteger(),
        "text": sqlalchemy.Text(),
        "bytes": LONGBLOB(),
        "json": JSON(),
        "boolean": sqlalchemy.Boolean(),
        "time": sqlalchemy.DateTime(),
        "decimal": sqlalchemy.Numeric(30, 10),
    }
    values = {
        **values,
        "bytes": [b"", bytes(range(256)), b"'\\\"%s"],
        "time": [datetime.datetime(2026, 2, 28, 23, 59, 59), None],
        "decimal": [Decimal("-12345678901234567890.0123456789")],
    }
    engine = new_engine()
    found: dict[str, Any] = {}
    for kind, column_type in kinds.items():
        table = sqlalchemy.Table(
            f"round_trip_{kind}",
            sqlalchemy.MetaData(),
            sqlalchemy.Column("id", sqlalchemy.Integer, primary_key=True, autoincrement=False),
            sqlalchemy.Column("value", column_type),
            mysql_charset="utf8mb4",
        )
        rows = [{"id": number, "value": value} for number, value in enumerate(values[kind])]
        with engine.connect() as connection:
            table.drop(connection, checkfirst=True)
            table.create(connection)
            connection.execute(table.insert(), rows)  # one statement for all rows
            table_of_one = sqlalchemy.insert(table).values(id=len(rows), value=rows[0]["value"])
            connection.execute(table_of_one)
            connection.commit()
            read = list(connection.execute(sqlalchemy.select(table.c.value).order_by(table.c.id)).scalars())
            cursor = connection.connection.cursor()
            cursor.execute(f"SELECT value FROM {table.name} WHERE id >= %s ORDER BY id", (0,))
            raw = [row[0] for row in cursor.fetchall()]
            table.drop(connection)
            connection.commit()
        found[kind] = {
            "written": [repr(value) for value in [*values[kind], values[kind][0]]],
            "read": [repr(value) for value in read],
            "raw": [repr(value) for value in raw],
        }
    return found


def errors() -> Any:
    """The class and number of the errors that MLflow and the kit tell apart."""
    engine = new_engine()
    with engine.connect() as connection:
        for statement in (
            "DROP TABLE IF EXISTS error_child, error_parent",
            "CREATE TABLE error_parent (id INT PRIMARY KEY, a TINYINT NOT NULL, b VARCHAR(3))",
            "CREATE TABLE error_child (id INT, FOREIGN KEY (id) REFERENCES error_parent (id))",
            "INSERT INTO error_parent VALUES (1, 1, 'a')",
            "INSERT INTO error_child VALUES (1)",
        ):
            connection.execute(sqlalchemy.text(statement))
        connection.commit()
    statements = {
        "duplicate": "INSERT INTO error_parent VALUES (1, 1, 'a')",
        "no parent": "INSERT INTO error_child VALUES (7)",
        "has children": "DELETE FROM error_parent",
        "null": "INSERT INTO error_parent VALUES (2, NULL, 'a')",
        "too long": "INSERT INTO error_parent VALUES (2, 1, 'abcd')",
        "too large": "INSERT INTO error_parent VALUES (2, 1000, 'a')",
        "no column": "SELECT nothing FROM error_parent",
        "no table": "SELECT 1 FROM nothing",
        "no syntax": "SELEC",
        "no number": "INSERT INTO error_parent VALUES ('x', 1, 'a')",
    }
    return {
        name: {**attempt(engine, statement), "seconds": 0, "text": ""}
        for name, statement in statements.items()
    }


if __name__ == "__main__":
    result = globals()[sys.argv[1]](*(json.loads(argument) for argument in sys.argv[2:]))
    print(json.dumps(result))
