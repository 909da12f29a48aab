"""What clouds call the GPUs of `plan/devices.py`, and the machines that hold them.

Sources (2026-11): Google Cloud, "GPU machine types" and "GPU network bandwidth"; Vertex AI, AcceleratorType of
google-cloud-aiplatform 2.7; AWS, "Elastic Fabric Adapter: supported instance types"; SkyPilot, `sky show-gpus`.
"""

from __future__ import annotations

from dataclasses import dataclass

from sightline.errors import UserError


@dataclass(frozen=True, slots=True)
class Machine:
    """A Vertex AI machine. `egress`: Gbps that it sends to others."""

    kind: str
    accelerator: str
    egress: int


VERTEX: dict[str, dict[int, Machine]] = {  # GPU -> how many of them -> the machine
    "a100-40gb": {
        count: Machine(f"a2-highgpu-{count}g", "NVIDIA_TESLA_A100", egress)
        for count, egress in {1: 24, 2: 32, 4: 50, 8: 100}.items()
    }
    | {16: Machine("a2-megagpu-16g", "NVIDIA_TESLA_A100", 100)},
    "a100-80gb": {
        count: Machine(f"a2-ultragpu-{count}g", "NVIDIA_A100_80GB", egress)
        for count, egress in {1: 24, 2: 32, 4: 50, 8: 100}.items()
    },
    "b200-180gb": {8: Machine("a4-highgpu-8g", "NVIDIA_B200", 3600)},
    "h100-80gb": {8: Machine("a3-highgpu-8g", "NVIDIA_H100_80GB", 1000)},
    "h200-141gb": {8: Machine("a3-ultragpu-8g", "NVIDIA_H200_141GB", 3600)},
    "l4-24gb": {
        count: Machine(f"g2-standard-{12 * count}", "NVIDIA_L4", egress)
        for count, egress in {1: 16, 2: 32, 4: 50, 8: 100}.items()
    },
}
MEGA = Machine("a3-megagpu-8g", "NVIDIA_H100_MEGA_80GB", 1800)  # the H100 machine of GPUDirect-TCPXO

SKYPILOT: dict[str, str] = {
    "a10g-24gb": "A10G",
    "a100-40gb": "A100",
    "a100-80gb": "A100-80GB",
    "b200-180gb": "B200",
    "h100-80gb": "H100",
    "h200-141gb": "H200",
    "l4-24gb": "L4",
    "l40s-48gb": "L40S",
    "rtx-3090-24gb": "RTX3090",
    "rtx-4090-24gb": "RTX4090",
    "t4-16gb": "T4",
    "v100-32gb": "V100-32GB",
}
EFA: dict[str, int] = {  # adapters of a machine of eight: p4d, p4de, p6-b200, p5, p5en
    "a100-40gb": 4,
    "a100-80gb": 4,
    "b200-180gb": 8,
    "h100-80gb": 32,
    "h200-141gb": 16,
}


def vertex(gpu: str, count: int, *, mega: bool = False) -> Machine:
    """The Vertex AI machine with so many of the GPU. Raises UserError, with the list, where there is none."""
    if mega and gpu == "h100-80gb" and count == 8:
        return MEGA
    if gpu not in VERTEX:
        raise UserError(f"Vertex AI has no {gpu}", where="--gpu", fix=f"use one of {', '.join(VERTEX)}")
    if count not in VERTEX[gpu]:
        there = ", ".join(map(str, VERTEX[gpu]))
        raise UserError(f"Vertex AI has no machine of {count} {gpu}", where="--gpus", fix=f"use {there}")
    return VERTEX[gpu][count]


def skypilot(gpu: str) -> str:
    """What SkyPilot calls the GPU. Raises UserError where it has no name for it."""
    if gpu not in SKYPILOT:
        raise UserError(f"SkyPilot has no name for {gpu}", where="--gpu", fix=f"use one of {', '.join(SKYPILOT)}")
    return SKYPILOT[gpu]
