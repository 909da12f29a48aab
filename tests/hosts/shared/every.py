"""All faults that are planted once for several hosts."""

from __future__ import annotations

from typing import Any

from tests.hosts.planting import named
from tests.hosts.shared import asked, language, loading, networks, pictures

MODULES = (asked, language, loading, networks, pictures)


# Found by hooks on the model alone, which are the same at every door: a quick run plants them in Lightning.
OF_THE_MODEL = {"I4", "I5", "M2", "X2", "X4"}
SLOW = {
    "accelerate": OF_THE_MODEL,
    "hf_trainer": OF_THE_MODEL | {"I1", "I6", "L9", "T8"},
    "lightning": set(),
    "trl": {"I1", "I6", "L3", "L5", "M3", "P2", "P7", "T8"},  # its Trainers are Hugging Face's, where these are planted
}


def planted_in(host: str) -> list[Any]:
    """The faults for a host, as parameters with their names."""
    every = [fault for module in MODULES for fault in vars(module).values() if host in getattr(fault, "hosts", ())]
    return named(every, SLOW[host])
