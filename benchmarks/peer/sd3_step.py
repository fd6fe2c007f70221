"""The transformer of Stable Diffusion 3.5 Medium at full size with random weights, in PyTorch: the same
work as sd3_step.cpp.

Usage: sd3_step.py [--part forward|epoch] [--device cpu|cuda] [--size N] [--batch N] [--images N]
                   [--layers N] [--dual N] [--rounds N] [--threads N] [--tiny] [--diffusers]
       sd3_step.py --check FILE

Prints one line of JSON: seconds of a forward pass; or images a second of a rollout and seconds of one
micro-batch of four of an NFT update of adapters of rank 32; and peak memory. With --diffusers the
forward pass is that of its model. With --check it compares its velocity with what sd3_step --write has
written.
"""

import argparse
import json
import math
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

STEPS, RANK, ALPHA, MICRO_BATCH = 10, 32, 64, 4
BETA, CLIP, KL_WEIGHT, FLOOR = 1.0, 5.0, 1e-4, 1e-5
TARGETS = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "attn.add_q_proj",
           "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out")


class Shape:
    def __init__(self, options):
        self.layers, self.dual = options.layers, options.dual
        self.heads, self.text, self.pooled = (2, 64, 32) if options.tiny else (24, 4096, 2048)
        self.width = self.heads * 64
        self.table, self.base = (32, 8) if options.tiny else (384, 64)


class Adapted(nn.Linear):
    """A linear layer with adapters, of which `role` says which."""

    role = None

    def forward(self, x):
        base = super().forward(x)
        adapter = getattr(self, "adapters", {}).get(Adapted.role)
        if adapter is None:
            return base
        down, up = adapter
        return torch.add(base, F.linear(F.linear(x.float(), down), up).to(base.dtype),
                         alpha=ALPHA / RANK)


class Embedding(nn.Module):
    def __init__(self, size, width):
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(size, width), nn.Linear(width, width)

    def forward(self, x):
        return self.linear_2(F.silu(self.linear_1(x)))


class Scale(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x):
        return F.rms_norm(x, self.weight.shape, self.weight, 1e-6)


class Modulation(nn.Module):
    def __init__(self, width, count):
        super().__init__()
        self.linear, self.count = nn.Linear(width, count * width), count

    def forward(self, embedding):
        return [m.unsqueeze(1) for m in self.linear(embedding).chunk(self.count, 1)]


