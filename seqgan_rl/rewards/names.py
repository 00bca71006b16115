"""Rewards by name, and formulas of names: ``0.5*discriminator + 0.5*bleu``, ``normalised(logit)``.

A formula is a sum of terms; a term is a name, or ``wrapper(formula)``, with an optional number and ``*`` before it.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from seqgan_rl.core.errors import InputError
from seqgan_rl.core.registry import Registry
from seqgan_rl.rewards.base import Reward, RewardParts
from seqgan_rl.rewards.mixture import MixtureReward

Factory = Callable[[RewardParts], Reward]
_TOKEN = re.compile(r"\s*(?:(?P<number>\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+)|(?P<name>[^\W\d]\w*)|(?P<sign>[-+*()]))\s*")


@dataclass(frozen=True)
class Term:
    """One term of a formula."""

    weight: float
    name: str
    inner: "tuple[Term, ...]" = ()
    """The formula in brackets; empty where there are none."""

    def names(self) -> Iterator[str]:
        """The rewards named in this term (wrappers are none)."""
        if not self.inner:
            yield self.name
        for term in self.inner:
            yield from term.names()


wrappers: Registry[Callable[[Reward, RewardParts], Reward]] = Registry("wrapper of rewards")
"""Rewards made of another one, by name: ``factory(inner, parts)``."""


class RewardRegistry(Registry[Factory]):
    """Rewards by name or formula: ``factory(parts)`` with :class:`~seqgan_rl.rewards.base.RewardParts`."""

    def __init__(self) -> None:
        super().__init__("reward")
        self._without_discriminator: set[str] = set()

    def register(self, name: str, *, needs_discriminator: bool = True) -> Callable[[Factory], Factory]:
        """Decorator: make a factory known under this name. A name can be taken once."""
        if not needs_discriminator:
            self._without_discriminator.add(name)
        return super().register(name)

    def __getitem__(self, name: str) -> Factory:
        if isinstance(name, str) and not super().__contains__(name) and re.search(r"[-+*()]", name):
            terms = parse(name)
            self._check(terms)
            return lambda parts: self._build(terms, parts)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        if super().__contains__(name):
            return True
        try:
            return isinstance(name, str) and callable(self[name])
        except InputError:
            return False

    def needs_discriminator(self, name: str) -> bool:
        """Whether the reward of this name or formula is built from a discriminator."""
        return not self.names_in(name) <= self._without_discriminator

    def names_in(self, name: str) -> set[str]:
        """The rewards that a name or formula is made of (wrappers are none)."""
        return {name} if super().__contains__(name) else {part for term in parse(name) for part in term.names()}

    def _check(self, terms: tuple[Term, ...]) -> None:
        """InputError unless every name in a formula is known."""
        for term in terms:
            _ = wrappers[term.name] if term.inner else super().__getitem__(term.name)
            self._check(term.inner)

    def _build(self, terms: tuple[Term, ...], parts: RewardParts) -> Reward:
        built = []
        for term in terms:
            if term.inner:
                built.append(wrappers[term.name](self._build(term.inner, parts), parts))
            else:
                built.append(super().__getitem__(term.name)(parts))
        if len(terms) == 1 and terms[0].weight == 1:
            return built[0]
        return MixtureReward([(term.weight, reward) for term, reward in zip(terms, built, strict=True)])


def parse(formula: str) -> tuple[Term, ...]:
    """The terms of a formula. InputError where it is none.

    >>> parse("0.5*discriminator - normalised(bleu)")
    (Term(weight=0.5, name='discriminator', inner=()), Term(weight=-1.0, name='normalised', inner=(Term(weight=1.0, \
name='bleu', inner=()),)))
    """
    words, end = [], 0
    while match := _TOKEN.match(formula, end):
        words.append((str(match.lastgroup), match.group().strip()))
        end = match.end()
    terms, rest = _sum(words) if end == len(formula) else ((), words)
    if not terms or rest:
        raise InputError(
            f"{formula!r} is no reward: write a name, or a sum such as '0.5*discriminator + 0.5*bleu', or "
            "'normalised(logit)'"
        )
    return terms


Words = list[tuple[str, str]]


def _sum(words: Words) -> tuple[tuple[Term, ...], Words]:
    """The terms at the head of the words, and the words after them; no terms where it is no sum."""
    terms: list[Term] = []
    while words:
        sign = 1.0
        if words[0][1] in ("+", "-"):
            sign, words = (-1.0 if words[0][1] == "-" else 1.0), words[1:]
        elif terms:
            break
        term, words = _term(sign, words)
        if term is None:
            return (), words
        terms.append(term)
    return tuple(terms), words


def _term(weight: float, words: Words) -> tuple[Term | None, Words]:
    if len(words) > 2 and words[0][0] == "number" and words[1][1] == "*":
        weight, words = weight * float(words[0][1]), words[2:]
    if not words or words[0][0] != "name":
        return None, words
    name, words = words[0][1], words[1:]
    if not words or words[0][1] != "(":
        return Term(weight, name), words
    inner, words = _sum(words[1:])
    if not inner or not words or words[0][1] != ")":
        return None, words
    return Term(weight, name, inner), words[1:]


def formula_of(weights: Mapping[str, float]) -> str:
    """The formula of weights by name.

    >>> formula_of({"discriminator": 0.5, "bleu": 0.25})
    '0.5*discriminator + 0.25*bleu'
    """
    if not weights:
        raise InputError("a mixture of rewards needs at least one name, got an empty mapping")
    return " + ".join(f"{float(weight)!r}*{name}" for name, weight in weights.items()).replace("+ -", "- ")


rewards = RewardRegistry()
"""Rewards by name or formula."""
