"""Patches of moto: a method gets something to do besides what moto does, until the embedded AWS closes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Patches:
    """The patched methods, to be put back by `undo`."""

    def __init__(self) -> None:
        self._originals: list[tuple[type, str, Any]] = []

    def replace(self, owner: type, name: str, attribute: Any) -> None:
        """Put `attribute` (a function, a property) in place of a class's own."""
        self._originals.append((owner, name, owner.__dict__[name]))
        setattr(owner, name, attribute)

    def wrap(self, owner: type, name: str, around: Callable[..., Any]) -> None:
        """Have `around(original, self, *args, **kwargs)` called instead of a method."""
        original = owner.__dict__[name]

        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            return around(original, self, *args, **kwargs)

        self.replace(owner, name, method)

    def undo(self) -> None:
        """Put everything back, last first."""
        while self._originals:
            owner, name, original = self._originals.pop()
            setattr(owner, name, original)
