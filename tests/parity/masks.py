"""What must differ between two servers, replaced by what it stands for."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from typing import Any

from .wire import Answer

_ID = re.compile(rb"(?i)(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")
_TIME = re.compile(rb"(?<![0-9.])1[0-9]{12}(?![0-9.])")
_NAME = re.compile(rb"'[a-z-]+-[0-9]{1,4}'")

STARTED = int(time.time() * 1000)
"""Milliseconds; what is later was read from a server's clock, since no operation sends such a time."""


class Masks:
    """The ids and the random names of one server's part of a sequence."""

    def __init__(self, *, database: str) -> None:
        self._database = database.encode()
        self._ids: dict[str, str] = {}
        self._names: dict[str, str] = {}

    def learn_run(self, run_id: str, *, name: str | None = None) -> None:
        """The next run has this id, and this random name unless it was asked for."""
        number = len(self._ids)
        self._ids[run_id] = f"<run {number}>"
        if name is not None:
            self._names[name] = f"<name {number}>"

    @property
    def known(self) -> Mapping[str, str]:
        """What each id and each random name stands for."""
        return {**self._ids, **self._names}

    def bytes(self, value: bytes) -> bytes:
        """A body with the masks in place of what they stand for."""
        value = _ID.sub(self._id, value).replace(self._database, b"<database>")
        for name, mask in self._names.items():
            value = value.replace(name.encode(), mask.encode())
        if b"[SQL: INSERT INTO" in value:  # a statement that has failed: no other answer told the name
            value = _NAME.sub(b"'<name>'", value)
        return _TIME.sub(_now, value)

    def text(self, value: str) -> str:
        """As `bytes`."""
        return self.bytes(value.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")

    def answer(self, answer: Answer) -> Answer:
        """An answer with the masks in place of what they stand for."""
        headers = tuple((name, self.text(value)) for name, value in answer.headers)
        return Answer(status=answer.status, headers=headers, body=self.bytes(answer.body))

    def _id(self, match: re.Match[bytes]) -> bytes:
        found = match[0].decode()
        if found in self._ids:
            return self._ids[found].encode()
        if found.lower() in self._ids:
            return self._ids[found.lower()].upper().encode()
        # of something else that the server made: only that it is one can be told
        return b"<id>" if found.startswith("a0000000") else match[0]


def _now(match: re.Match[bytes]) -> bytes:
    # a minute: the clocks of the database and of this process
    return b"<now>" if int(match[0]) >= STARTED - 60_000 else match[0]


_UNORDERED = frozenset({"dataset_inputs", "model_inputs", "model_outputs"})
"""Lists that MLflow reads without an order: the database returns them as its plan of the moment has it."""


def layout(body: bytes) -> bytes:
    """JSON in MLflow's own layout, everything in it as it was: order, repetitions, kinds of numbers.

    What is not JSON is returned as it is.
    """
    try:
        found = json.loads(body, object_pairs_hook=_object)
    except ValueError:
        return body
    return json.dumps(found).encode()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = {key: _ordered(value) if key in _UNORDERED else value for key, value in pairs}
    if len(found) != len(pairs):
        raise ValueError("a key twice")
    return found


def _ordered(value: Any) -> Any:
    return sorted(value, key=json.dumps) if isinstance(value, list) else value
