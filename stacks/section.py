"""What all sections of an environment file have in common."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict

from stacks import values


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def _all_or_none(self, *keys: str) -> bool:
        """Whether `keys` are all given.

        Raises:
            PydanticCustomError: some are given and some are not.
        """
        missing = [key for key in keys if not getattr(self, key)]
        if 0 < len(missing) < len(keys):
            raise values.refuse(
                f"missing, while {_listed(key for key in keys if key not in missing)} is given",
                allowed=f"{_listed(keys)} together, or none of them",
                key=missing[0],
            )
        return not missing

    def _only_without(self, given: str, *keys: str) -> None:
        """Refuse `keys`, which describe something to be created, beside `given`, which imports it."""
        for key in keys:
            if key in self.model_fields_set:
                raise values.refuse(
                    f"has no meaning beside {given}", allowed=f"leave out {key} or {given}", key=key
                )


def _listed(keys: Iterable[str]) -> str:
    return ", ".join(keys)
