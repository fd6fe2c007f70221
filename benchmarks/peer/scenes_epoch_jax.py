"""The NFT epoch of the scenes task in JAX, the same work as scenes_epoch.cpp, as one compiled function.

Usage: scenes_epoch_jax.py [--epochs N] [--threads T]
       scenes_epoch_jax.py --check FILE

Prints seconds an epoch and those of the processor (medians). Everything from prompts to averaged
weights is one jitted function whose buffers are reused. Samples go through solver and network in
chunks whose activations stay in the cache, gradients are summed over chunks. With --check it compares
itself with what scenes_epoch --write has written: velocities, gradients, scores, and how many
velocities an epoch computes.
"""

import math
import sys

from jax_epoch import (adamw, branch, clipped, options_of, read_safetensors, state_of, time_epochs)
from scene_prompts import (CELLS, COLOURS, PALETTE, SHAPES, TOKENS, WORDS, all_prompts, asked_of,
                           by_own_names, tokens_of)

options = options_of(__doc__, epochs=10)

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy  # noqa: E402

PROMPTS, GROUP, STEPS, TIMES, GRADIENT_STEPS = 24, 24, 10, 2, 2
BETA, KL_WEIGHT, RATE, DECAY = 0.5, 0.03, 1e-3, 1e-4
CHANNELS, SIDE, WIDTH, HEADS, LAYERS, TIME_FEATURES = 8, 4, 64, 2, 3, 256
CHUNK = 36

CATEGORIES = all_prompts()
CATALOGUE = sum(CATEGORIES, [])
ALL_TOKENS = jnp.array([tokens_of(words) for words in CATALOGUE])
ASKED = {name: jnp.array(values) for name, values in asked_of(CATALOGUE).items()}
# Multiplied, then divided, as published: at t = 1000 the last bit of a frequency is seen.
FREQUENCIES = numpy.exp((numpy.arange(TIME_FEATURES // 2, dtype=numpy.float32)
                         * numpy.float32(-math.log(10000.0)) / numpy.float32(TIME_FEATURES // 2)
                         ).astype(numpy.float64)).astype(numpy.float32)

counted = {"forward": 0, "backward": 0}


def count(kind, rows):
    """Counts what is run, not what is traced: a loop is traced once."""
    if options.check:
        jax.debug.callback(lambda: counted.update({kind: counted[kind] + rows}))


def linear(p, name, x):
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def mlp(p, name, x, activation):
    return linear(p, f"{name}.2", activation(linear(p, f"{name}.0", x)))


def layer_norm(x):
    x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6)


def rms_norm(x, weight):
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6) * weight


def modulated(x, shift, scale):
    return layer_norm(x) * (1 + scale[:, None]) + shift[:, None]


def encoded(p, tokens):
    x = p["encoder.tokens.weight"][tokens] + p["encoder.places.weight"]
    for name in ("encoder.convolution_1", "encoder.convolution_2"):
        padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0)))
        x = x + jax.nn.relu(linear(p, name, jnp.concatenate([padded[:, :-2], x, padded[:, 2:]], 2)))
    return x, x.mean(1)


def projections(p, name, x):
    q, k, v = jnp.moveaxis(linear(p, f"{name}.qkv", x).reshape(*x.shape[:2], 3, HEADS, -1), 2, 0)
    return (rms_norm(q, p[f"{name}.query_norm.weight"]), rms_norm(k, p[f"{name}.key_norm.weight"]), v)


