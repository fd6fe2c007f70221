"""The NFT epoch of the scenes task in PyTorch, the same sizes as scenes_epoch.cpp.

Usage: scenes_epoch.py [--epochs N] [--threads T]
       scenes_epoch.py --check FILE

Prints seconds an epoch and those of the processor (medians). Written as a careful user of PyTorch
would write it: one projection for queries, keys and values, fused attention and AdamW, all times of
all samples in one batch, a detector without loops. With --check it compares itself with what
scenes_epoch --write has written: velocities, gradients, scores, and how many velocities an epoch
computes.
"""

import argparse
import copy
import json
import math
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

from scene_prompts import PALETTE, TOKENS, WORDS, all_prompts, asked_of, by_own_names, tokens_of

PROMPTS, GROUP, STEPS, TIMES, GRADIENT_STEPS = 24, 24, 10, 2, 2
BETA, CLIP, KL_WEIGHT, FLOOR = 0.5, 1.0, 0.03, 1e-5
CHANNELS, SIDE, WIDTH, HEADS, LAYERS, TIME_FEATURES = 8, 4, 64, 2, 3, 256


class TextEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(len(WORDS), WIDTH)
        self.places = nn.Embedding(TOKENS, WIDTH)
        self.convolution_1 = nn.Linear(3 * WIDTH, WIDTH)
        self.convolution_2 = nn.Linear(3 * WIDTH, WIDTH)

    def forward(self, tokens):
        x = self.tokens(tokens) + self.places.weight
        for layer in (self.convolution_1, self.convolution_2):
            padded = F.pad(x, (0, 0, 1, 1))
            x = x + F.relu(layer(torch.cat([padded[:, :-2], x, padded[:, 2:]], 2)))
        return x, x.mean(1)


def embedding_mlp(size):
    return nn.Sequential(nn.Linear(size, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))


def feed_forward():
    return nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU("tanh"), nn.Linear(4 * WIDTH, WIDTH))


