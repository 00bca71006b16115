"""CUDA graphs: a function of tensors whose every launch is known in advance is recorded once and then replayed.

A rollout launches some thousand small kernels; handing each to the GPU takes longer than running it.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

Function = Callable[..., tuple[Tensor, ...]]


class Replayable(Protocol):
    """What :class:`GraphCache` asks of a recorded graph."""

    def replay(self) -> None:
        """Run it again, on what its inputs hold now, into the same outputs."""
        ...


_pools: dict[torch.device, Any] = {}
"""One pool of memory for all graphs of a GPU; see :class:`GraphCache`."""


def capture_on_cuda(function: Function, inputs: tuple[Tensor, ...]) -> tuple[Replayable, tuple[Tensor, ...]]:
    """Record ``function(*inputs)``, after one run on the side that sets up what libraries allocate at first use."""
    device = inputs[0].device
    with torch.cuda.device(device):
        if device not in _pools:
            _pools[device] = torch.cuda.graph_pool_handle()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            function(*inputs)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=_pools[device], capture_error_mode="thread_local"):
            outputs = function(*inputs)
    return graph, outputs


class GraphCache:
    """Runs functions of tensors, from the second time that a key and its inputs' shapes occur as a recorded graph.

    Sizes that occur once are never recorded. Inputs are copied into the graph's own and outputs copied out, so that
    nobody holds what the next replay overwrites; for that reason graphs may share one pool of memory. The longest
    unused graph makes room for a new one. Where recording fails, the function runs as it is, and the log says so once.

    Args:
        limit: graphs (and sizes seen once) kept at most.
        capture: records a function; a test hands in its own.
        device_type: of the devices whose functions are recorded; elsewhere they just run.
    """

    def __init__(
        self,
        limit: int = 64,
        capture: Callable[[Function, tuple[Tensor, ...]], tuple[Replayable, tuple[Tensor, ...]]] = capture_on_cuda,
        device_type: str = "cuda",
    ) -> None:
        self.limit, self._capture, self._device_type = limit, capture, device_type
        self._entries: OrderedDict[Hashable, _Entry | None] = OrderedDict()
        self._lock = threading.Lock()  # a graph's inputs are its own: one replay at a time
        self._has_warned = False

    def __len__(self) -> int:
        return len(self._entries)

    def run(self, key: Hashable, function: Function, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """``function(*inputs)``. What it does must depend on ``key`` and the inputs alone."""
        if inputs[0].device.type != self._device_type:
            return function(*inputs)
        key = (key, *((tuple(part.shape), part.dtype, part.device) for part in inputs))
        with self._lock:
            entry = self._entries.get(key)
            if key not in self._entries:
                self._entries[key] = None  # seen once
            elif entry is None:
                entry = self._entries[key] = self._record(function, inputs)
            self._entries.move_to_end(key)
            if len(self._entries) > self.limit:
                self._entries.popitem(last=False)
            if entry is not None and entry.graph is not None:
                for own, given in zip(entry.inputs, inputs, strict=True):
                    own.copy_(given)
                entry.graph.replay()
                return tuple(output.clone() for output in entry.outputs)
        return function(*inputs)

    def _record(self, function: Function, inputs: tuple[Tensor, ...]) -> "_Entry":
        try:
            # a graph made under inference mode could not be replayed outside it
            with torch.inference_mode(False), torch.no_grad():
                own_inputs = tuple(part.clone() for part in inputs)
                graph, outputs = self._capture(function, own_inputs)
        except RuntimeError as error:
            if not self._has_warned:
                self._has_warned = True
                logger.warning("rollouts run without CUDA graphs: one could not be recorded: %s", error)
            return _Entry(None, (), ())
        return _Entry(graph, own_inputs, outputs)


class _Entry(NamedTuple):
    """A recorded function; without a graph where recording failed."""

    graph: Replayable | None
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
