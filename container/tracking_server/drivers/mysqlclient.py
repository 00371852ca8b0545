"""mysqlclient, on MariaDB's or MySQL's own client library, set up as `tracking_server.drivers` promises."""

# mysqlclient bears no types
# mypy: allow-untyped-calls

from __future__ import annotations

import os
import re
import select
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import MySQLdb  # type: ignore[import-untyped]
from MySQLdb import connections

from tracking_server.drivers import LOST, UNVERIFIED, Patience
from tracking_server.drivers.keep_alive import keep_alive
from tracking_server.secrets import Account

# The library gives the number UNVERIFIED to all that goes wrong under TLS. How MariaDB's ends the text when it is
# the connection: the system's error number, or OpenSSL's word for a peer that has gone
_TRANSPORT = re.compile(r"\(\d+\)$|unexpected eof")


# ER_TRUNCATED_WRONG_VALUE_FOR_FIELD and ER_ILLEGAL_VALUE_FOR_TYPE: the value is at fault, not the database
_INVALID_VALUE = frozenset({1366, 1367})


def _as_pymysql(call: Callable[..., Any]) -> Callable[..., Any]:
    """Has a call fail as PyMySQL's would, where the code above makes a difference.

    A connection that ended says so, while the library says under TLS that TLS failed.
    """

    def told(self: Any, *arguments: Any) -> Any:
        try:
            return call(self, *arguments)
        except MySQLdb.OperationalError as error:
            if error.args[0] == UNVERIFIED:
                raise _lost(error) from error
            if error.args[0] in _INVALID_VALUE:
                raise MySQLdb.DataError(*error.args) from error
            raise

    return told


class _Connection(connections.Connection):  # type: ignore[misc]
    """A connection that is impatient when it is pinged, and tells when it was lost."""

    def __init__(self, *, ping_seconds: int, **parameters: Any) -> None:
        self._ping_milliseconds = ping_seconds * 1000
        super().__init__(**parameters)
        with socket.socket(fileno=os.dup(self.fileno())) as transport:
            keep_alive(transport)

    query = _as_pymysql(connections.Connection.query)
    store_result = _as_pymysql(connections.Connection.store_result)
    next_result = _as_pymysql(connections.Connection.next_result)
    commit = _as_pymysql(connections.Connection.commit)
    rollback = _as_pymysql(connections.Connection.rollback)

    @_as_pymysql
    def ping(self) -> None:
        """Ask for an answer, and wait for less than a query's time, which the library cannot change by then."""
        self.send_query(b"DO 1")
        answer = select.poll()
        answer.register(self.fileno(), select.POLLIN)
        if not answer.poll(self._ping_milliseconds):
            raise MySQLdb.OperationalError(LOST, "the database does not answer a ping")
        self.read_query_result()


def version() -> str:
    """The driver's name and version, and its library's."""
    number = ".".join(str(part) for part in MySQLdb.version_info[:3])
    return f"mysqlclient {number} (client library {MySQLdb.get_client_info()})"


def connect(
    parameters: Mapping[str, Any], *, account: Account, ca_bundle: Path, patience: Patience
) -> _Connection:
    """A connection, as `tracking_server.drivers.Driver` promises."""
    limits = {"connect_timeout": patience.connect_seconds}
    if patience.query_seconds is not None:
        limits |= {"read_timeout": patience.query_seconds, "write_timeout": patience.query_seconds}
    try:
        return _Connection(
            user=account.username,
            password=account.password,
            ssl={"ca": str(ca_bundle)},
            ssl_mode="VERIFY_IDENTITY",
            # as PyMySQL has it: one statement a query, and no file of this machine for a server that asks for it
            multi_statements=False,
            local_infile=0,
            ping_seconds=patience.connect_seconds,
            **limits,
            **{**parameters, "host": _by_network(parameters["host"])},
        )
    except MySQLdb.OperationalError as error:
        if error.args[0] == UNVERIFIED and _TRANSPORT.search(error.args[1]):
            raise _lost(error) from error
        raise


def _lost(error: Exception) -> Exception:
    return cast(Exception, MySQLdb.OperationalError(LOST, f"lost the connection ({error.args[1]})"))


def _by_network(host: str) -> str:
    """The same host in letters that do not make the library look for a socket file on this machine."""
    return "LOCALHOST" if host == "localhost" else host
