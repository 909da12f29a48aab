"""The run's model at home: one copy of its weights on each machine, in memory that the machine's processes share.

The first process of a machine builds it. It lays weights and buffers into memory without a name in any folder
(memfd_create(2)): nothing has to be deleted, however a process ends, and no container's small /dev/shm limits it. The
rest of the model (modules, configurations, tokenizer) is pickled behind them; the others unpickle that, with weights
that lie in the same memory, through the first one's open descriptor. So they never build, read or hold weights of
their own, and what they have is the first one's to the bit.

From then on only the process that built may write there, and only while no layout trains (see `Layout.keeps`).
"""

from __future__ import annotations

import io
import mmap
import os
import pickle
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sightline.models.build import Built
from sightline.train.parallel.presence import Presence, present

APART = 64  # bytes between two tensors' beginnings, or a multiple: as torch aligns what it allocates


class Place(NamedTuple):
    """Where a tensor lies in the shared memory, and how."""

    start: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    learns: bool | None  # of a parameter: its `requires_grad`

    def tensor(self, memory: mmap.mmap) -> Tensor:
        """What lies there, with a storage of its own."""
        count = torch.Size(self.shape).numel()
        flat = torch.frombuffer(memory, dtype=self.dtype, count=count, offset=self.start)
        return flat.as_strided(self.shape, self.strides)

    def part(self, memory: mmap.mmap) -> Tensor:
        """The same as a part of a model."""
        tensor = self.tensor(memory)
        return tensor if self.learns is None else nn.Parameter(tensor, self.learns)


class Memory(NamedTuple):
    """What a process tells of the memory that it has opened: its number, the descriptor's, the name, bytes of tensors.

    The name is in no folder; it shows that the process is the one that was meant.
    """

    process: int
    descriptor: int
    name: str
    size: int

    def open(self) -> IO[bytes]:
        """The memory as a file. Raises OSError where it cannot be reached."""
        path = f"/proc/{self.process}/fd/{self.descriptor}"
        if self.name not in os.readlink(path):
            raise FileNotFoundError(f"{path} is not what the machine's first process opened")
        return open(path, "r+b")


def shared(make: Callable[[], Built]) -> tuple[Built, bool]:
    """What `make` makes, of which the processes of a machine share the weights; all processes of the run must call.

    Where they cannot be shared, each process makes its own, with a warning.

    Returns:
        The model, and whether this process made it.
    """
    presence, place = present(), int(os.environ.get("LOCAL_RANK", "0"))
    if presence is None:
        return make(), True
    made = place == 0
    built = make() if made else None
    file = lay_out(built) if built is not None else None
    own = Memory(os.getpid(), file[0].fileno(), *file[1:]) if file is not None else None
    presence.barrier()  # making may take longer than an exchange
    told: list[Memory | None] = [None] * presence.world
    dist.all_gather_object(told, own)
    if built is None and (built := taken(_of_this_machine(presence, told, place))) is None:
        built, made = make(), True
    presence.barrier()  # until all have opened it
    if file is not None:
        file[0].close()
    return built, made


def _of_this_machine(presence: Presence, told: Sequence[Memory | None], place: int) -> Memory | None:
    """What the first of this launcher's processes told, where it is on this host."""
    first = presence.rank - place
    alike = first >= 0 and presence.machines[first].host == presence.machines[presence.rank].host
    return told[first] if alike else None


def lay_out(built: Built) -> tuple[IO[bytes], str, int] | None:
    """Move the weights of `built` into shared memory, tensor by tensor; the rest of it is written behind them."""
    tensors = [each for each in (*built.model.parameters(), *built.model.buffers()) if _plain(each)]
    places, size = _places(tensors)
    behind, name = io.BytesIO(), f"sightline-{uuid.uuid4().hex}"
    try:
        pickle.dump(places, behind)
        _Pickler(behind, {id(each): number for number, each in enumerate(tensors)}).dump(built)
        descriptor = os.memfd_create(name)  # of Linux alone
    except (pickle.PicklingError, AttributeError, TypeError, OSError) as error:
        _warn(error)
        return None
    file = os.fdopen(descriptor, "r+b")
    file.truncate(size)
    file.seek(size)
    file.write(behind.getbuffer())
    file.flush()
    if size:
        memory = mmap.mmap(file.fileno(), size)
        with torch.no_grad():
            for tensor, place in zip(tensors, places, strict=True):
                there = place.tensor(memory)
                there.copy_(tensor)
                tensor.data = there  # and what it had is given back before the next one is copied
    return file, name, size


def _plain(tensor: Tensor) -> bool:
    return type(tensor) in (Tensor, nn.Parameter) and tensor.numel() > 0 and tensor.device.type == "cpu"


def _places(tensors: Sequence[Tensor]) -> tuple[list[Place], int]:
    """Where each of `tensors` will lie, in its own order of memory, and the bytes of all."""
    places, end = [], 0
    for tensor in tensors:
        strides = torch.empty_like(tensor, device="meta").stride()
        learns = tensor.requires_grad if isinstance(tensor, nn.Parameter) else None
        places.append(Place(end, tensor.dtype, tuple(tensor.shape), strides, learns))
        end += -(-tensor.nbytes // APART) * APART
    return places, end


class _Pickler(pickle.Pickler):
    """Writes everything but the tensors that lie in shared memory, which it numbers."""

    def __init__(self, file: IO[bytes], numbers: Mapping[int, int]) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._numbers = numbers

    def persistent_id(self, obj: Any) -> int | None:
        return self._numbers.get(id(obj)) if isinstance(obj, Tensor) else None


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: IO[bytes], tensors: Sequence[Tensor]) -> None:
        super().__init__(file)
        self._tensors = tensors

    def persistent_load(self, pid: int) -> Tensor:
        return self._tensors[pid]


def taken(memory: Memory | None) -> Built | None:
    """What another process has laid into `memory`; None where it has not, or it cannot be reached."""
    if memory is None:
        return None
    try:
        with memory.open() as file:
            file.seek(memory.size)
            places: list[Place] = pickle.load(file)
            mapped = mmap.mmap(file.fileno(), memory.size) if places else None
            tensors = [place.part(mapped) for place in places] if mapped is not None else []
            built: Built = _Unpickler(file, tensors).load()
            return built
    except OSError as error:
        _warn(error)
        return None


def _warn(error: Exception) -> None:
    what = "the model's weights cannot be shared by the processes of a machine, so each holds all of them"
    warnings.warn(f"{what}: {type(error).__name__}: {error}", stacklevel=3)


@contextmanager
def moved(home: nn.Module, device: torch.device) -> Iterator[None]:
    """`home` on `device` inside the block, and afterwards where it was: shared memory stays the home's."""
    kept = [
        (own, name, each) for m in home.modules() for own in (m._parameters, m._buffers) for name, each in own.items()
    ]
    data = {id(each): each.data for _, _, each in kept if each is not None}
    home.to(device)
    try:
        yield
    finally:
        for own, name, each in kept:
            own[name] = each  # type: ignore[assignment]
            if each is not None:
                each.data = data[id(each)]
