"""What makes two scores comparable: they were measured with the same things."""

from dataclasses import fields
from typing import Any, ClassVar


class Comparable:
    """Base of the signatures, which are frozen dataclasses."""

    may_differ: ClassVar[tuple[str, ...]] = ()
    """Fields that comparable scores may differ in."""

    def differences(self, other: Any) -> list[str]:
        """What makes the two incomparable, as "name: this != other"; empty if they can be compared."""
        names = [f.name for f in fields(self) if f.name not in self.may_differ]  # type: ignore[arg-type]  # a dataclass
        pairs = [(name, getattr(self, name), getattr(other, name)) for name in names]
        return [f"{name}: {mine} != {theirs}" for name, mine, theirs in pairs if mine != theirs]

    def comparable_with(self, other: Any) -> bool:
        """Whether the two differ in nothing but what they may differ in."""
        return not self.differences(other)
