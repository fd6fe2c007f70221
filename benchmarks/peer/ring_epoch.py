"""The NFT epoch of the ring task in PyTorch, the same sizes as ring_epoch.cpp.

Usage: ring_epoch.py [--epochs N] [--threads T] [--mode eager|compile] [--per-time] [--device cpu|cuda]

Prints seconds an epoch and those of the processor (medians). Written as a careful user of PyTorch
would write it: all times of all samples in one batch, fused AdamW, no host synchronisation. With
--per-time it loops over the times of a sample with gradient accumulation, as the published training
script does.
"""

import argparse
import copy
import math
import statistics
import time

import torch
from torch import nn

PROMPTS, GROUP, STEPS, TIMES = 8, 24, 10, 9
BETA, CLIP, KL_WEIGHT, FLOOR = 1.0, 5.0, 1e-4, 1e-5


class MlpVelocity(nn.Module):
    def __init__(self, dimension=2, width=128, depth=3, frequencies=4):
        super().__init__()
        features = 2 * frequencies
        sizes = [dimension + features] + [width] * depth
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:]))
        self.output = nn.Linear(width, dimension)
        self.gate = nn.Parameter(torch.zeros(1, features))
        self.register_buffer("frequencies", 2.0 ** torch.arange(frequencies) * (math.pi / 2))

    def forward(self, x, t):
        phase = torch.outer(t, self.frequencies)
        features = torch.cat([phase.sin(), phase.cos()], 1)
        h = torch.cat([x, features], 1)
        for layer in self.hidden:
            h = nn.functional.silu(layer(h))
        return torch.addcmul(self.output(h), x, nn.functional.linear(features, self.gate))


@torch.no_grad()
def sample(model, x, sigmas):
    """Multistep DPM-Solver++ of order 2, first and last step of order 1."""
    previous = None
    for i in range(STEPS):
        s, to = sigmas[i], sigmas[i + 1]
        v = model(x, torch.full((x.shape[0],), s))
        x0 = x - s * v
        if i == 0 or i == STEPS - 1:
            x = x + (to - s) * v
        else:
            snr = lambda a: math.log1p(-a) - math.log(a) if a < 1 else -math.inf
            h, h0 = snr(to) - snr(s), snr(s) - snr(sigmas[i - 1])
            slope = 0.0 if math.isinf(h0) else h / h0
            decay = (1 - to) * math.expm1(-h)
            x = (to / s) * x - decay * x0 - 0.5 * decay * slope * (x0 - previous)
        previous = x0
    return x


def branch(x0_branch, x0):
    difference = (x0_branch - x0).double()
    weight = difference.abs().mean(1).clamp(min=FLOOR).detach()
    return difference.square().mean(1) / weight


def losses(current, old, reference, x0, t, eps, r):
    x_t = (1 - t[:, None]) * x0 + t[:, None] * eps
    v = current(x_t, t)
    with torch.no_grad():
        v_old, v_ref = old(x_t, t), reference(x_t, t)
    plus = (1 - BETA) * v_old + BETA * v
    minus = (1 + BETA) * v_old - BETA * v
    positive = branch(x_t - t[:, None] * plus, x0)
    negative = branch(x_t - t[:, None] * minus, x0)
    kl = (v - v_ref).square().mean(1)
    return CLIP * (r * positive + (1 - r) * negative) / BETA + KL_WEIGHT * kl


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--mode", choices=["eager", "compile"], default="eager")
    parser.add_argument("--per-time", action="store_true")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    torch.set_default_device(options.device)
    wait = torch.cuda.synchronize if options.device == "cuda" else lambda: None

    current = MlpVelocity()
    old, reference, average = (copy.deepcopy(current) for _ in range(3))
    optimizer = torch.optim.AdamW(current.parameters(), lr=3e-4, weight_decay=1e-4, fused=True)
    compute = torch.compile(losses) if options.mode == "compile" else losses
    collector = torch.compile(old) if options.mode == "compile" else old
    sigmas = [1 - i / STEPS for i in range(STEPS + 1)]
    times = torch.tensor(sigmas[:-1])
    angles = torch.arange(8) * (2 * math.pi / 8)
    centres = (2 * torch.stack([angles.cos(), angles.sin()], 1))[[1, 4]]
    count = PROMPTS * GROUP
    step = 0
    seconds, processor = [], []
    for _ in range(options.epochs):
        start, clock = time.perf_counter(), time.process_time()
        x0 = sample(collector, torch.randn(count, 2), sigmas)
        reward = (torch.cdist(x0, centres).amin(1) <= 0.4).double()
        grouped = reward.view(PROMPTS, GROUP)
        advantage = (grouped - grouped.mean(1, keepdim=True)) / (reward.std(correction=0) + 1e-4)
        r = (advantage.clamp(-CLIP, CLIP) / (2 * CLIP) + 0.5).clamp(0, 1).flatten()
        order = torch.rand(count, STEPS).argsort(1)[:, :TIMES]
        t = times[order]
        optimizer.zero_grad()
        if options.per_time:
            for j in range(TIMES):
                loss = compute(current, old, reference, x0, t[:, j], torch.randn_like(x0), r)
                (loss.mean() / TIMES).backward()
        else:
            eps = torch.randn(count * TIMES, 2)
            loss = compute(current, old, reference, x0.repeat(TIMES, 1), t.T.flatten(), eps,
                           r.repeat(TIMES))
            loss.mean().backward()
        nn.utils.clip_grad_norm_(current.parameters(), 1.0)
        optimizer.step()
        step += 1
        with torch.no_grad():
            current_weights = list(current.parameters())
            decay = min((1 + step) / (10 + step), 0.9)
            torch._foreach_lerp_(list(average.parameters()), current_weights, 1 - decay)
            decay = min(0.001 * step, 0.5)
            torch._foreach_lerp_(list(old.parameters()), current_weights, 1 - decay)
        wait()
        seconds.append(time.perf_counter() - start)
        processor.append(time.process_time() - clock)
    medians = [statistics.median(t[len(t) // 5:]) for t in (seconds, processor)]
    print(*(f"{median:.6f}" for median in medians))


if __name__ == "__main__":
    main()
