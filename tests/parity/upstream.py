"""Runs MLflow's own tests against the fast store and the kit's server: `make upstream CHECKOUT=<directory>`.

The checkout is one of github.com/mlflow/mlflow at the pinned version, or near it. Its tests are copied to a scratch
directory, so that they import the MLflow that the server runs, and each is run twice on one MySQL: with MLflow's own
store and with the fast one. What fails with both is not the fast store's. Writes docs/parity.md and, beside it,
docs/parity-results.json.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from server_process import REGION, REPOSITORY, Backend, Server

from kit.console import err, out
from local.aws import EmbeddedAws
from local.database import DatabaseServer

from .servers import database_server, migrate

ENVIRONMENT = REPOSITORY / ".cache" / "upstream"
REQUIREMENTS = ("pytest==9.0.2", "pytest-asyncio==1.5.0", "pytest-timeout==2.4.0", "psutil==7.2.2")
PAGE = REPOSITORY / "docs" / "parity.md"
RESULTS = REPOSITORY / "docs" / "parity-results.json"

STORE_TESTS = (
    "tests/store/tracking/sqlalchemy_store",
    "tests/store/tracking/test_sqlalchemy_store.py",
    "tests/store/tracking/test_sqlalchemy_store_issues.py",
    "tests/store/tracking/test_sqlalchemy_store_query_trace_metrics.py",
)
CLIENT_TESTS = ("tests/store/tracking/test_rest_store.py", "tests/tracking/test_rest_tracking.py")


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a test has ended, and why unless it has passed."""

    outcome: str
    reason: str = ""


def main(
    checkout: Path,
    *,
    select: Annotated[str, typer.Option("-k", help="only tests of this expression, as pytest's -k")] = "",
    page: Annotated[bool, typer.Option(help="write docs/parity.md")] = True,
) -> None:
    """Run MLflow's tests with both stores; exit 1 when one fails with the fast store only."""
    version = _version(checkout)
    _prepare()
    with tempfile.TemporaryDirectory(prefix="upstream-") as directory:
        results = {store: _run(checkout, Path(directory), store, select) for store in ("stock", "fast")}
    report = _report(results, version)
    if page:
        PAGE.write_text(report)
        RESULTS.write_text(_as_json(results, version))
    out.print(report, markup=False, highlight=False)
    raise typer.Exit(bool(_only_fast(results)))


def _prepare() -> None:
    """Make an environment with what the tests need beside the server's packages, which it sees too."""
    server = REPOSITORY / ".venv-server"
    uv = REPOSITORY / ".venv" / "bin" / "uv"
    python = ENVIRONMENT / "bin" / "python"
    subprocess.run(
        [uv, "venv", "--quiet", "--allow-existing", "--python", server / "bin" / "python", ENVIRONMENT],
        check=True,
    )
    (packages,) = server.glob("lib/python3*/site-packages")
    (ENVIRONMENT / packages.relative_to(server) / "server.pth").write_text(f"{packages}\n")
    subprocess.run([uv, "pip", "install", "--quiet", "--python", python, *REQUIREMENTS], check=True)


def _version(checkout: Path) -> str:
    found = re.search(r'VERSION = "(.+)"', (checkout / "mlflow" / "version.py").read_text())
    if not found:
        raise typer.BadParameter(f"{checkout} is not a checkout of MLflow")
    return found[1]


def _run(checkout: Path, directory: Path, store: str, select: str) -> dict[str, Result]:
    """Run the tests with a store, and return how each of them has ended."""
    place = directory / store
    scratch = place / "checkout"
    shutil.copytree(checkout / "tests", scratch / "tests")
    for name in ("pyproject.toml", "pytest.ini"):
        if (checkout / name).exists():
            shutil.copy(checkout / name, scratch)
    directory.chmod(0o755)
    place.chmod(0o755)
    with (
        database_server(place) as database,
        EmbeddedAws(directory=place / "aws", region=REGION) as aws,
    ):
        backend = Backend(database_server=database, aws_endpoint=aws.endpoint)
        migrate(backend, place)
        server = Server(backend, directory=place, TRACKING_STORE=store)
        try:
            server.wait_until_healthy()
            return _pytest(scratch, place, store, select, backend=backend, database=database, server=server)
        finally:
            server.kill()


