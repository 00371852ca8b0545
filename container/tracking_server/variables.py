"""Reads the environment of the process, and names every problem in one error."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


class SettingsError(ValueError):
    """The environment does not describe a server; the message names every variable at fault."""


class Reader:
    """Reads variables and remembers every problem, so that one error can name them all."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._missing: list[str] = []
        self._invalid: list[str] = []

    def text(self, name: str) -> str:
        """The value of a variable that must be there."""
        value = self._environ.get(name, "").strip()
        if not value:
            self._missing.append(name)
        return value

    def optional(self, name: str) -> str:
        """The value of a variable that may be missing: empty then."""
        return self._environ.get(name, "").strip()

    def listed(self, name: str) -> tuple[str, ...]:
        """The parts of a comma-separated value."""
        return tuple(part for part in map(str.strip, self.text(name).split(",")) if part)

    def choice(self, name: str, *allowed: str) -> str:
        """A value that must be one of those allowed."""
        value = self.text(name)
        if value and value not in allowed:
            self.refuse(f"{name}={value!r} must be one of {', '.join(allowed)}")
        return value

    def number(self, name: str, *, minimum: int, maximum: int) -> int:
        """A whole number within limits."""
        value = self.text(name)
        if not value:
            return minimum
        if not value.isdecimal() or not minimum <= int(value) <= maximum:
            self.refuse(f"{name}={value!r} must be a whole number from {minimum} to {maximum}")
            return minimum
        return int(value)

    def existing_file(self, name: str) -> Path:
        """The path of a file that is there."""
        value = self.text(name)
        if value and not Path(value).is_file():
            self.refuse(f"{name}={value!r} is not a file")
        return Path(value)

    def refuse(self, problem: str) -> None:
        """Remember a problem."""
        self._invalid.append(problem)

    @property
    def problems(self) -> list[str]:
        """What is wrong so far."""
        missing = [f"missing environment variables: {', '.join(self._missing)}"] if self._missing else []
        return missing + self._invalid

    def finish(self) -> None:
        """Raise SettingsError if there was any problem."""
        if self.problems:
            raise SettingsError("; ".join(self.problems))
