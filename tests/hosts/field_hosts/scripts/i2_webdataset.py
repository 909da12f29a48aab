import sys
import io
import os
import tarfile

import numpy as np
import torch
import torch.nn.functional as F
import webdataset as wds
from torch import nn
from torch.utils.data import DataLoader

FAULTY = "faulty" in sys.argv


def write_shards(folder, shards=6, per_shard=100):
    os.makedirs(folder, exist_ok=True)
    rng = np.random.default_rng(0)
    for s in range(shards):
        with tarfile.open(f"{folder}/part-{s:04d}.tar", "w") as tar:
            for i in range(per_shard):
                label = int(rng.integers(0, 5))
                wave = (np.sin(np.linspace(0, 3 * (label + 1), 40)) + 0.3 * rng.standard_normal(40)).astype(np.float32)
                buffer = io.BytesIO()
                np.save(buffer, wave)
                for name, data in (
                    (f"{s:04d}{i:05d}.npy", buffer.getvalue()),
                    (f"{s:04d}{i:05d}.cls", str(label).encode()),
                ):
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return [f"{folder}/part-{s:04d}.tar" for s in range(shards)]


def main():
    torch.manual_seed(0)
    urls = write_shards("shards")
    shards = [wds.SimpleShardList(urls)]
    if not FAULTY:
        shards.append(wds.split_by_worker)
    pipeline = wds.DataPipeline(
        *shards,
        wds.tarfile_to_samples(),
        wds.shuffle(200),
        wds.decode(),
        wds.to_tuple("npy", "cls"),
        wds.batched(25),
    )
    loader = DataLoader(pipeline, batch_size=None, num_workers=2)
    net = nn.Sequential(nn.Linear(40, 64), nn.GELU(), nn.Linear(64, 5))
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    for epoch in range(4):
        seen, right = 0, 0
        for wave, label in loader:
            wave, label = torch.as_tensor(wave), torch.as_tensor(label)
            out = net(wave)
            loss = F.cross_entropy(out, label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen, right = seen + len(label), right + (out.argmax(1) == label).sum().item()
        print(f"epoch {epoch}: {seen} samples, accuracy {right / seen:.3f}")


if __name__ == "__main__":
    main()