def attended(q, k, v):
    # Faster here, with its gradient, than jax.nn.dot_product_attention.
    weight = jax.nn.softmax(jnp.einsum("bqhc,bkhc->bhqk", q, k) / math.sqrt(WIDTH // HEADS))
    return jnp.einsum("bhqk,bkhc->bqhc", weight, v)


def block(p, name, image, text, embedding, is_last):
    m = jnp.split(linear(p, f"{name}.image_modulation", embedding), 6, 1)
    c = jnp.split(linear(p, f"{name}.text_modulation", embedding), 2 if is_last else 6, 1)
    shift, scale = (c[1], c[0]) if is_last else (c[0], c[1])
    of_image = projections(p, f"{name}.image", modulated(image, m[0], m[1]))
    of_text = projections(p, f"{name}.text", modulated(text, shift, scale))
    q, k, v = (jnp.concatenate(pair, 1) for pair in zip(of_image, of_text))
    found = attended(q, k, v).reshape(*q.shape[:2], WIDTH)
    gelu = lambda x: jax.nn.gelu(x, approximate=True)
    image = image + m[2][:, None] * linear(p, f"{name}.image_out", found[:, :CELLS])
    image = image + m[5][:, None] * mlp(p, f"{name}.image_feed", modulated(image, m[3], m[4]), gelu)
    if is_last:
        return image, None
    text = text + c[2][:, None] * linear(p, f"{name}.text_out", found[:, CELLS:])
    text = text + c[5][:, None] * mlp(p, f"{name}.text_feed", modulated(text, c[3], c[4]), gelu)
    return image, text


def velocity(p, x, t, tokens):
    """v of a model, for latents [B, CHANNELS, CELLS]."""
    count("forward", len(x))
    text, pooled = encoded(p, tokens)
    angle = (t * 1000)[:, None] * FREQUENCIES
    features = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], 1)
    embedding = jax.nn.silu(mlp(p, "time", features, jax.nn.silu)
                            + mlp(p, "pooled", pooled, jax.nn.silu))
    image = linear(p, "patches", x.swapaxes(1, 2)) + p["positions"]
    text = linear(p, "context", text)
    for i in range(LAYERS):
        image, text = block(p, f"blocks.{i}", image, text, embedding, i + 1 == LAYERS)
    scale, shift = jnp.split(linear(p, "last_modulation", embedding), 2, 1)
    return linear(p, "out", modulated(image, shift, scale)).swapaxes(1, 2)


def solver_factors():
    """Multistep DPM-Solver++ of order 2, first and last step of order 1: a row (s, a, b, c) a step,
    of x' = a x + b x0 + c (x0 of the step before)."""
    sigmas = [1 - i / STEPS for i in range(STEPS + 1)]
    snr = lambda s: math.log1p(-s) - math.log(s) if s < 1 else -math.inf
    rows = []
    for i in range(STEPS):
        s, to = sigmas[i], sigmas[i + 1]
        if i == 0 or i == STEPS - 1:
            rows.append((s, to / s, 1 - to / s, 0.0))
            continue
        h, h0 = snr(to) - snr(s), snr(s) - snr(sigmas[i - 1])
        slope = 0.0 if math.isinf(h0) else h / h0
        decay = (1 - to) * math.expm1(-h)
        rows.append((s, to / s, -decay * (1 + 0.5 * slope), 0.5 * decay * slope))
    return jnp.array(rows)


def in_chunks(x):
    return x.reshape(-1, CHUNK, *x.shape[1:])


def sample(p, noise, tokens):
    def of_chunk(given):
        x, condition = given

        def step(carry, factors):
            x, previous = carry
            s, a, b, c = factors
            x0 = x - s * velocity(p, x, jnp.full(len(x), s), condition)
            return (a * x + b * x0 + c * previous, x0), None

        return jax.lax.scan(step, (x, jnp.zeros_like(x)), solver_factors())[0][0]

    return jax.lax.map(of_chunk, (in_chunks(noise), in_chunks(tokens))).reshape(noise.shape)


def loss(current, old, reference, x0, tokens, t, eps, r):
    at = t[:, None, None]
    x_t = (1 - at) * x0 + at * eps
    v = velocity(current, x_t, t, tokens)
    count("backward", len(x_t))
    v_old, v_ref = velocity(old, x_t, t, tokens), velocity(reference, x_t, t, tokens)
    plus = (1 - BETA) * v_old + BETA * v
    minus = (1 + BETA) * v_old - BETA * v
    positive, negative = branch(x_t - at * plus, x0), branch(x_t - at * minus, x0)
    kl = jnp.square(v - v_ref).mean((1, 2))
    return ((r * positive + (1 - r) * negative) / BETA + KL_WEIGHT * kl).mean()