class Attention(nn.Module):
    def __init__(self, width, heads, joint, is_last):
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (Adapted(width, width) for _ in range(3))
        self.norm_q, self.norm_k = Scale(width // heads), Scale(width // heads)
        self.to_out = nn.ModuleList([Adapted(width, width)])
        if joint:
            self.add_q_proj, self.add_k_proj, self.add_v_proj = (
                Adapted(width, width) for _ in range(3))
            self.norm_added_q, self.norm_added_k = Scale(width // heads), Scale(width // heads)
            if not is_last:
                self.to_add_out = Adapted(width, width)

    def split(self, x):
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def forward(self, image, text=None):
        q = self.norm_q(self.split(self.to_q(image)))
        k, v = self.norm_k(self.split(self.to_k(image))), self.split(self.to_v(image))
        if text is not None:
            q = torch.cat([q, self.norm_added_q(self.split(self.add_q_proj(text)))], 2)
            k = torch.cat([k, self.norm_added_k(self.split(self.add_k_proj(text)))], 2)
            v = torch.cat([v, self.split(self.add_v_proj(text))], 2)
        found = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        if text is None:
            return self.to_out[0](found)
        of_image, of_text = found.split([image.shape[1], text.shape[1]], 1)
        return self.to_out[0](of_image), of_text


class Projection(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.proj = nn.Linear(width, 4 * width)

    def forward(self, x):
        return F.gelu(self.proj(x), approximate="tanh")


class FeedForward(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.net = nn.ModuleList([Projection(width), nn.Identity(), nn.Linear(4 * width, width)])

    def forward(self, x):
        return self.net[2](self.net[0](x))


def modulated(x, shift, scale):
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), scale + 1)


class Block(nn.Module):
    def __init__(self, width, heads, is_dual, is_last):
        super().__init__()
        self.norm1 = Modulation(width, 9 if is_dual else 6)
        self.norm1_context = Modulation(width, 2 if is_last else 6)
        self.attn = Attention(width, heads, True, is_last)
        self.attn2 = Attention(width, heads, False, is_last) if is_dual else None
        self.ff = FeedForward(width)
        self.ff_context = None if is_last else FeedForward(width)

    def forward(self, image, text, embedding):
        m, c = self.norm1(embedding), self.norm1_context(embedding)
        is_last = self.ff_context is None
        shift, scale = (c[1], c[0]) if is_last else (c[0], c[1])
        change, text_change = self.attn(modulated(image, m[0], m[1]), modulated(text, shift, scale))
        x = torch.addcmul(image, m[2], change)
        if self.attn2 is not None:
            x = torch.addcmul(x, m[8], self.attn2(modulated(image, m[6], m[7])))
        x = torch.addcmul(x, m[5], self.ff(modulated(x, m[3], m[4])))
        if is_last:
            return x, None
        text = torch.addcmul(text, c[2], self.attn.to_add_out(text_change))
        return x, torch.addcmul(text, c[5], self.ff_context(modulated(text, c[3], c[4])))


class Transformer(nn.Module):
    def __init__(self, shape):
        super().__init__()
        width, self.side = shape.width, shape.table
        self.pos_embed = nn.Module()
        self.pos_embed.proj = nn.Conv2d(16, width, 2, 2)
        self.pos_embed.register_buffer("pos_embed", torch.zeros(1, shape.table ** 2, width))
        self.time_text_embed = nn.Module()
        self.time_text_embed.timestep_embedder = Embedding(256, width)
        self.time_text_embed.text_embedder = Embedding(shape.pooled, width)
        self.context_embedder = nn.Linear(shape.text, width)
        self.transformer_blocks = nn.ModuleList(
            Block(width, shape.heads, i < shape.dual, i + 1 == shape.layers)
            for i in range(shape.layers))
        self.norm_out = Modulation(width, 2)
        self.proj_out = nn.Linear(width, 64)
        half = torch.arange(128, dtype=torch.float32) * (-math.log(10000.0) / 128)
        self.register_buffer("frequencies", half.exp(), persistent=False)

    def forward(self, x, t, sequence, pooled):
        dtype = self.proj_out.weight.dtype
        rows, columns = x.shape[2] // 2, x.shape[3] // 2
        angle = (t * 1000).float().unsqueeze(1) * self.frequencies.float()
        times = self.time_text_embed.timestep_embedder(
            torch.cat([angle.cos(), angle.sin()], 1).to(dtype))
        embedding = F.silu(times + self.time_text_embed.text_embedder(pooled))
        top, left = (self.side - rows) // 2, (self.side - columns) // 2
        table = self.pos_embed.pos_embed.unflatten(1, (self.side, self.side))
        table = table[:, top:top + rows, left:left + columns].flatten(1, 2)
        image = self.pos_embed.proj(x.to(dtype)).flatten(2).transpose(1, 2) + table
        text = self.context_embedder(sequence)
        for block in self.transformer_blocks:
            image, text = block(image, text, embedding)
        scale, shift = self.norm_out(embedding)
        out = self.proj_out(modulated(image, shift, scale))
        out = out.unflatten(2, (2, 2, 16)).unflatten(1, (rows, columns))
        return out.permute(0, 5, 1, 3, 2, 4).reshape(x.shape).to(x.dtype)


def random_transformer(shape, device):
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = Transformer(shape).requires_grad_(False)
    torch.set_default_dtype(torch.float32)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 1:
                weight.fill_(0 if name.endswith("bias") else 1)
            else:
                weight.normal_(0, 1 / math.sqrt(weight[0].numel()))
    return model


def add_adapters(model, device):
    trained = []
    for name, layer in model.named_modules():
        if not name.endswith(TARGETS) or "attn2" in name:
            continue
        down = torch.empty(RANK, layer.in_features, device=device).normal_(
            0, 1 / math.sqrt(layer.in_features)).requires_grad_()
        up = torch.zeros(layer.out_features, RANK, device=device, requires_grad=True)
        layer.adapters = {"current": (down, up)}
        for role in ("old", "average"):
            layer.adapters[role] = (down.detach().clone(), up.detach().clone())
        trained += [down, up]
    return trained


class Adapters:
    """The lists of weights of a role."""

    def __init__(self, model):
        self.layers = [m for m in model.modules() if hasattr(m, "adapters")]

    @torch.no_grad()
    def follow(self, role, decay):
        own = [x for layer in self.layers for x in layer.adapters[role]]
        current = [x for layer in self.layers for x in layer.adapters["current"]]
        torch._foreach_lerp_(own, current, 1 - decay)


def velocity(model, role, x, t, prompts):
    Adapted.role = role
    return model(x, t, *prompts)


@torch.no_grad()
def sample(model, x, sigmas, prompts):
    """Multistep DPM-Solver++ of order 2, first and last step of order 1."""
    snr = lambda s: math.log1p(-s) - math.log(s) if s < 1 else -math.inf
    previous = None
    for i in range(STEPS):
        s, to = sigmas[i], sigmas[i + 1]
        v = velocity(model, "old", x, torch.full((len(x),), s, device=x.device), prompts)
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
    difference = (x0_branch - x0).double().flatten(1)
    weight = difference.detach().abs().mean(1).clamp(min=FLOOR)
    return difference.square().mean(1) / weight


def loss_of(model, x0, t, r, prompts):
    eps, at = torch.randn_like(x0), t.view(-1, 1, 1, 1)
    x_t = (1 - at) * x0 + at * eps
    with torch.no_grad():
        v_old = velocity(model, "old", x_t, t, prompts)
        v_ref = velocity(model, None, x_t, t, prompts)
    v = velocity(model, "current", x_t, t, prompts)
    plus, minus = (1 - BETA) * v_old + BETA * v, (1 + BETA) * v_old - BETA * v
    positive, negative = branch(x_t - at * plus, x0), branch(x_t - at * minus, x0)
    kl = (v - v_ref).square().flatten(1).mean(1)
    return CLIP * (r * positive + (1 - r) * negative) / BETA + KL_WEIGHT * kl


def shifted(sigma):
    return 3 * sigma / (1 + 2 * sigma)


def print_epoch(options, shape, wait, peak, forget):
    device = options.device
    model = random_transformer(shape, device)
    trained = add_adapters(model, device)
    adapters = Adapters(model)
    optimizer = torch.optim.AdamW(trained, lr=3e-4, weight_decay=1e-4, fused=True)
    count, side = options.images, options.size // 8
    prompts = [torch.randn(1, *s, device=device).bfloat16().repeat(count, *[1] * len(s))
               for s in ((333, shape.text), (shape.pooled,))]
    sigmas = [shifted(1 - i / STEPS) for i in range(STEPS + 1)]
    collect, update = [], []
    for k in range(options.rounds + 1):
        forget()
        wait()
        start = time.perf_counter()
        x0 = sample(model, torch.randn(count, 16, side, side, device=device), sigmas, prompts)
        reward = x0.flatten(1).mean(1).double()
        reward = reward.cpu()
        middle = time.perf_counter()
        advantage = (reward - reward.mean()) / (reward.std(correction=0) + 1e-4)
        r = (advantage.clamp(-CLIP, CLIP) / (2 * CLIP) + 0.5).to(device)
        t = ((torch.randperm(count) + torch.rand(count)) / count).to(device)
        optimizer.zero_grad()
        for rows in torch.randperm(count).to(device).split(MICRO_BATCH):
            loss = loss_of(model, x0[rows], t[rows], r[rows], [p[rows] for p in prompts])
            (loss.sum() / count).backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        adapters.follow("average", min((2 + k) / (11 + k), 0.9))
        adapters.follow("old", min(0.001 * (k + 1), 0.5))
        wait()
        if k > 0:
            collect.append(middle - start)
            update.append(time.perf_counter() - middle)
    batches = -(-count // MICRO_BATCH)
    print(json.dumps({"images_per_second": count / statistics.median(collect),
                      "update_seconds_per_micro_batch": statistics.median(update) / batches,
                      "peak_bytes": peak()}))


def of_diffusers(shape):
    from diffusers import SD3Transformer2DModel
    torch.set_default_dtype(torch.bfloat16)
    model = SD3Transformer2DModel(
        sample_size=128, num_layers=shape.layers, num_attention_heads=shape.heads,
        attention_head_dim=64, joint_attention_dim=shape.text,
        caption_projection_dim=shape.width, pooled_projection_dim=shape.pooled,
        pos_embed_max_size=shape.table, dual_attention_layers=tuple(range(shape.dual)),
        qk_norm="rms_norm").requires_grad_(False)
    torch.set_default_dtype(torch.float32)
    return lambda x, t, sequence, pooled: model(
        hidden_states=x, encoder_hidden_states=sequence, pooled_projections=pooled,
        timestep=t * 1000, return_dict=False)


@torch.no_grad()
def print_forward(options, shape, wait, peak):
    device = options.device
    if options.diffusers:
        with torch.device(device):
            model = of_diffusers(shape)
    else:
        model = random_transformer(shape, device)
    normal = lambda *s: torch.randn(*s, device=device).bfloat16()
    side = options.size // 8
    inputs = (normal(options.batch, 16, side, side), torch.full((options.batch,), 0.5,
              device=device), normal(options.batch, 333, shape.text),
              normal(options.batch, shape.pooled))
    seconds = []
    for _ in range(options.rounds + 1):
        wait()
        start = time.perf_counter()
        model(*inputs)
        wait()
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"forward_seconds": statistics.median(seconds[1:]), "peak_bytes": peak()}))


