"""Policy gradient with a learned baseline on a walk to the right end of a corridor."""

import torch
from torch import nn
from torch.distributions import Categorical


class ActorCritic(nn.Module):
    def __init__(self, n=8):
        super().__init__()
        self.n = n
        self.body = nn.Sequential(nn.Linear(n, 32), nn.ReLU())
        self.actor = nn.Linear(32, 2)
        self.critic = nn.Linear(32, 1)

    def forward(self, place):
        h = self.body(nn.functional.one_hot(place, self.n).float())
        return Categorical(logits=self.actor(h)), self.critic(h).squeeze(-1)


def episode(policy, n=8):
    place, logps, values, rewards = 3, [], [], []
    for _ in range(12):
        dist, value = policy(torch.tensor(place))
        action = dist.sample()
        place = max(0, min(n - 1, place + (1 if action else -1)))
        logps.append(dist.log_prob(action))
        values.append(value)
        rewards.append(1.0 if place == n - 1 else -0.05)
        if place == n - 1:
            break
    returns, g = [], 0.0
    for r in reversed(rewards):
        g = r + 0.95 * g
        returns.insert(0, g)
    return torch.stack(logps), torch.stack(values), torch.tensor(returns)


torch.manual_seed(0)
policy = ActorCritic()
optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
for i in range(50):
    logps, values, returns = (torch.cat(x) for x in zip(*(episode(policy) for _ in range(3))))
    advantage = returns - values.detach()
    loss = -(logps * advantage).mean() + nn.functional.mse_loss(values, returns)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if i % 10 == 9:
        print(i + 1, loss.item(), returns.mean().item())
