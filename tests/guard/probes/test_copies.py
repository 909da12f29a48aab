"""Which loaders workers of our own can read a copy of."""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils.data import DataLoader, Dataset, IterableDataset

from sightline.guard.probes.draws import can_be_copied


class Stream(IterableDataset[int]):
    """A stream that knows its length, as many do for the sake of a progress bar."""

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Iterator[int]:
        return iter(range(4))


class Table(Dataset[int]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        return index


def test_a_stream_with_a_length_is_no_table() -> None:
    assert can_be_copied(DataLoader(Table()), least=0)
    assert not can_be_copied(DataLoader(Stream()), least=0)
