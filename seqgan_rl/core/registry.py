"""Names for the parts that users may replace: generators, discriminators and rewards."""

import difflib
import inspect
import reprlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from seqgan_rl.core.errors import InputError

T = TypeVar("T")
_LIBRARY = __name__.partition(".")[0]
_elsewhere: dict[tuple[str, str], str] = {}


def registered_elsewhere() -> dict[tuple[str, str], str]:
    """The modules outside of the library that have registered something, by its kind and name."""
    return dict(_elsewhere)


def did_you_mean(name: str, known: list[str]) -> str:
    """``" (did you mean 'x'?)"`` where a known name is near, else nothing."""
    near = difflib.get_close_matches(name, known, n=1) if len(name) < 100 else []
    return f" (did you mean {near[0]!r}?)" if near else ""


def accepted(factory: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    """Those of the options that a factory takes: all where it has ``**options``, else the ones it names.

    >>> accepted(lambda size, *, depth=1: None, {"depth": 2, "width": 3})
    {'depth': 2}
    """
    parameters = inspect.signature(factory).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return options
    return {name: options[name] for name in options if name in {parameter.name for parameter in parameters}}


def _caller() -> str:
    """The module that registers: what another process has to import to know the same names."""
    frame = sys._getframe(1)
    while frame.f_back is not None and isinstance(frame.f_locals.get("self"), Registry):
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", ""))


def _identity(factory: object) -> tuple[object, object]:
    """Module and name: the same for a notebook cell that is run again."""
    return getattr(factory, "__module__", None), getattr(factory, "__qualname__", factory)


class Registry(Generic[T]):
    """Factories by name.

    >>> shapes: Registry[Callable[[], str]] = Registry("shape")
    >>> @shapes.register("round")
    ... def circle() -> str:
    ...     return "o"
    >>> shapes["round"]()
    'o'
    >>> shapes["rund"]
    Traceback (most recent call last):
    seqgan_rl.core.errors.InputError: unknown shape 'rund' (did you mean 'round'?); known are: round
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._factories: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator: make a factory known under this name. A name can be taken once."""
        module = _caller()

        def add(factory: T) -> T:
            known = self._factories.setdefault(name, factory)
            if _identity(known) != _identity(factory):
                raise ValueError(f"a {self.kind} named {name!r} is registered already; choose another name")
            self._factories[name] = factory
            if module.partition(".")[0] != _LIBRARY:
                _elsewhere[self.kind, name] = module
            return factory

        return add

    def __getitem__(self, name: str) -> T:
        if name not in self._factories:
            known = sorted(self._factories)
            hint = did_you_mean(str(name), known)
            raise InputError(f"unknown {self.kind} {reprlib.repr(name)}{hint}; known are: {', '.join(known)}")
        return self._factories[name]

    def __contains__(self, name: object) -> bool:
        return name in self._factories

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._factories))