DTYPES = {"F32": torch.float32}


def check(path):
    """Ends the program where its velocity differs from the one in a file."""
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = bytearray(file.read())
    header.pop("__metadata__", None)
    given = {name: torch.frombuffer(data, dtype=DTYPES[e["dtype"]], count=math.prod(e["shape"]),
                                    offset=e["data_offsets"][0]).view(e["shape"])
             for name, e in header.items()}
    options = argparse.Namespace(layers=3, dual=2, tiny=True)
    model = Transformer(Shape(options))
    weights = {n.removeprefix("weight."): t for n, t in given.items() if n.startswith("weight.")}
    model.load_state_dict(weights)
    with torch.no_grad():
        own = model(given["x"], given["t"], given["sequence"], given["pooled"])
    apart = ((own - given["velocity"]).abs().max() / given["velocity"].abs().max()).item()
    print(json.dumps({"difference": apart}))
    if not apart < 1e-4:
        sys.exit("the programs do not do the same work")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", default="forward", choices=["forward", "epoch"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--dual", type=int, default=13)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--diffusers", action="store_true")
    parser.add_argument("--check", metavar="FILE")
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.check:
        return check(options.check)
    on_gpu = options.device != "cpu"
    wait = torch.cuda.synchronize if on_gpu else lambda: None
    peak = torch.cuda.max_memory_allocated if on_gpu else lambda: 0
    forget = torch.cuda.reset_peak_memory_stats if on_gpu else lambda: None
    shape = Shape(options)
    if options.part == "forward":
        print_forward(options, shape, wait, peak)
    else:
        print_epoch(options, shape, wait, peak, forget)


if __name__ == "__main__":
    main()
