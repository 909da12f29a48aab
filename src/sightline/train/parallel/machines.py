"""What each rank runs on, and whether ranks so unlike each other can train together."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from sightline.errors import UserError

ALIKE = 0.02  # of the memory: two GPUs of one kind differ by what the driver keeps for itself


@dataclass(frozen=True, slots=True)
class Machine:
    """A rank's process and device. `memory` is the device's, in bytes; 0 for a CPU, which ranks of a host share."""

    host: str
    process: int
    device: str
    name: str
    memory: int
    version: str  # torch's

    @classmethod
    def here(cls, device: torch.device) -> Machine:
        """Of this process."""
        name, memory = device.type, 0
        if device.type == "cuda":
            found = torch.cuda.get_device_properties(device)
            name, memory = found.name, found.total_memory
        return cls(socket.gethostname(), os.getpid(), device.type, name, memory, str(torch.__version__))

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Machine:
        """The inverse of `told`."""
        return cls(**told)

    def told(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)


def unlike(machines: Mapping[int, Machine]) -> str | None:
    """What to warn of: ranks with other GPUs than the rest, which the rest will wait for. None: all are alike.

    Raises:
        UserError: kinds of device, or versions of torch, that cannot be in one run.
    """
    if len(kinds := _ranks_by(machines, "device")) > 1:
        fix = "set device to what all of them have, or leave the others out"
        raise UserError(f"ranks compute on unlike devices: {_listed(kinds)}", where="device", fix=fix)
    if len(versions := _ranks_by(machines, "version")) > 1:
        fix = "install one version of torch everywhere"
        raise UserError(f"ranks have unlike versions of torch: {_listed(versions)}", where="torch", fix=fix)
    shown: dict[str, list[int]] = {}
    for rank, each in sorted(machines.items()):
        near = [key for key in shown if _same(machines[shown[key][0]], each)]
        shown.setdefault(near[0] if near else _gpu(each), []).append(rank)
    if len(shown) < 2:
        return None
    return (
        f"the ranks' GPUs are unlike: {_listed(shown)}. Each step waits for the slowest of them, and a micro-batch has "
        "to fit into the smallest"
    )


def ranks_told(ranks: list[int]) -> str:
    """[0, 1, 2, 5] -> "ranks 0-2, 5"."""
    parts: list[list[int]] = []
    for rank in sorted(ranks):
        if parts and rank == parts[-1][-1] + 1:
            parts[-1].append(rank)
        else:
            parts.append([rank])
    said = ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
    return f"rank{'s' if len(ranks) > 1 else ''} {said}"


def _ranks_by(machines: Mapping[int, Machine], fact: str) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for rank, each in sorted(machines.items()):
        found.setdefault(str(getattr(each, fact)), []).append(rank)
    return found


def _listed(found: Mapping[str, list[int]]) -> str:
    return "; ".join(f"{ranks_told(ranks)}: {what}" for what, ranks in found.items())


def _same(one: Machine, other: Machine) -> bool:
    return one.name == other.name and abs(one.memory - other.memory) <= ALIKE * max(one.memory, other.memory)


def _gpu(each: Machine) -> str:
    return f"{each.name}, {each.memory / 2**30:.0f} GiB ({each.host})"
