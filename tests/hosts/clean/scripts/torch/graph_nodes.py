"""Which community is each node of a graph in? A graph convolution over all nodes at once, few of them labelled."""

import torch
import torch.nn.functional as F
from torch import nn


def make_graph(nodes=240, kinds=4):
    kind = torch.arange(nodes) % kinds
    near = torch.rand(nodes, nodes) < torch.where(kind[:, None] == kind, 0.06, 0.008)
    edges = near | near.T | torch.eye(nodes, dtype=torch.bool)
    degree = edges.sum(1).rsqrt()
    weight = (degree[:, None] * edges * degree).to_sparse()
    features = F.one_hot(kind, kinds).float() @ torch.randn(kinds, 16) + 1.5 * torch.randn(nodes, 16)
    return features, weight, kind


class GraphConv(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, x, adjacency):
        return torch.sparse.mm(adjacency, self.linear(x))


class NodeClassifier(nn.Module):
    def __init__(self, inputs, hidden, outputs):
        super().__init__()
        self.first, self.second = GraphConv(inputs, hidden), GraphConv(hidden, outputs)
        self.dropout = nn.Dropout(0.3)

    def forward(self, x, adjacency):
        return self.second(self.dropout(F.relu(self.first(x, adjacency))), adjacency)


torch.manual_seed(0)
features, adjacency, kind = make_graph()
train, test = torch.randperm(len(kind)).split([80, 160])
net = NodeClassifier(16, 32, 4)
optimizer = torch.optim.Adam(net.parameters(), lr=1e-2, weight_decay=5e-4)
for epoch in range(60):
    net.train()
    optimizer.zero_grad()
    loss = F.cross_entropy(net(features, adjacency)[train], kind[train])
    loss.backward()
    optimizer.step()
    if epoch % 10 == 9:
        net.eval()
        with torch.no_grad():
            right = net(features, adjacency)[test].argmax(1) == kind[test]
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}, accuracy {right.float().mean():.3f}")
