"""The list prices that `kit cost` knows: dated files of `kit/prices/`, never the network."""

from __future__ import annotations

from datetime import date
from functools import cache
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self

PRICES = Path(__file__).parent / "prices"


class Source(BaseModel):
    """Where a price was read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    address: str


class Price(BaseModel):
    """What one unit costs.

    Attributes:
        price: in the currency of the table.
        as_of: date of the source, or the day it was read where the source bears none.
        source: a key of the table's sources.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    price: float = Field(ge=0)
    unit: str
    regions: tuple[str, ...] = Field(min_length=1)
    as_of: date
    source: str


class PriceTable(BaseModel):
    """The prices of one partition."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    partition: str
    currency: str
    sources: dict[str, Source]
    prices: tuple[Price, ...]

    @model_validator(mode="after")
    def _sound(self) -> Self:
        seen: set[tuple[str, str]] = set()
        for price in self.prices:
            if price.source not in self.sources:
                raise ValueError(f"{price.key}: there is no source {price.source}")
            for region in price.regions:
                if (price.key, region) in seen:
                    raise ValueError(f"{price.key} has two prices in {region}")
                seen.add((price.key, region))
        return self

    @property
    def regions(self) -> list[str]:
        """Regions with any price of what the stacks make."""
        own = (price for price in self.prices if not price.key.startswith("sagemaker."))
        return sorted({region for price in own for region in price.regions})

    def find(self, key: str, *, region: str) -> Price | None:
        """The price of `key` in `region`, or None: no other region's price takes its place."""
        return next((price for price in self.prices if price.key == key and region in price.regions), None)

    def unit(self, key: str) -> str:
        """What `key` is counted in, wherever it has a price.

        Raises:
            KeyError: the table knows no such key.
        """
        for price in self.prices:
            if price.key == key:
                return price.unit
        raise KeyError(key)


@cache
def load() -> PriceTable:
    """The table of the partition `aws`; there is none of another."""
    content = yaml.safe_load((PRICES / "aws.yaml").read_text(encoding="utf-8"))
    return PriceTable.model_validate(content)
