"""One figure of one run. All rows give such, the report and the plot read them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    row: str
    kind: str
    name: str
    """What it is, its unit last."""
    value: float
    at: int = 0
    """With how many streams, messages or events, where a row has several."""

    def __str__(self) -> str:
        return f"{self.row}{f' at {self.at}' if self.at else ''}, {self.kind}: {self.name} {self.value:.2f}"
