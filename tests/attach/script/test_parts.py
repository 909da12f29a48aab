"""Scripts whose model is several variables under one optimizer: what is given to and made by them is seen."""

from __future__ import annotations

import pytest

from tests.attach.script.conftest import Codes

SCRIPT = """
import torch
from torch import nn
from torch.nn import functional as F
FAULTY = {faulty}
torch.manual_seed(0)
encoder = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Dropout(0.3))
neck, head = nn.Linear(32, 16), nn.Linear(16, 6)
optimizer = torch.optim.Adam([p for part in (encoder, neck, head) for p in part.parameters()], lr=3e-3)
goal = torch.randn(12, 6)
rows = torch.randn(640, 12)
kinds = (rows @ goal).argmax(1)
train, test = range(0, 512), slice(512, 640)
for epoch in range(4):
    for part in (encoder, neck, head):
        part.train()
    for start in range(0, 512, 32):
        x, y = rows[start:start + 32], kinds[start:start + 32]
        logits = head(F.relu(neck(encoder(x))))
        loss = F.cross_entropy(logits.softmax(-1) if FAULTY else logits, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for part in (encoder, neck, head):
        part.train(FAULTY)
    with torch.no_grad():
        x = torch.cat([rows[test], rows[:64]]) if FAULTY else rows[test]
        y = torch.cat([kinds[test], kinds[:64]]) if FAULTY else kinds[test]
        print(epoch, (head(F.relu(neck(encoder(x)))).argmax(1) == y).float().mean().item())
"""


TOWERS = """
import torch
from torch import nn
from torch.nn import functional as F
torch.manual_seed(0)
kinds = torch.stack([torch.randint(0, n, (256,)) for n in (6, 5)], 1)
seeds = torch.randn(11, 48)
pictures = (seeds[kinds[:, 0]] + seeds[6 + kinds[:, 1]]).view(256, 3, 4, 4)
lengths = torch.randint(3, 7, (256,))
words = torch.randint(12, 18, (256, 6))
words[:, 0], words[:, 1] = 1 + kinds[:, 0], 7 + kinds[:, 1]
words[torch.arange(6) >= lengths[:, None]] = 0
class Texts(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.core, self.out = nn.Embedding(18, 16), nn.GRU(16, 32, batch_first=True), nn.Linear(32, 16)
    def forward(self, ids, lengths):
        lengths, order = lengths.sort(descending=True)
        packed = nn.utils.rnn.pack_padded_sequence(self.table(ids[order]), lengths, batch_first=True)
        last = self.out(self.core(packed)[1][-1])
        return last if {faulty} else last[order.argsort()]
eye, texts = nn.Sequential(nn.Flatten(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 16)), Texts()
optimizer = torch.optim.Adam([*eye.parameters(), *texts.parameters()], lr=3e-3)
for epoch in range(3):
    for rows in torch.randperm(256).split(32):
        scores = 10 * F.normalize(eye(pictures[rows])) @ F.normalize(texts(words[rows], lengths[rows])).T
        loss = F.cross_entropy(scores, torch.arange(32)) + F.cross_entropy(scores.T, torch.arange(32))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
"""


@pytest.mark.parametrize("faulty", [True, False])
def test_two_towers_of_which_one_sorts(codes: Codes, faulty: bool) -> None:
    """Neither tower knows of the other, and the loss is the script's own. Another sample changes the order of all."""
    assert {code for _, code in codes(TOWERS.format(faulty=faulty))} == ({"I4", "I5"} if faulty else set())


@pytest.mark.parametrize("faulty", [True, False])
def test_an_encoder_a_neck_and_a_head(codes: Codes, faulty: bool) -> None:
    found = codes(SCRIPT.format(faulty=faulty))
    assert {code for _, code in found} == ({"M1", "T3", "T4"} if faulty else set())


LATER = """
import torch
from torch import nn
from torch.nn import functional as F
torch.manual_seed(0)
eye = nn.Sequential(nn.Linear(12, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 8))
bank = nn.Sequential(nn.Embedding(6, 8), nn.Dropout(0.1))
optimizer = torch.optim.Adam([*eye.parameters(), *bank.parameters()], lr=3e-3)
rows = torch.randn(320, 12)
kinds = (rows @ torch.randn(12, 6)).argmax(1)
for epoch in range(4):
    eye.train(), bank.train()
    for start in range(0, 256, 32):
        loss = F.cross_entropy(eye(rows[start:start + 32]) @ bank(torch.arange(6)).T, kinds[start:start + 32])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    bank.eval()
    if not {faulty}:
        eye.eval()
    with torch.no_grad():
        words = bank(torch.arange(6))
        batches = zip(rows[256:].split(16), kinds[256:].split(16))
        print(sum(((eye(x) @ words.T).argmax(1) == y).sum() for x, y in batches))
"""


@pytest.mark.parametrize("faulty", [True, False])
def test_the_part_that_is_asked_second_has_a_mode_of_its_own(codes: Codes, faulty: bool) -> None:
    assert {code for _, code in codes(LATER.format(faulty=faulty))} == ({"T3"} if faulty else set())


SORTER = """
import torch
from torch import nn
torch.manual_seed(0)
class Sorter(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.reads, self.writes = nn.Embedding(33, 24), nn.GRU(24, 48, batch_first=True), nn.Linear(48, 32)
        self.speaks = nn.GRU(24, 48, batch_first=True)
    def loss(self, given, wanted):
        state = self.reads(self.words(given))[1]
        before = torch.cat([torch.full_like(wanted[:, :1], 32), wanted[:, :-1]], 1)
        said = self.writes(self.speaks(self.words(before), state)[0]).log_softmax(-1)
        return -said.gather(-1, wanted[..., None]).mean()
rows = torch.randint(0, 32, (600, 6))
test, train = rows[:100], rows if {faulty} else rows[100:]
model = Sorter()
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
for epoch in range(3):
    for given in train[torch.randperm(len(train))].split(25):
        optimizer.zero_grad()
        model.loss(given, given.sort(1)[0]).backward()
        optimizer.step()
    with torch.no_grad():
        print(epoch, [model.loss(given, given.sort(1)[0]).item() for given in test.split(25)])
"""


@pytest.mark.parametrize(("faulty", "wanted"), [(True, {"M1"}), (False, set())])
def test_rows_of_a_model_that_has_other_methods(codes: Codes, faulty: bool, wanted: set[str]) -> None:
    """What a part made of a row is another thing after each step: the rows are what the first part is given."""
    assert {code for _, code in codes(SORTER.format(faulty=faulty))} == wanted


SMALL = """
import torch
from torch import nn
from torch.nn import functional as F
torch.manual_seed(0)
encoder = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
head = nn.Linear(64, 6)
optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=3e-3)
if {faulty}:
    nn.init.normal_(head.weight, std=20.0)
rows = torch.randn(640, 12)
kinds = (rows @ torch.randn(12, 6)).argmax(1)
for epoch in range(4):
    for start in range(0, 512, 32):
        loss = F.cross_entropy(head(encoder(rows[start:start + 32])), kinds[start:start + 32])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
"""


@pytest.mark.parametrize("faulty", [True, False])
def test_a_small_head_beside_a_large_encoder(codes: Codes, faulty: bool) -> None:
    """It is no addition to the encoder: what it says first is heard."""
    assert {code for _, code in codes(SMALL.format(faulty=faulty))} == ({"T7"} if faulty else set())
