"""``torch.compile`` for the inner loop of sampling on a CPU: an option, off unless asked for.

It needs a C++ compiler and some seconds for each shape. What it gives depends on the processor: docs/performance.md.
"""

import logging
import os
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

_enabled = os.environ.get("SEQGAN_RL_COMPILE", "") not in ("", "0")
_has_warned = False

Result = TypeVar("Result")


def set_compiled(enabled: bool) -> None:
    """Whether decoders made from now on in this process compile their inner loop, where they run on a CPU.

    At the start it is off, or on where the environment variable ``SEQGAN_RL_COMPILE`` is 1. Without a C++ compiler
    everything runs as it would without it, and one warning is logged. It changes no draw, except where rounding moves a
    CDF edge across a uniform number; a run is repeated to the bit only with the same setting.
    """
    global _enabled
    _enabled = bool(enabled)


def is_compiled() -> bool:
    """What :func:`set_compiled` set."""
    return _enabled


class Compiled(Generic[Result]):
    """A function that is compiled at the first call with each shape, and runs as it is where that fails."""

    def __init__(self, function: Callable[..., Result]) -> None:
        self._function = function
        self._compiled: Callable[..., Result] | None = None
        self._failed: set[Any] = set()

    def __call__(self, *arguments: Any) -> Result:
        """The function's result."""
        global _has_warned
        key = tuple(tuple(part.shape) if isinstance(part, Tensor) else part for part in arguments)
        if key in self._failed:
            return self._function(*arguments)
        try:
            if self._compiled is None:
                # in this process: workers of the compiler would hold 200 MB each for one small kernel
                self._compiled = torch.compile(
                    self._function, fullgraph=True, dynamic=False, options={"compile_threads": 1}
                )
            return self._compiled(*arguments)
        except Exception as error:  # of many kinds: no compiler, a full disk, an operator that it does not know
            self._failed.add(key)
            if not _has_warned:
                _has_warned = True
                reason = str(error).strip().partition("\n")[0]
                logger.warning("sampling runs without torch.compile, which failed: %s", reason)
            return self._function(*arguments)
