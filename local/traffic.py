"""How often which operation was called, and refusals on order: what tests of clients ask for."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

from local.endpoint import ApiCall, ServiceError


class Traffic:
    """Counts calls by service and operation, and refuses as many of one as it was told to."""

    def __init__(self) -> None:
        self._calls: Counter[tuple[str, str]] = Counter()
        self._orders: dict[tuple[str, str], list[Callable[[], ServiceError]]] = {}
        self._lock = threading.Lock()

    @property
    def calls(self) -> Counter[tuple[str, str]]:
        """How many calls of each operation arrived, refused ones too."""
        with self._lock:
            return self._calls.copy()

    def refuse(self, service: str, operation: str, error: Callable[[], ServiceError], *, times: int) -> None:
        """Answer the next calls of an operation with an error."""
        with self._lock:
            self._orders.setdefault((service, operation), []).extend([error] * times)

    def __call__(self, call: ApiCall) -> None:
        """Count a call, and raise ServiceError if it is one to refuse."""
        with self._lock:
            self._calls[call.service, call.name] += 1
            orders = self._orders.get((call.service, call.name))
            error = orders.pop(0) if orders else None
        if error is not None:
            raise error()
