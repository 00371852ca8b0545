"""Runs sequences on both servers and tells the first difference."""

from __future__ import annotations

import itertools
import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from http.client import HTTPException
from typing import Any

from .masks import Masks, layout
from .sequences import Operation, sequence
from .servers import Pair, Side
from .tables import contents, differences
from .wire import Answer, Request, Wire

_PLACE = re.compile(r'"«raw ([^»]*)»"|«(\w+) ?(\d*)»')
_RANDOM_NAME = re.compile(r"[a-z-]+-[0-9]{1,4}")
MOST_PAGES = 20
NO_RUN = "0" * 31 + "1"


@dataclass(kw_only=True)
class Part:
    """One server's part of a sequence."""

    side: Side
    wire: Wire
    prefix: str
    runs: list[str] = field(default_factory=list)
    experiments: list[str] = field(default_factory=list)
    masks: Masks = field(init=False)

    def __post_init__(self) -> None:
        self.masks = Masks(database=self.side.backend.name)

    def request(self, operation: Operation) -> Request:
        """An operation with the ids of this server in it."""
        content = operation.content()
        if isinstance(content, str):
            content = _PLACE.sub(self._place, content).encode("utf-8", "surrogatepass")
        path = re.sub("«[^»]*»", self._quoted, operation.path)
        body = None if content is None else operation.encoded(content)
        return Request(method=operation.method, path=path, headers=operation.headers, body=body)

    def _quoted(self, match: re.Match[str]) -> str:
        found = _PLACE.fullmatch(match[0])
        return self._place(found) if found else match[0]

    def _place(self, match: re.Match[str]) -> str:
        raw, kind, number = match.groups()
        if raw is not None:
            return str(raw)
        if kind == "prefix":
            return self.prefix
        made = self.experiments if kind == "experiment" else self.runs
        missing = "999999999" if kind == "experiment" else NO_RUN
        found = made[int(number)] if int(number) < len(made) else missing
        return found.upper() if kind == "RUN" else found

    def learn(self, operation: Operation, answer: Answer) -> None:
        """Take in what a successful operation has made."""
        made = operation.makes
        if not made or answer.status != 200 or operation.method != "POST":
            return
        try:
            content = json.loads(answer.body)
        except ValueError:  # which the comparison tells
            return
        if made == "experiment":
            self.experiments.append(content["experiment_id"])
            return
        info = content["run"]["info"]
        self.runs.append(info["run_id"])
        name = info.get("run_name", "")
        self.masks.learn_run(info["run_id"], name=name if _RANDOM_NAME.fullmatch(name) else None)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Where the servers are not alike, and the operations that show it."""

    operations: Sequence[Operation]
    what: str
    in_tables: bool = False

    def __str__(self) -> str:
        return self.what


@dataclass(kw_only=True)
class Outcome:
    """What a sequence has come to."""

    parts: tuple[Part, Part]
    difference: Difference | None = None
    answers: int = 0
    same_bytes: int = 0
    errors: int = 0


class Comparer:
    """Sends sequences to both servers; for one thread. `turn` is held while experiments are made, so that both servers
    number them alike, and while they are changed or searched, since a search may find those of other threads."""

    def __init__(self, pair: Pair, turn: threading.Lock) -> None:
        self._pair = pair
        self._turn = turn
        self._wires = [Wire(side.port) for side in pair.sides]

    def close(self) -> None:
        """Close the connections."""
        for wire in self._wires:
            wire.close()

    def run(self, operations: Sequence[Operation], prefix: str) -> Outcome:
        """Send the operations, each to both servers, until an answer differs."""
        left, right = (
            Part(side=side, wire=wire, prefix=prefix)
            for side, wire in zip(self._pair.sides, self._wires, strict=True)
        )
        outcome = Outcome(parts=(left, right))
        for number, operation in enumerate(operations):
            if "/experiments/" in operation.path:
                with self._turn:
                    what = self._one(operation, outcome)
            else:
                what = self._one(operation, outcome)
            if what:
                outcome.difference = Difference(operations=operations[: number + 1], what=what)
                break
        return outcome

    def _one(self, operation: Operation, outcome: Outcome) -> str:
        for _ in range(MOST_PAGES):
            answers = []
            requests = [part.request(operation) for part in outcome.parts]
            for part, request in zip(outcome.parts, requests, strict=True):
                answers.append(_sent(part.wire, request))
                part.learn(operation, answers[-1])
            if what := _compare(outcome, requests, answers):
                return what
            token = _token(answers[0]) if operation.pages and operation.method in ("GET", "POST") else ""
            if not token:
                break
            operation = _next_page(operation, token)
        if operation.makes:
            time.sleep(0.002)  # so that what has the server's time has another one
        return ""


def _sent(wire: Wire, request: Request) -> Answer:
    try:
        return wire.send(request)
    except (OSError, HTTPException) as error:
        return Answer(status=0, headers=(), body=repr(error).encode())


def _compare(outcome: Outcome, requests: Sequence[Request], answers: Sequence[Answer]) -> str:
    left, right = (part.masks.answer(answer) for part, answer in zip(outcome.parts, answers, strict=True))
    outcome.answers += 1
    outcome.errors += left.status >= 400
    outcome.same_bytes += left == right
    if left == right:
        return ""
    left, right = (
        part.masks.answer(replace(answer, body=layout(answer.body)))
        for part, answer in zip(outcome.parts, answers, strict=True)
    )
    if left == right:
        return ""
    names = [part.side.name for part in outcome.parts]
    return f"{requests[0]}\n{names[0]} answers {left}\n{names[1]} answers {right}"


def _token(answer: Answer) -> str:
    try:
        token = json.loads(answer.body).get("next_page_token", "")
    except (ValueError, AttributeError):
        return ""
    return token if isinstance(token, str) else ""


def _next_page(operation: Operation, token: str) -> Operation:
    if operation.method == "GET":
        path = re.sub(r"&page_token=[^&]*", "", operation.path)
        return replace(operation, path=f"{path}&page_token={token}")
    return (
        replace(operation, body={**operation.body, "page_token": token})
        if isinstance(operation.body, dict)
        else operation
    )


def table_difference(pair: Pair, outcomes: Iterable[Outcome]) -> str:
    """How the tables differ in what sequences have made, or nothing."""
    outcomes = list(outcomes)
    found = []
    for number, side in enumerate(pair.sides):
        parts = [outcome.parts[number] for outcome in outcomes]
        experiments = {int(experiment) for part in parts for experiment in part.experiments}
        if not experiments:
            return ""
        known = {key: f"{part.prefix}{mask}" for part in parts for key, mask in part.masks.known.items()}
        found.append(contents(side.backend, experiments, known))
    return "\n".join(map(str, differences(*found, pair.left.backend)))


@dataclass(kw_only=True)
class Failure:
    """The first difference that was found, with the fewest operations that show it."""

    seed: int
    number: int
    difference: Difference

    def __str__(self) -> str:
        shown = [
            f"sequence {self.number} of seed {self.seed}: repeat with --seed {self.seed} --only {self.number}"
        ]
        for operation in self.difference.operations:
            shown.append(f"- {operation}")
        return "\n".join([*shown, str(self.difference)])


@dataclass(kw_only=True)
class Report:
    """What a run of many sequences has come to."""

    sequences: int = 0
    answers: int = 0
    same_bytes: int = 0
    errors: int = 0
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """Count a sequence."""
        self.sequences += 1
        self.answers += outcome.answers
        self.same_bytes += outcome.same_bytes
        self.errors += outcome.errors


_campaigns = itertools.count()


class Campaign:
    """Many sequences, in several threads, with a look into the tables every so often."""

    def __init__(self, pair: Pair, *, seed: int, threads: int = 4, most_failures: int = 1) -> None:
        self._pair = pair
        self._seed = seed
        self._threads = threads
        self._most_failures = most_failures
        self._turn = threading.Lock()
        self._mark = f"s{seed}-{next(_campaigns)}-"

    def run(
        self, numbers: Sequence[int], *, each: int = 250, progress: Callable[[Report], None] = lambda _: None
    ) -> Report:
        """Run the sequences of these numbers, and compare the tables after `each` of them."""
        report = Report()
        started = time.monotonic()
        for start in range(0, len(numbers), each):
            self._chunk(numbers[start : start + each], report)
            report.seconds = time.monotonic() - started
            progress(report)
            if len(report.failures) >= self._most_failures:
                break
        return report

    def _chunk(self, numbers: Sequence[int], report: Report) -> None:
        outcomes: dict[int, Outcome] = {}
        waiting = iter(numbers)
        lock = threading.Lock()

        def work() -> None:
            comparer = Comparer(self._pair, self._turn)
            while True:
                with lock:
                    number = next(waiting, None)
                if number is None:
                    break
                outcome = comparer.run(sequence(self._seed, number), f"{self._mark}{number}-")
                with lock:
                    outcomes[number] = outcome
            comparer.close()

        _in_threads(work, self._threads)
        for outcome in outcomes.values():
            report.add(outcome)
        failed = [number for number, outcome in outcomes.items() if outcome.difference]
        failed = failed or self._with_other_tables(outcomes)
        for number in sorted(failed)[: self._most_failures - len(report.failures)]:
            report.failures.append(self._smallest(number, outcomes[number]))

    def _with_other_tables(self, outcomes: dict[int, Outcome]) -> list[int]:
        """The sequence that has made the tables differ: half by half, since a look costs much."""
        numbers = sorted(outcomes)
        if not numbers or not table_difference(self._pair, outcomes.values()):
            return []
        while len(numbers) > 1:
            half = numbers[: len(numbers) // 2]
            in_half = table_difference(self._pair, [outcomes[number] for number in half])
            numbers = half if in_half else numbers[len(half) :]
        return numbers

    def _smallest(self, number: int, outcome: Outcome) -> Failure:
        operations = sequence(self._seed, number)
        found = outcome.difference
        if found is None:
            what = table_difference(self._pair, [outcome])
            found = Difference(operations=operations, what=what, in_tables=True)
        found = Shrinker(self._pair, self._turn, f"{self._mark}{number}-").smallest(found)
        return Failure(seed=self._seed, number=number, difference=found)


def _in_threads(work: Callable[[], None], count: int) -> None:
    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


class Shrinker:
    """Leaves out of a sequence what its difference does not need."""

    SECONDS = 60

    def __init__(self, pair: Pair, turn: threading.Lock, prefix: str) -> None:
        self._pair = pair
        self._comparer = Comparer(pair, turn)
        self._prefix = prefix
        self._tries = 0

    def smallest(self, found: Difference) -> Difference:
        """The smallest that there is time to find; `found` itself when it does not show up again."""
        deadline = time.monotonic() + self.SECONDS
        again = self._difference(found.operations, in_tables=found.in_tables)
        if again is None:
            return replace(found, what="(not seen again when repeated)\n" + found.what)
        found, changed = again, True
        while changed and time.monotonic() < deadline:
            changed = False
            for smaller in _smaller(found.operations):
                if time.monotonic() > deadline:
                    break
                if other := self._difference(smaller, in_tables=found.in_tables):
                    found, changed = other, True
                    break
        self._comparer.close()
        return found

    def _difference(self, operations: Sequence[Operation], *, in_tables: bool) -> Difference | None:
        self._tries += 1
        outcome = self._comparer.run(operations, f"{self._prefix}{self._tries}-")
        if outcome.difference or not in_tables:
            return outcome.difference
        what = table_difference(self._pair, [outcome])
        return Difference(operations=operations, what=what, in_tables=True) if what else None


def _smaller(operations: Sequence[Operation]) -> Iterable[list[Operation]]:
    """The sequence with something left out: an operation, a field, an item of a list."""
    for index in reversed(range(len(operations))):
        yield [*operations[:index], *operations[index + 1 :]]
    for index, operation in enumerate(operations):
        if not isinstance(operation.body, dict):
            continue
        for body in _smaller_bodies(operation.body):
            yield [*operations[:index], replace(operation, body=body), *operations[index + 1 :]]


def _smaller_bodies(body: dict[str, Any]) -> Iterable[dict[str, Any]]:
    for name, value in body.items():
        yield {other: each for other, each in body.items() if other != name}
        if not isinstance(value, list):
            continue
        if len(value) > 8:
            yield {**body, name: value[: len(value) // 2]}
            yield {**body, name: value[len(value) // 2 :]}
            continue
        for index, item in enumerate(value):
            yield {**body, name: [*value[:index], *value[index + 1 :]]}
            if isinstance(item, dict):
                for smaller in _smaller_bodies(item):
                    yield {**body, name: [*value[:index], smaller, *value[index + 1 :]]}
