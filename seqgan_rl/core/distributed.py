"""One run on several processes, as ``torchrun`` starts them: every rank holds the whole state, and they share the work.

All ranks run the same program on the same data with the same random streams, so they go the same way. Only what is
expensive is split, by rows, and put together before anyone looks at it. Rank 0 alone writes the run.
Letters: W ranks, B rows of a whole batch, M of them this rank's.
"""

import contextlib
import io
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from seqgan_rl.core.errors import InputError

_LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What ``torchrun`` tells its processes by their environment."""
_REMOVE = "import shutil, sys; sys.stdin.read(); shutil.rmtree(sys.argv[1], ignore_errors=True)"


@dataclass(frozen=True)
class Ranks:
    """The processes of one run. All must make the same calls in the same order."""

    rank: int
    """This one's number, in [0, W)."""
    size: int
    """W."""

    @property
    def share(self) -> slice:
        """This rank's rows of any batch: every W-th, so that rows in the order of their cost are split evenly."""
        return slice(self.rank, None, self.size)

    def counts(self, counts_G: Sequence[int]) -> tuple[int, ...]:
        """How many rows of each group are this rank's, where the batch is made of groups of so many rows."""
        start, mine = 0, []
        for count in counts_G:
            mine.append(len(range(start, start + count)[(self.rank - start) % self.size :: self.size]))
            start += count
        return tuple(mine)

    def gather(self, mine_M: Tensor, num_rows: int) -> Tensor:
        """The rows of all ranks in order, (B, ...), from each one's share, (M, ...); exact."""
        whole_B = mine_M.new_zeros(num_rows, *mine_M.shape[1:])
        if num_rows:
            whole_B[self.share] = mine_M
            distributed.all_reduce(whole_B)  # the others have zeros there
        return whole_B

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Make each tensor the sum of all ranks', in place: of gradients, and what goes with them. The same bits on all
        ranks; the tensors have one type and device."""
        flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
        distributed.all_reduce(flat)
        for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.detach().copy_(total.view_as(tensor))

    def follow_first(self, tensors: Iterable[Tensor]) -> None:
        """Make each tensor that of rank 0, in place."""
        for tensor in tensors:
            distributed.broadcast(tensor.detach(), src=0)

    def whole_draws(self, *sizes: int) -> "AbstractContextManager[object]":
        """Inside, a network that reads this rank's shares of so many rows each, one share after the other, draws the
        dropout that the whole batch would draw: all ranks draw all of it, and each takes its rows.

        That is known of ``nn.Dropout``, ``functional.dropout`` and ``torch.rand`` where the network calls them itself
        with one row a sequence. Other draws are this rank's own.
        """
        parts = torch.arange(sum(sizes)).split(list(sizes))
        return _WholeDraws(torch.cat([part[self.share] for part in parts]), sum(sizes))

    def send_folder(self, folder: Path, *, leave_out: Sequence[str] = ()) -> None:
        """Rank 0: give the others copies of a folder (:meth:`folder_of_first`), less hidden files and some names."""
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for path in sorted(folder.rglob("*")):
                place = path.relative_to(folder)
                if place.parts[0] not in leave_out and not any(part.startswith(".") for part in place.parts):
                    archive.write(path, place)
        data = torch.frombuffer(bytearray(file.getbuffer()), dtype=torch.uint8)
        self.follow_first([torch.tensor([len(data)]), data])

    @contextmanager
    def folder_of_first(self) -> Iterator[Path]:
        """Any other rank: a temporary copy of the folder that rank 0 sends, removed however this process ends."""
        self.follow_first([size := torch.zeros(1, dtype=torch.int64)])
        self.follow_first([data := torch.empty(int(size), dtype=torch.uint8)])
        folder = Path(tempfile.mkdtemp(prefix="seqgan_rl-rank-"))
        # removed by a process of its own: the end of this one, be it by a signal, is the end of that one's input
        remover = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _REMOVE, folder], stdin=subprocess.PIPE, start_new_session=True
        )
        try:
            with zipfile.ZipFile(io.BytesIO(data.numpy().tobytes())) as archive:
                archive.extractall(folder)
            del data
            yield folder
        finally:
            remover.communicate()


_ranks: Ranks | None = None


def ranks(num_rows: int | None = None) -> Ranks | None:
    """The processes that share the work of the run in progress, and of ``num_rows`` rows where they are given; None
    where this process does it alone: there is only one, or not a row for each."""
    return None if _ranks is None or (num_rows is not None and num_rows < _ranks.size) else _ranks


def is_first() -> bool:
    """Whether this process writes and speaks: all do but those that ``torchrun`` has given a rank above 0."""
    return not _is_launched() or os.environ["RANK"] == "0"


def _is_launched() -> bool:
    return all(name in os.environ for name in _LAUNCHED) and os.environ["WORLD_SIZE"] != "1"


@contextmanager
def joined() -> Iterator[Ranks | None]:
    """Inside, the processes that ``torchrun`` has started are one group: gloo for what is on the CPU, NCCL for what is
    on GPUs. None, and nothing is done, where this is the only process.

    After an error the group is left as it is: the others cannot go on, and ``torchrun`` ends them with this one.
    """
    global _ranks
    if not _is_launched():
        yield None
        return
    distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    _ranks = Ranks(distributed.get_rank(), distributed.get_world_size())
    try:
        yield _ranks
        leave()
    finally:
        _ranks = None


def leave() -> None:
    """End the group, on all ranks together; what follows everyone does alone."""
    global _ranks
    if _ranks is not None:
        distributed.destroy_process_group()
        _ranks = None


def take_device(name: str) -> None:
    """Let "cuda" mean the GPU that is this rank's own on its machine. InputError where there are not enough, or where
    all are told to take the same."""
    if _ranks is None or torch.device(name).type != "cuda":
        return
    local, found = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if name != "cuda":
        raise InputError(f"device: under torchrun every process takes a GPU of its own; expected 'cuda', got {name!r}")
    if local >= found:
        raise InputError(
            f"device: every process needs a GPU of its own, but this is number {local + 1} on a machine with {found}; "
            f"start torchrun with --nproc-per-node {found}"
        )
    torch.cuda.set_device(local)


class _WholeDraws(TorchFunctionMode):
    """See :meth:`Ranks.whole_draws`."""

    def __init__(self, rows_M: Tensor, num_rows: int) -> None:
        super().__init__()
        self.rows_M, self.num_rows = rows_M, num_rows

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.dropout:
            return self._dropout(*args, **kwargs)
        if func is torch.rand and args:
            size = tuple(args[0] if len(args) == 1 and not isinstance(args[0], int) else args)
            if size[:1] == (len(self.rows_M),):
                return torch.rand(self.num_rows, *size[1:], **kwargs)[self.rows_M]
        return func(*args, **kwargs)

    def _dropout(self, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or len(x) != len(self.rows_M):
            return functional.dropout(x, p, training, inplace)
        # draws follow the order in memory, which need not be that of the dimensions
        order, shape = sorted(range(x.dim()), key=x.stride, reverse=True), (self.num_rows, *x.shape[1:])
        ones = x.new_ones([shape[d] for d in order]).permute([order.index(d) for d in range(x.dim())])
        return x * functional.dropout(ones, p)[self.rows_M]


def drawn_whole(ranks: Ranks | None, *sizes: int) -> "AbstractContextManager[object]":
    """:meth:`Ranks.whole_draws`, or nothing where one process has the whole batch."""
    return contextlib.nullcontext() if ranks is None else ranks.whole_draws(*sizes)
