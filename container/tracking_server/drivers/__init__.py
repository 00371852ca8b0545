"""The drivers for MySQL: mysqlclient, which is C, and PyMySQL for where that cannot be built.

Through either, a server keeps the same promises: an account that is not in the URL, TLS that is verified and
never left out, and no wait without an end.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from tracking_server.secrets import Account

DriverName = Literal["mysqlclient", "pymysql"]

SCHEMES: dict[DriverName, str] = {"mysqlclient": "mysql+mysqldb", "pymysql": "mysql+pymysql"}
"""What SQLAlchemy's URLs call the drivers."""

LOST = 2013
"""The number of a connection that ended while it was in use: SQLAlchemy replaces it, and waiting may help."""

UNVERIFIED = 2026
"""The number of a connection over which there is no TLS, or none with a certificate that can be verified."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How many seconds a connection waits for the database.

    `connect_seconds` for each answer while it is set up, and for the answer to a ping; `query_seconds` for the
    next part of a result, None without end.
    """

    connect_seconds: int
    query_seconds: int | None


class Driver(Protocol):
    """What each module of this package offers."""

    def version(self) -> str:
        """The driver's name and version."""

    def connect(
        self, parameters: Mapping[str, Any], *, account: Account, ca_bundle: Path, patience: Patience
    ) -> Any:
        """A connection of PEP 249 for SQLAlchemy's `parameters`, over TLS.

        The server's certificate must be one of an authority in `ca_bundle`, for the host that is connected to.
        Raises the driver's OperationalError, with the database's or the client library's number and a text as args.
        """


def import_problem(name: DriverName) -> str:
    """Why a driver cannot be used on this machine: empty if it can."""
    try:
        load(name)
    except ImportError as error:
        return str(error)
    return ""


def best() -> DriverName:
    """The driver to use where none is asked for: the faster one where it is installed."""
    return "pymysql" if import_problem("mysqlclient") else "mysqlclient"


def load(name: DriverName) -> Driver:
    """The driver. Raises ImportError when it, or a library that it needs, is not installed."""
    return cast(Driver, importlib.import_module(f"{__name__}.{name}"))
