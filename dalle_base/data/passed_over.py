"""What a source of images leaves out, and why."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from dalle_base.common.report import shown

MOST_REASONS = 8
"""Reasons that one line names."""


class PassedOver:
    """Counts of what was passed over, by reason, with the first example of each.

    As text it is one line: `36 hidden, the first: ._a.png; 2 .heic, the first: b.heic`. Without
    anything in it, it is false.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        """How many, by reason."""
        self.first: dict[str, str] = {}
        """A name for each reason."""

    def add(self, reason: str, name: str, count: int = 1) -> None:
        """Count what has been passed over for a reason."""
        self.counts[reason] += count
        self.first.setdefault(reason, name)

    def update(self, other: "PassedOver") -> None:
        """Add what another has counted."""
        for reason, count in other.counts.items():
            self.add(reason, other.first[reason], count)

    def __bool__(self) -> bool:
        return bool(self.counts)

    def __str__(self) -> str:
        ordered = self.counts.most_common()
        parts = [
            f"{count} {reason}, the first: {shown(self.first[reason])}"
            for reason, count in ordered[:MOST_REASONS]
        ]
        if rest := ordered[MOST_REASONS:]:
            parts.append(f"{sum(count for _, count in rest)} others")
        return "; ".join(parts)


def passed_over_by(*sources: Any) -> PassedOver:
    """Return what sources have passed over, and the sources that they are parts of, each once.

    A source tells by an attribute `passed_over`; what it is made of is in `source` or `sources`.
    Captions that cannot be read are counted once they have been asked for.
    """
    found = PassedOver()
    for source in sources_within(*sources):
        if isinstance(own := getattr(source, "passed_over", None), PassedOver):
            found.update(own)
    return found


def sources_within(*sources: Any) -> Iterator[Any]:
    """Yield sources and those that they are made of (`source`, `sources`), each once."""
    waiting, seen = list(sources), set()
    while waiting:
        source = waiting.pop(0)
        if source is None or id(source) in seen:
            continue
        seen.add(id(source))
        yield source
        waiting += [getattr(source, "source", None), *(getattr(source, "sources", None) or ())]
