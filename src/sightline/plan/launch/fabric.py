"""What NCCL is told of the wires between GPUs, each setting with the reason for it.

NCCL finds good values itself where nothing is written here; a setting stands only where its own search can go wrong.
Sources: NVIDIA, NCCL user guide, "Environment Variables"; AWS, aws-ofi-nccl README and the EFA user guide;
Google Cloud, "Maximize GPU network bandwidth in Standard mode clusters" (GPUDirect-TCPX, TCPXO).
"""

from __future__ import annotations

from dataclasses import dataclass

from sightline.errors import UserError, nearest


@dataclass(frozen=True, slots=True)
class Setting:
    """An environment variable of every rank, and why it has this value."""

    name: str
    value: str
    why: str


@dataclass(frozen=True, slots=True)
class Fabric:
    """`nodes`: whether it joins several machines. `profile`: a file that came with a plugin and is to be sourced.

    `fast`: whether it needs more of a machine than an interface.
    """

    what: str
    settings: tuple[Setting, ...]
    nodes: bool = True
    profile: str | None = None
    fast: bool = True


EVERYWHERE = (Setting("NCCL_DEBUG", "WARN", "NCCL says why it stops; INFO tells of every connection, for a first run"),)
SOCKETS = "the host network, for the meeting of ranks and for what is not carried by the fast wires"

FABRICS: dict[str, Fabric] = {
    "infiniband": Fabric(
        "InfiniBand or RoCE adapters (mlx5), GPUDirect RDMA",
        (
            Setting(
                "NCCL_IB_HCA",
                "mlx5",
                "every adapter whose name begins so; write =mlx5_0,mlx5_3 to leave storage adapters out",
            ),
            Setting("NCCL_SOCKET_IFNAME", "^lo,docker,virbr", f"{SOCKETS}: not by loopback or bridges"),
            Setting("NCCL_NET_GDR_LEVEL", "PHB", "adapters write to GPUs of the same NUMA node past the host's memory"),
            Setting(
                "NCCL_IB_TIMEOUT",
                "22",
                "17 s rather than 4 s until a packet counts as lost: switches of large fabrics re-route",
            ),
            Setting(
                "NCCL_BUFFSIZE",
                "8388608",
                "8 MiB rather than 4 MiB between two GPUs, for the large messages of gradients",
            ),
        ),
    ),
    "efa": Fabric(
        "AWS Elastic Fabric Adapter (p4d, p5), through the plugin aws-ofi-nccl of the image",
        (
            Setting(
                "FI_PROVIDER",
                "efa",
                "libfabric's provider; without it a machine lacking EFA would fall back to TCP in silence",
            ),
            Setting(
                "FI_EFA_USE_DEVICE_RDMA",
                "1",
                "GPUDirect RDMA, which libfabric before 1.18 does not ask for itself on p4d",
            ),
            Setting("FI_EFA_FORK_SAFE", "1", "processes that load data are forked beside registered memory"),
            Setting("NCCL_SOCKET_IFNAME", "^lo,docker,veth", f"{SOCKETS}: not by loopback or bridges of containers"),
        ),
    ),
    "gcp-tcpx": Fabric(
        "GPUDirect-TCPX of Google's a3-highgpu-8g: four 200 Gbps adapters for eight GPUs",
        (
            Setting("NCCL_NET", "GPUDirectTCPX_v7", "fail where the plugin is missing rather than go through the host"),
            Setting("NCCL_SOCKET_IFNAME", "eth0", "the host network; eth1 to eth4 belong to the plugin"),
            Setting("NCCL_GPUDIRECTTCPX_CTRL_DEV", "eth0", "where the plugin's control messages go"),
            Setting("NCCL_GPUDIRECTTCPX_SOCKET_IFNAME", "eth1,eth2,eth3,eth4", "where GPUs' data goes"),
            Setting("NCCL_CROSS_NIC", "0", "each adapter talks to its like: they are on networks of their own"),
            Setting("NCCL_ALGO", "Ring", "what the plugin is made for"),
            Setting("NCCL_PROTO", "Simple", "low-latency protocols do not go over the plugin"),
            Setting("NCCL_P2P_PXN_LEVEL", "0", "no forwarding through another GPU's adapter"),
            Setting("NCCL_NET_GDR_LEVEL", "PIX", "an adapter writes to the GPUs on its own PCIe switch"),
            Setting("NCCL_DYNAMIC_CHUNK_SIZE", "524288", "Google's value, for fewer and larger sends"),
            Setting("NCCL_BUFFSIZE", "4194304", "Google's value; it is what the plugin's receive buffers are cut for"),
        ),
    ),
    "gcp-tcpxo": Fabric(
        "GPUDirect-TCPXO of Google's a3-megagpu-8g: eight 200 Gbps adapters",
        (
            Setting(
                "NCCL_LIB_DIR", "/usr/local/nvidia/lib64", "where the node's installer put the plugin and its profile"
            ),
            Setting("LD_LIBRARY_PATH", "/usr/local/nvidia/lib64", "the plugin's NCCL before the image's"),
            Setting("NCCL_FASTRAK_LLCM_DEVICE_DIRECTORY", "/dev/aperture_devices", "as the node mounts it"),
        ),
        profile="/usr/local/nvidia/lib64/nccl-env-profile.sh",
    ),
    "ethernet": Fabric(
        "TCP over Ethernet",
        (
            Setting("NCCL_IB_DISABLE", "1", "no search for adapters that are not there, or are not connected"),
            Setting(
                "NCCL_SOCKET_IFNAME",
                "^lo,docker,virbr",
                "any interface but loopback and bridges; name the fastest, e.g. =eth0",
            ),
            Setting("NCCL_SOCKET_NTHREADS", "4", "one thread cannot fill more than some 20 Gbps"),
            Setting("NCCL_NSOCKS_PERTHREAD", "4", "one TCP stream neither; 16 connections in all (NCCL allows 64)"),
        ),
        fast=False,
    ),
    "nvlink": Fabric(
        "one machine, GPUs joined by NVLink",
        (
            Setting(
                "NCCL_P2P_LEVEL",
                "NVL",
                "GPUs talk directly where NVLink joins them, and never across PCIe behind a host bridge",
            ),
            Setting("NCCL_IB_DISABLE", "1", "nothing leaves the machine, so no adapter is asked"),
        ),
        nodes=False,
        fast=False,
    ),
}


def fabric(name: str, nodes: int) -> Fabric:
    """The fabric called `name`, for so many machines.

    Raises:
        UserError: an unknown one (all are listed), or one that joins no machines.
    """
    if name not in FABRICS:
        what = f"no fabric is called '{name}' ({nearest(name, FABRICS)})"
        raise UserError(what, where="--fabric", fix=f"use one of {', '.join(FABRICS)}")
    found = FABRICS[name]
    if nodes > 1 and not found.nodes:
        joined = ", ".join(key for key, each in FABRICS.items() if each.nodes)
        what = f"'{name}' joins the GPUs of one machine, and {nodes} machines are asked for"
        raise UserError(what, where="--fabric", fix=f"use one of {joined}")
    return found


def environment(found: Fabric) -> tuple[Setting, ...]:
    """All that its ranks are told."""
    return (*EVERYWHERE, *found.settings)