def scores(x, numbers):
    """The strict score of latents [B, CHANNELS, CELLS] under the prompts of these numbers."""
    occupied = x[:, 0] > 0
    clear = (jnp.abs(x[:, 0]) > 0.5).all(1)
    best, shape = jax.lax.top_k(x[:, 1:5].swapaxes(1, 2), 2)
    known = occupied & (best[..., 0] - best[..., 1] > 0.6)
    shape = jax.nn.one_hot(shape[..., 0], len(SHAPES), dtype=int) * known[..., None]
    palette = jnp.array(PALETTE)
    distance = jnp.square(x[:, 5:].swapaxes(1, 2)[:, :, None] - palette).sum(3)
    near = distance.min(2) < 0.9 * 0.9
    colour = jax.nn.one_hot(distance.argmin(2), len(COLOURS), dtype=int) * near[..., None]
    asked = ASKED["shapes"][numbers]
    right = clear & (occupied.sum(1) == asked.sum(1)) & (shape.sum(1) == asked).all(1)
    pairs = (shape[..., None] * colour[:, :, None]).sum(1)
    right &= ~ASKED["has_colours"][numbers] | (pairs == ASKED["pairs"][numbers]).all((1, 2))
    # Where the shapes are right and a relation is asked for, each is in one cell.
    cell = (shape * jnp.arange(CELLS)[:, None]).sum(1)
    first, second = jnp.take_along_axis(cell, ASKED["ends"][numbers], 1).T
    across, down = first % SIDE - second % SIDE, first // SIDE - second // SIDE
    holds = jnp.stack([jnp.ones_like(right), across < 0, across > 0, down < 0, down > 0], 1)
    relation = jnp.take_along_axis(holds, ASKED["relation"][numbers][:, None], 1)[:, 0]
    return (right & relation).astype(jnp.float32)


def drawn_prompts(key):
    """Numbers of prompts, as many of each category."""
    first, chosen = 0, []
    for i, category in enumerate(CATEGORIES):
        order = jax.random.permutation(jax.random.fold_in(key, i), len(category))
        chosen.append(first + order[:PROMPTS // len(CATEGORIES)])
        first += len(category)
    return jnp.concatenate(chosen)


def stratified(key, rows):
    """A time of each sample in each of as many strata, [TIMES rows]."""
    keys = jax.random.split(key, TIMES + 1)
    place = jnp.stack([jax.random.permutation(k, rows) for k in keys[1:]])
    within = (place + jax.random.uniform(keys[0], (TIMES, rows))) / rows
    return ((within + jnp.arange(TIMES)[:, None]) / TIMES).flatten()


def gradient_step(state, x0, tokens, r, key):
    times, noise = jax.random.split(key)
    repeated = lambda x: jnp.tile(x, (TIMES,) + (1,) * (x.ndim - 1))
    batch = [repeated(x0), repeated(tokens), stratified(times, len(x0)),
             jax.random.normal(noise, (TIMES * len(x0), *x0.shape[1:])), repeated(r)]

    def add(total, chunk):
        part = jax.value_and_grad(loss)(state["current"], state["old"], state["reference"], *chunk)
        return jax.tree.map(jnp.add, total, part), None

    zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, state["current"]))
    chunks = [in_chunks(x) for x in batch]
    value, gradient = jax.tree.map(lambda x: x / len(chunks[0]), jax.lax.scan(add, zero, chunks)[0])
    # A table of positions is no weight.
    gradient = clipped({name: g for name, g in gradient.items() if name != "positions"})
    step = state["step"] + 1
    rate = RATE / jnp.sqrt(1 + state["step"] / 10)
    average_decay = jnp.minimum((1 + step) / (10 + step), 0.97)
    new = {**state, "step": step, "loss": value,
           **{part: dict(state[part]) for part in ("current", "average", "mean", "square")}}
    for name, g in gradient.items():
        p, mean, square = adamw(state["current"][name], g, state["mean"][name],
                                state["square"][name], step, rate, DECAY)
        new["current"][name], new["mean"][name], new["square"][name] = p, mean, square
        new["average"][name] = p + average_decay * (state["average"][name] - p)
    return new


def epoch(state, key):
    keys = jax.random.split(key, 3 + GRADIENT_STEPS)
    numbers = jnp.repeat(drawn_prompts(keys[0]), GROUP)
    tokens = ALL_TOKENS[numbers]
    x0 = sample(state["old"], jax.random.normal(keys[1], (len(numbers), CHANNELS, CELLS)), tokens)
    reward = scores(x0, numbers).reshape(PROMPTS, GROUP)
    r = jnp.clip(reward - reward.mean(1, keepdims=True), -1, 1).flatten() / 2 + 0.5
    order = jax.random.permutation(keys[2], len(x0)).reshape(GRADIENT_STEPS, -1)
    step = lambda state, own: (gradient_step(state, *(x[own[0]] for x in (x0, tokens, r)), own[1]), None)
    state = jax.lax.scan(step, state, (order, keys[3:]))[0]
    old_decay = jnp.minimum(0.02 * state["step"], 0.95)
    follow = lambda old, p: p + old_decay * (old - p)
    return {**state, "old": jax.tree.map(follow, state["old"], state["current"])}