def _pytest(
    scratch: Path,
    place: Path,
    store: str,
    select: str,
    *,
    backend: Backend,
    database: DatabaseServer,
    server: Server,
) -> dict[str, Result]:
    results = place / "results.jsonl"
    results.touch()
    uri = (
        f"mysql+pymysql://{backend.username}:{backend.password}@{database.host}:{database.port}/{backend.name}"
        f"?charset=utf8mb4&ssl_ca={database.ca_bundle}"
    )
    variables = backend.environment() | {
        "PYTHONPATH": f"{REPOSITORY / 'container'}:{Path(__file__).parent}",
        "UPSTREAM_DATABASE": uri,
        "UPSTREAM_SERVER": server.url,
        "UPSTREAM_STORE": store,
        "UPSTREAM_RESULTS": str(results),
        "MLFLOW_TRACKING_URI": uri,
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # a server's error would be tried again for minutes
        "HOME": str(place),
        "LC_ALL": "C.UTF-8",
    }
    present = [name for name in (*STORE_TESTS, *CLIENT_TESTS) if (scratch / name).exists()]
    command = [ENVIRONMENT / "bin" / "python", "-m", "pytest", "-p", "upstream_plugin", "-q", "--no-header"]
    command.append("--continue-on-collection-errors")  # a file may import what another version has
    command += ["--timeout", "180", "--tb", "short", *(["-k", select] if select else []), *present]
    with (place / "pytest.log").open("wb") as log:
        err.print(f"MLflow's tests with the {store} store")
        subprocess.run(command, cwd=scratch, env=variables, stdout=log, stderr=log, check=False)
    found = read(results.read_text().splitlines())
    if not found:
        raise RuntimeError((place / "pytest.log").read_text()[-4000:])
    if kept := os.environ.get("UPSTREAM_LOGS"):
        shutil.copy(place / "pytest.log", Path(kept) / f"{store}.log")
    return found


def read(lines: Sequence[str]) -> dict[str, Result]:
    """Results by test; what went wrong in a test's setup or end counts more than what came before."""
    found: dict[str, Result] = {}
    for line in lines:
        result = json.loads(line)
        if result["test"] not in found or result["outcome"] != "passed":
            found[result["test"]] = Result(outcome=result["outcome"], reason=result["reason"])
    return found


def inapplicable(result: Result) -> str:
    """Why a test says nothing about the kit's store and server, or nothing."""
    found = re.search(r"Not applicable: (.+)", result.reason) if result.outcome == "skipped" else None
    return found[1] if found else ""


def _failed(result: Result | None) -> bool:
    return result is not None and result.outcome in ("failed", "error")


def _only_fast(results: dict[str, dict[str, Result]]) -> list[str]:
    stock, fast = results["stock"], results["fast"]
    return [test for test, result in fast.items() if _failed(result) and not _failed(stock.get(test))]


def _as_json(results: dict[str, dict[str, Result]], version: str) -> str:
    tests = {
        test: {store: found[test].outcome for store, found in results.items() if test in found}
        for test in sorted(results["fast"].keys() | results["stock"].keys())
    }
    lines = ",\n".join(f"  {json.dumps(test)}: {json.dumps(outcomes)}" for test, outcomes in tests.items())
    return f'{{"mlflow_tests": {json.dumps(version)}, "tests": {{\n{lines}\n}}}}\n'


