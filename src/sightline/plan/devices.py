"""GPUs that a plan can be made for: memory, peak rates and bandwidths.

`memory` is what torch tells of one (`get_device_properties(0).total_memory`), less than the name says. Rates are dense
(no sparsity), with fp32 accumulation, from each vendor's data sheet, named in `source`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sightline.errors import UserError, nearest

GIB = 2**30
TERA, GIGA = 1e12, 1e9


@dataclass(frozen=True, slots=True)
class Gpu:
    """One kind of GPU.

    Attributes:
        memory: bytes. half: FLOP/s in bf16 (fp16 where `bf16` is False). single: FLOP/s of fp32 products (TF32 is not
            counted: a recipe's fp32 does not use it). hbm: bytes a second. peers: bytes a second to another GPU of the
            node, in one direction (NVLink, else PCIe). host: bytes a second to the host's memory, in one direction.
    """

    memory: float
    half: float
    single: float
    hbm: float
    peers: float
    host: float
    source: str
    bf16: bool = True


def _gpu(
    gib: float, half: float, single: float, hbm: float, peers: float, pcie: int, source: str, bf16: bool = True
) -> Gpu:
    """`pcie`: the generation of its 16 lanes, 16 GB/s each way for the third and twice as much for each after it."""
    host = 16 * 2 ** (pcie - 3)
    return Gpu(gib * GIB, half * TERA, single * TERA, hbm * GIGA, peers * GIGA, host * GIGA, source, bf16)


GPUS: dict[str, Gpu] = {
    "a10g-24gb": _gpu(22.0, 70.0, 31.5, 600, 32, 4, "NVIDIA A10G as in AWS g5"),
    "a100-40gb": _gpu(39.4, 312.0, 19.5, 1555, 300, 4, "NVIDIA A100 data sheet (SXM)"),
    "a100-80gb": _gpu(79.2, 312.0, 19.5, 2039, 300, 4, "NVIDIA A100 data sheet (SXM)"),
    "b200-180gb": _gpu(178.0, 2250.0, 75.0, 8000, 900, 5, "NVIDIA HGX B200 data sheet (64 TB/s for eight)"),
    "h100-80gb": _gpu(79.1, 989.4, 66.9, 3350, 450, 5, "NVIDIA H100 data sheet (SXM5)"),
    "h100-pcie-80gb": _gpu(79.1, 756.0, 51.0, 2000, 64, 5, "NVIDIA H100 data sheet (PCIe)"),
    "h200-141gb": _gpu(139.7, 989.4, 66.9, 4800, 450, 5, "NVIDIA H200 data sheet (SXM)"),
    "l4-24gb": _gpu(22.0, 121.0, 30.3, 300, 32, 4, "NVIDIA L4 data sheet"),
    "l40s-48gb": _gpu(44.4, 362.0, 91.6, 864, 32, 4, "NVIDIA L40S data sheet"),
    "rtx-3090-24gb": _gpu(23.6, 71.0, 35.6, 936, 32, 4, "NVIDIA GA102 white paper"),
    "rtx-4090-24gb": _gpu(23.6, 165.2, 82.6, 1008, 32, 4, "NVIDIA Ada white paper"),
    "t4-16gb": _gpu(14.6, 65.0, 8.1, 320, 16, 3, "NVIDIA T4 data sheet", bf16=False),
    "v100-32gb": _gpu(31.7, 125.0, 15.7, 900, 150, 3, "NVIDIA V100 data sheet (SXM2)", bf16=False),
}


def find(name: str) -> Gpu:
    """The GPU called `name`. Raises UserError with the list of all for an unknown one."""
    if name.lower() not in GPUS:
        what = f"no GPU is known as '{name}' ({nearest(name, GPUS)})"
        raise UserError(what, where="--gpu", fix=f"use one of {', '.join(GPUS)}")
    return GPUS[name.lower()]


def bandwidth(text: str) -> float:
    """Bytes a second of a link such as 400Gbps, 3.2Tbps or 50GB/s. Raises UserError for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT])(bps|bit/s|B/s)\s*", text)
    if match is None or not float(match[1]):
        raise UserError(f"'{text}' is no bandwidth", where="--link", fix="write e.g. 400Gbps or 50GB/s")
    size = float(match[1]) * {"K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}[match[2]]
    return size if match[3] == "B/s" else size / 8