def shapes():
    """Of all weights, and of the table of positions."""
    size = {"encoder.tokens.weight": (len(WORDS), WIDTH), "encoder.places.weight": (TOKENS, WIDTH),
            "positions": (1, CELLS, WIDTH)}

    def layer(name, inputs, outputs):
        size.update({f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)})

    layer("encoder.convolution_1", 3 * WIDTH, WIDTH)
    layer("encoder.convolution_2", 3 * WIDTH, WIDTH)
    layer("patches", CHANNELS, WIDTH)
    layer("context", WIDTH, WIDTH)
    for name, inputs in (("time", TIME_FEATURES), ("pooled", WIDTH)):
        layer(f"{name}.0", inputs, WIDTH)
        layer(f"{name}.2", WIDTH, WIDTH)
    for i in range(LAYERS):
        is_last = i + 1 == LAYERS
        for stream in ("image", "text"):
            name = f"blocks.{i}.{stream}"
            ends = is_last and stream == "text"
            layer(f"{name}_modulation", WIDTH, (2 if ends else 6) * WIDTH)
            layer(f"{name}.qkv", WIDTH, 3 * WIDTH)
            for norm in ("query_norm", "key_norm"):
                size[f"{name}.{norm}.weight"] = (WIDTH // HEADS,)
            if not ends:
                layer(f"{name}_out", WIDTH, WIDTH)
                layer(f"{name}_feed.0", WIDTH, 4 * WIDTH)
                layer(f"{name}_feed.2", 4 * WIDTH, WIDTH)
    layer("last_modulation", WIDTH, 2 * WIDTH)
    layer("out", WIDTH, CHANNELS)
    return size


def fresh(key):
    spread = lambda shape: 1 / math.sqrt(shape[-1])
    return {name: jnp.ones(shape) if "_norm." in name else
            jax.random.uniform(jax.random.fold_in(key, i), shape, minval=-1) * spread(shape)
            for i, (name, shape) in enumerate(shapes().items())}


def difference(own, given):
    """The largest, as a share of the largest number that is given."""
    return abs(own - given).max().item() / (abs(given).max().item() or 1)


def check(path):
    """Ends the program where it differs from what scenes_epoch --write has written."""
    given = read_safetensors(path)
    under = lambda prefix: {
        name: jnp.array(x).reshape(shapes()[name]) for name, x in by_own_names(
            {n[len(prefix):]: x for n, x in given.items() if n.startswith(prefix)},
            jnp.concatenate).items()}
    p, wanted = under("weight."), under("gradient.")
    assert p.keys() == shapes().keys(), p.keys() ^ shapes().keys()
    x = given["x"].reshape(-1, CHANNELS, CELLS)
    of = jax.jit(lambda p: velocity(p, x, given["t"], given["tokens"]))
    gradient = jax.grad(lambda p: jnp.square(of(p)).mean())(p)
    gradient.pop("positions")
    assert gradient.keys() == wanted.keys(), gradient.keys() ^ wanted.keys()
    of_velocity = difference(of(p), given["velocity"].reshape(x.shape))
    of_gradient = max(difference(gradient[name], g) for name, g in wanted.items())
    rows = {tuple(tokens_of(words)): row for row, words in enumerate(CATALOGUE)}
    strict = scores(x, jnp.array([rows[tuple(row)] for row in given["tokens"].tolist()]))
    wrong_scores = int((strict != given["strict"]).sum())
    jax.effects_barrier()
    counted.update(forward=0, backward=0)
    jax.block_until_ready(jax.jit(epoch)(state_of(fresh(jax.random.key(0))), jax.random.key(0)))
    jax.effects_barrier()
    evaluations, theirs = list(counted.values()), given["evaluations"].tolist()
    print(f"largest difference of a velocity {of_velocity:.1e}, of a gradient {of_gradient:.1e} of the "
          f"largest in its tensor; {wrong_scores} of {len(strict)} scores differ "
          f"({strict.mean():.2f} on average); an epoch computes {evaluations[0]} velocities and "
          f"differentiates {evaluations[1]}, there {theirs}")
    if of_velocity > 1e-5 or of_gradient > 1e-4 or wrong_scores or evaluations != theirs:
        sys.exit("the programs do not do the same work")


if __name__ == "__main__":
    if options.check:
        check(options.check)
    else:
        time_epochs(epoch, state_of(fresh(jax.random.key(0))), options.epochs)