def _report(results: dict[str, dict[str, Result]], version: str) -> str:
    fast = results["fast"]
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    failures: defaultdict[str, list[str]] = defaultdict(list)
    others: defaultdict[str, list[str]] = defaultdict(list)
    only_fast = set(_only_fast(results))
    for test, result in fast.items():
        kind, reason = _kind(test, result, only_fast)
        counts[_file(test)][kind] += 1
        if kind == "only fast":
            failures[reason].append(test)
        elif kind != "passed":
            others[reason].append(test)
    kinds = ("passed", "only fast", "both", "not applicable", "skipped")
    lines = [
        _HEAD.format(version=version),
        "| tests | passed | failed with the fast store only | failed with both stores | not applicable | skipped |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| `{file}` | " + " | ".join(str(counts[file][kind]) for kind in kinds) + " |"
        for file in sorted(counts)
    ]
    totals: Counter[str] = sum(counts.values(), Counter())
    lines.append("| all | " + " | ".join(str(totals[kind]) for kind in kinds) + " |")
    lines += ["", "## Failed with the fast store only", "", *(_listed(failures) or ["None."])]
    lines += ["", "## Not passed, and why that is not the fast store's", "", *_listed(others)]
    return "\n".join(lines) + "\n"


def _kind(test: str, result: Result, only_fast: set[str]) -> tuple[str, str]:
    if why := inapplicable(result):
        return "not applicable", f"Not applicable: {why}"
    if test in only_fast:
        return "only fast", _first_line(result.reason)
    if _failed(result):
        return "both", f"Fails with MLflow's own store too: {_first_line(result.reason)}"
    if result.outcome == "skipped":
        return "skipped", f"Skipped: {_first_line(result.reason).removeprefix('Skipped: ')}"
    return "passed", ""


def _first_line(reason: str) -> str:
    """The kind of a failure, without what is of one test: numbers, ids, texts in quotes."""
    line = reason.strip().split("\n")[0]
    line = re.sub(r"'/[^']*'", "'/…'", line)
    line = re.sub(r"0x[0-9a-f]+|[0-9a-f]{8,}|\d+", "…", line)
    return re.sub(r"[|`]", "'", line)[:160] or "no reason given"


def _file(test: str) -> str:
    """The file of a test, below MLflow's `tests`."""
    return test.partition("::")[0].removeprefix("tests/")


def _listed(groups: dict[str, list[str]]) -> list[str]:
    """Groups of tests by name, those of one function and of one file together."""
    lines: list[str] = []
    for reason, tests in sorted(groups.items(), key=lambda group: -len(group[1])):
        lines += [f"**{reason}** ({len(tests)})", ""]
        files: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for test in tests:
            files[_file(test)][test.partition("::")[2].partition("[")[0]] += 1
        for file, names in sorted(files.items()):
            shown = ", ".join(f"`{name}`" + (f" ({n})" if n > 1 else "") for name, n in sorted(names.items()))
            lines.append(f"- `{file}`: {shown}")
        lines.append("")
    return lines


_HEAD = """\
# Parity

The fast store answers as MLflow's own store does, and leaves the same in the database. Two things show it.

**Random sequences of calls.** `make parity` sends 10,000 seeded sequences of operations to two servers, one with \
MLflow's own store and one with the fast one, each with a database of its own on one MySQL, and compares every answer \
and every row. `make test` runs a share of them. What is replaced before the comparison is what must differ: ids, the \
clock's times, random names. Answers are compared in one layout of JSON: the kit writes no white space.

**MLflow's own tests.** `make upstream CHECKOUT=…` runs MLflow's tests of the SQL tracking store and of the REST \
client with both stores on MySQL, those of the client against the kit's running server. This page is written by it; \
the tests were those of MLflow {version}, and every result is in [parity-results.json](parity-results.json). Files are \
below MLflow's `tests`. A test that fails with MLflow's own store on MySQL too (because it is for SQLite, for another \
version, or changes MLflow inside of its own process) says nothing about the fast store.
"""


if __name__ == "__main__":
    typer.run(main)
