"""Advantage actor-critic on a hand-written corridor-with-wind environment (vectorised)."""

import torch
import torch.nn as nn
from torch.distributions import Categorical

torch.manual_seed(0)


class Corridor:
    """walk to the marked end; wind pushes at random; +1 at the goal, -0.02 a step"""

    def __init__(self, n, size=9):
        self.n, self.size = n, size

    def reset(self, mask=None):
        new_goal = torch.randint(0, 2, (self.n,))
        new_pos = torch.randint(2, self.size - 2, (self.n,))
        if mask is None:
            self.goal, self.pos, self.t = new_goal, new_pos, torch.zeros(self.n)
        else:
            self.goal, self.pos = torch.where(mask, new_goal, self.goal), torch.where(mask, new_pos, self.pos)
            self.t = torch.where(mask, torch.zeros(self.n), self.t)
        return self.obs()

    def obs(self):
        return torch.cat(
            [nn.functional.one_hot(self.pos, self.size).float(), nn.functional.one_hot(self.goal, 2).float()], 1
        )

    def step(self, a):
        wind = (torch.rand(self.n) < 0.1).long() * (torch.randint(0, 2, (self.n,)) * 2 - 1)
        self.pos = (self.pos + (a * 2 - 1) + wind).clamp(0, self.size - 1)
        self.t += 1
        target = self.goal * (self.size - 1)
        win, lose = self.pos == target, self.pos == (self.size - 1 - target)
        r = win.float() - lose.float() - 0.02
        done = win | lose | (self.t >= 40)
        return self.reset(done), r, done


actor = nn.Sequential(nn.Linear(11, 64), nn.Tanh(), nn.Linear(64, 2))
critic = nn.Sequential(nn.Linear(11, 64), nn.Tanh(), nn.Linear(64, 1))
optim = torch.optim.Adam([{"params": actor.parameters(), "lr": 5e-3}, {"params": critic.parameters(), "lr": 1e-2}])
env, gamma, lam, horizon = Corridor(32), 0.97, 0.95, 16
obs = env.reset()
for it in range(60):
    logps, values, rewards, dones, entropies = [], [], [], [], []
    for _ in range(horizon):
        dist = Categorical(logits=actor(obs))
        action = dist.sample()
        logps.append(dist.log_prob(action))
        entropies.append(dist.entropy())
        values.append(critic(obs).squeeze(-1))
        obs, r, d = env.step(action)
        rewards.append(r)
        dones.append(d.float())
    with torch.no_grad():
        nxt = critic(obs).squeeze(-1)
    adv, advs = torch.zeros(env.n), []
    for t in reversed(range(horizon)):
        v1 = nxt if t == horizon - 1 else values[t + 1].detach()
        delta = rewards[t] + gamma * v1 * (1 - dones[t]) - values[t].detach()
        adv = delta + gamma * lam * (1 - dones[t]) * adv
        advs.append(adv)
    advs = torch.stack(advs[::-1])
    vals = torch.stack(values)
    returns = advs + vals.detach()
    norm = (advs - advs.mean()) / (advs.std() + 1e-8)
    loss = (
        -(torch.stack(logps) * norm).mean()
        + 0.5 * (vals - returns).pow(2).mean()
        - 0.01 * torch.stack(entropies).mean()
    )
    optim.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_([*actor.parameters(), *critic.parameters()], 0.5)
    optim.step()
    if it % 20 == 19:
        wins = (torch.stack(rewards) > 0.5).sum().item()
        ends = int(torch.stack(dones).sum())
        print(f"iter {it + 1} loss {loss.item():.3f} wins {wins}/{ends}")
