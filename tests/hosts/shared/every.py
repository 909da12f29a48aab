"""All faults that are planted once for several hosts."""

from __future__ import annotations

from typing import Any

import pytest

from tests.hosts.shared import asked, language, loading, networks, pictures

MODULES = (asked, language, loading, networks, pictures)


def planted_in(host: str) -> list[Any]:
    """The faults for a host, as parameters with their names."""
    every = [fault for module in MODULES for fault in vars(module).values() if host in getattr(fault, "hosts", ())]
    return [pytest.param(fault, id=f"{fault.plants} {fault.__name__.replace('_', ' ')}") for fault in every]