class Projections(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.query_norm = nn.RMSNorm(WIDTH // HEADS, eps=1e-6)
        self.key_norm = nn.RMSNorm(WIDTH // HEADS, eps=1e-6)

    def forward(self, x):
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        return self.query_norm(q), self.key_norm(k), v


def modulated(x, shift, scale):
    x = F.layer_norm(x, (WIDTH,), eps=1e-6)
    return torch.addcmul(shift.unsqueeze(1), x, scale.unsqueeze(1) + 1)


def gated(x, gate, change):
    return torch.addcmul(x, gate.unsqueeze(1), change)


class Block(nn.Module):
    def __init__(self, is_last):
        super().__init__()
        self.is_last = is_last
        self.image_modulation = nn.Linear(WIDTH, 6 * WIDTH)
        self.text_modulation = nn.Linear(WIDTH, (2 if is_last else 6) * WIDTH)
        self.image, self.text = Projections(), Projections()
        self.image_out, self.image_feed = nn.Linear(WIDTH, WIDTH), feed_forward()
        if not is_last:
            self.text_out, self.text_feed = nn.Linear(WIDTH, WIDTH), feed_forward()

    def forward(self, image, text, embedding):
        m = self.image_modulation(embedding).chunk(6, 1)
        c = self.text_modulation(embedding).chunk(2 if self.is_last else 6, 1)
        shift, scale = (c[1], c[0]) if self.is_last else (c[0], c[1])
        of_image = self.image(modulated(image, m[0], m[1]))
        of_text = self.text(modulated(text, shift, scale))
        q, k, v = (torch.cat(pair, 2) for pair in zip(of_image, of_text))
        found = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        from_image, from_text = found.split([image.shape[1], text.shape[1]], 1)
        image = gated(image, m[2], self.image_out(from_image))
        image = gated(image, m[5], self.image_feed(modulated(image, m[3], m[4])))
        if self.is_last:
            return image, None
        text = gated(text, c[2], self.text_out(from_text))
        return image, gated(text, c[5], self.text_feed(modulated(text, c[3], c[4])))


class SceneFlow(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = TextEncoder()
        self.patches = nn.Conv2d(CHANNELS, WIDTH, 1)
        self.register_buffer("positions", torch.zeros(1, SIDE * SIDE, WIDTH))
        self.time, self.pooled = embedding_mlp(TIME_FEATURES), embedding_mlp(WIDTH)
        self.context = nn.Linear(WIDTH, WIDTH)
        self.blocks = nn.ModuleList(Block(i + 1 == LAYERS) for i in range(LAYERS))
        self.last_modulation = nn.Linear(WIDTH, 2 * WIDTH)
        self.out = nn.Linear(WIDTH, CHANNELS)
        half = TIME_FEATURES // 2
        frequencies = torch.exp(torch.arange(half) * -math.log(10000.0) / half)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, x, t, tokens):
        text, pooled = self.encoder(tokens)
        angle = (t * 1000).unsqueeze(1) * self.frequencies
        time_embedding = self.time(torch.cat([angle.cos(), angle.sin()], 1))
        embedding = F.silu(time_embedding + self.pooled(pooled))
        image = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        text = self.context(text)
        for block in self.blocks:
            image, text = block(image, text, embedding)
        scale, shift = self.last_modulation(embedding).chunk(2, 1)
        return self.out(modulated(image, shift, scale)).transpose(1, 2).reshape(x.shape)


class Detector:
    """The strict score. What a prompt asks for is looked up by its tokens."""

    def __init__(self):
        prompts = sum(all_prompts(), [])
        self.rows = {tuple(tokens_of(words)): row for row, words in enumerate(prompts)}
        asked = asked_of(prompts)
        self.shapes, self.pairs = torch.tensor(asked["shapes"]), torch.tensor(asked["pairs"])
        self.has_colours = torch.tensor(asked["has_colours"])
        self.relation, self.ends = torch.tensor(asked["relation"]), torch.tensor(asked["ends"])
        self.palette = torch.tensor(PALETTE).float()

    def __call__(self, x, tokens):
        rows = torch.tensor([self.rows[tuple(row)] for row in tokens.tolist()])
        x = x.flatten(2)
        occupied = x[:, 0] > 0
        clear = (x[:, 0].abs() > 0.5).all(1)
        best, shape = x[:, 1:5].topk(2, 1)
        known = occupied & (best[:, 0] - best[:, 1] > 0.6)
        shape = F.one_hot(shape[:, 0], 4) * known.unsqueeze(2)
        nearest, colour = (x[:, 5:].transpose(1, 2).unsqueeze(2) - self.palette).square().sum(3).min(2)
        colour = F.one_hot(colour, 6) * (nearest < 0.9 * 0.9).unsqueeze(2)
        asked = self.shapes[rows]
        right = clear & (occupied.sum(1) == asked.sum(1)) & (shape.sum(1) == asked).all(1)
        pairs = torch.einsum("bcs,bck->bsk", shape.float(), colour.float())
        right &= ~self.has_colours[rows] | (pairs == self.pairs[rows]).flatten(1).all(1)
        # Where the shapes are right and a relation is asked for, each is in one cell.
        cell = (shape * torch.arange(SIDE * SIDE).view(1, -1, 1)).sum(1)
        first, second = cell.gather(1, self.ends[rows]).unbind(1)
        across, down = first % SIDE - second % SIDE, first // SIDE - second // SIDE
        holds = torch.stack([torch.ones_like(right), across < 0, across > 0, down < 0, down > 0], 1)
        return (right & holds.gather(1, self.relation[rows].unsqueeze(1)).squeeze(1)).double()


@torch.no_grad()
def sample(velocity, x, tokens, sigmas):
    """Multistep DPM-Solver++ of order 2, first and last step of order 1."""
    snr = lambda s: math.log1p(-s) - math.log(s) if s < 1 else -math.inf
    previous = None
    for i in range(STEPS):
        s, to = sigmas[i], sigmas[i + 1]
        v = velocity(x, torch.full((x.shape[0],), s), tokens)
        x0 = x - s * v
        if i == 0 or i == STEPS - 1:
            x = x + (to - s) * v
        else:
            h, h0 = snr(to) - snr(s), snr(s) - snr(sigmas[i - 1])
            slope = 0.0 if math.isinf(h0) else h / h0
            decay = (1 - to) * math.expm1(-h)
            x = (to / s) * x - decay * x0 - 0.5 * decay * slope * (x0 - previous)
        previous = x0
    return x


def branch(x0_branch, x0):
    difference = (x0_branch - x0).flatten(1)
    weight = difference.detach().abs().mean(1).clamp(min=FLOOR)
    return difference.square().mean(1) / weight


def stratified(count):
    """A time of each sample in each of as many strata, [TIMES count]."""
    place = torch.stack([torch.randperm(count) for _ in range(TIMES)])
    within = (place + torch.rand(TIMES, count)) / count
    return ((within + torch.arange(TIMES)[:, None]) / TIMES).flatten()


class Run:
    """The three models, the average and the optimiser, and an epoch of them."""

    def __init__(self):
        self.current = SceneFlow()
        self.old, self.reference, self.average = (
            copy.deepcopy(self.current).requires_grad_(False) for _ in range(3))
        self.optimizer = torch.optim.AdamW(self.current.parameters(), lr=1e-3, weight_decay=1e-4,
                                           fused=True)
        self.detector = Detector()
        self.prompts = [torch.tensor([tokens_of(w) for w in c]) for c in all_prompts()]
        self.steps = self.forward_evaluations = self.backward_evaluations = 0

    def velocity(self, model, x, t, tokens):
        self.forward_evaluations += len(x)
        return model(x, t, tokens)

    def loss(self, x0, tokens, t, eps, r):
        at = t.view(-1, 1, 1, 1)
        x_t = (1 - at) * x0 + at * eps
        v = self.velocity(self.current, x_t, t, tokens)
        self.backward_evaluations += len(x_t)
        with torch.no_grad():
            v_old = self.velocity(self.old, x_t, t, tokens)
            v_ref = self.velocity(self.reference, x_t, t, tokens)
        plus = (1 - BETA) * v_old + BETA * v
        minus = (1 + BETA) * v_old - BETA * v
        positive, negative = branch(x_t - at * plus, x0), branch(x_t - at * minus, x0)
        kl = (v - v_ref).square().flatten(1).mean(1)
        return (CLIP * (r * positive + (1 - r) * negative) / BETA + KL_WEIGHT * kl).mean()

    def gradient_step(self, x0, tokens, r):
        self.optimizer.zero_grad()
        t = stratified(len(x0))
        eps = torch.randn(len(t), *x0.shape[1:])
        self.loss(x0.repeat(TIMES, 1, 1, 1), tokens.repeat(TIMES, 1), t, eps,
                  r.repeat(TIMES)).backward()
        nn.utils.clip_grad_norm_(self.current.parameters(), 1.0)
        self.optimizer.param_groups[0]["lr"] = 1e-3 / math.sqrt(1 + self.steps / 10)
        self.optimizer.step()
        self.steps += 1
        self.follow(self.average, min((1 + self.steps) / (10 + self.steps), 0.97))

    @torch.no_grad()
    def follow(self, model, decay):
        torch._foreach_lerp_(list(model.parameters()), list(self.current.parameters()), 1 - decay)

    def epoch(self):
        drawn = [c[torch.randperm(len(c))[:PROMPTS // 6]] for c in self.prompts]
        tokens = torch.cat(drawn).repeat_interleave(GROUP, 0)
        noise = torch.randn(len(tokens), CHANNELS, SIDE, SIDE)
        sigmas = [1 - i / STEPS for i in range(STEPS + 1)]
        x0 = sample(lambda *inputs: self.velocity(self.old, *inputs), noise, tokens, sigmas)
        reward = self.detector(x0, tokens).view(PROMPTS, GROUP)
        advantage = (reward - reward.mean(1, keepdim=True)).flatten().clamp(-CLIP, CLIP)
        r = (advantage / (2 * CLIP) + 0.5).float()
        for rows in torch.randperm(len(x0)).chunk(GRADIENT_STEPS):
            self.gradient_step(x0[rows], tokens[rows], r[rows])
        self.follow(self.old, min(0.02 * self.steps, 0.95))


DTYPES = {"F32": torch.float32, "F64": torch.float64, "I64": torch.int64}


def read_safetensors(path):
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = bytearray(file.read())
    header.pop("__metadata__", None)
    return {name: torch.frombuffer(data, dtype=DTYPES[entry["dtype"]],
                                   count=math.prod(entry["shape"]),
                                   offset=entry["data_offsets"][0]).view(entry["shape"])
            for name, entry in header.items()}


def difference(own, given):
    """The largest, as a share of the largest number that is given."""
    return (own - given).abs().max().item() / (given.abs().max().item() or 1)


def check(path):
    """Ends the program where it differs from what scenes_epoch --write has written."""
    given = read_safetensors(path)
    under = lambda prefix: by_own_names(
        {name[len(prefix):]: tensor for name, tensor in given.items() if name.startswith(prefix)},
        torch.cat)
    model = SceneFlow()
    model.load_state_dict(under("weight."))
    velocity = model(given["x"], given["t"], given["tokens"])
    velocity.square().mean().backward()
    gradients = under("gradient.")
    own = dict(model.named_parameters())
    assert own.keys() == gradients.keys(), own.keys() ^ gradients.keys()
    of_velocity = difference(velocity, given["velocity"])
    of_gradient = max(difference(own[n].grad, g) for n, g in gradients.items())
    scores = Detector()(given["x"], given["tokens"])
    wrong_scores = (scores != given["strict"]).sum().item()
    run = Run()
    run.epoch()
    evaluations = [run.forward_evaluations, run.backward_evaluations]
    print(f"largest difference of a velocity {of_velocity:.1e}, of a gradient {of_gradient:.1e} of the "
          f"largest in its tensor; {wrong_scores} of {len(scores)} scores differ "
          f"({scores.mean():.2f} on average); an epoch computes {evaluations[0]} velocities and "
          f"differentiates {evaluations[1]}, there {given['evaluations'].tolist()}")
    if (of_velocity > 1e-5 or of_gradient > 1e-4 or wrong_scores
            or evaluations != given["evaluations"].tolist()):
        sys.exit("the programs do not do the same work")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--check", metavar="FILE")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.check:
        check(options.check)
        return
    torch.set_default_device(options.device)
    wait = torch.cuda.synchronize if options.device == "cuda" else lambda: None
    run = Run()
    seconds, processor = [], []
    for _ in range(options.epochs):
        start, clock = time.perf_counter(), time.process_time()
        run.epoch()
        wait()
        seconds.append(time.perf_counter() - start)
        processor.append(time.process_time() - clock)
    medians = [statistics.median(t[len(t) // 5:]) for t in (seconds, processor)]
    print(*(f"{median:.6f}" for median in medians))


if __name__ == "__main__":
    main()
