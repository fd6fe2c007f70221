"""The NFT epoch of the ring task in JAX, the same work as ring_epoch.cpp, as one compiled function.

Usage: ring_epoch_jax.py [--epochs N] [--threads T]
       ring_epoch_jax.py --check FILE

Prints seconds an epoch and those of the processor (medians). Everything from noise to averaged
weights is one jitted function whose buffers are reused; the host does nothing in between. With
--check it compares itself with what ring_epoch --write has written: velocities, the gradients of
the loss, and how many velocities an epoch computes.
"""

import math
import sys

from jax_epoch import adamw, branch, clipped, options_of, read_safetensors, state_of, time_epochs

options = options_of(__doc__, epochs=200)

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

PROMPTS, GROUP, STEPS, TIMES = 8, 24, 10, 9
BETA, CLIP, KL_WEIGHT, RATE, DECAY = 1.0, 5.0, 1e-4, 3e-4, 1e-4
WIDTH, DEPTH, FREQUENCIES = 128, 3, 4

counted = {"forward": 0, "backward": 0}


def features(t):
    phase = t[:, None] * (2.0 ** jnp.arange(FREQUENCIES) * (math.pi / 2))
    return jnp.concatenate([jnp.sin(phase), jnp.cos(phase)], 1)


def velocity(p, x, t):
    """v of a model; counted while it is traced."""
    counted["forward"] += len(x)
    time_features = features(t)
    h = jnp.concatenate([x, time_features], 1)
    for i in range(DEPTH):
        h = jax.nn.silu(h @ p[f"weight{i}"].T + p[f"bias{i}"])
    return h @ p["weight_out"].T + p["bias_out"] + x * (time_features @ p["gate"].T)


def sample(p, x):
    """Multistep DPM-Solver++ of order 2, first and last step of order 1."""
    sigmas = [1 - i / STEPS for i in range(STEPS + 1)]
    snr = lambda s: math.log1p(-s) - math.log(s) if s < 1 else -math.inf
    previous = None
    for i in range(STEPS):
        s, to = sigmas[i], sigmas[i + 1]
        v = velocity(p, x, jnp.full(len(x), s))
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


def loss(current, old, reference, x0, t, eps, r):
    x_t = (1 - t[:, None]) * x0 + t[:, None] * eps
    v = velocity(current, x_t, t)
    counted["backward"] += len(x_t)
    v_old, v_ref = velocity(old, x_t, t), velocity(reference, x_t, t)
    plus = (1 - BETA) * v_old + BETA * v
    minus = (1 + BETA) * v_old - BETA * v
    positive = branch(x_t - t[:, None] * plus, x0)
    negative = branch(x_t - t[:, None] * minus, x0)
    kl = jnp.square(v - v_ref).mean(1)
    return (CLIP * (r * positive + (1 - r) * negative) / BETA + KL_WEIGHT * kl).mean()


def optimality(x0):
    angles = jnp.arange(8) * (2 * math.pi / 8)
    centres = (2 * jnp.stack([jnp.cos(angles), jnp.sin(angles)], 1))[jnp.array([1, 4])]
    distance = jnp.sqrt(jnp.square(x0[:, None] - centres).sum(2)).min(1)
    reward = (distance <= 0.4).astype(jnp.float32)
    grouped = reward.reshape(PROMPTS, GROUP)
    advantage = (grouped - grouped.mean(1, keepdims=True)) / (reward.std() + 1e-4)
    return jnp.clip(jnp.clip(advantage, -CLIP, CLIP) / (2 * CLIP) + 0.5, 0, 1).flatten()


def epoch(state, key):
    keys = jax.random.split(key, 3)
    count = PROMPTS * GROUP
    x0 = sample(state["old"], jax.random.normal(keys[0], (count, 2)))
    r = jnp.tile(optimality(x0), TIMES)
    order = jnp.argsort(jax.random.uniform(keys[1], (count, STEPS)), 1)[:, :TIMES]
    t = (1 - order / STEPS).T.flatten()
    eps = jax.random.normal(keys[2], (count * TIMES, 2))
    value, gradient = jax.value_and_grad(loss)(state["current"], state["old"], state["reference"],
                                               jnp.tile(x0, (TIMES, 1)), t, eps, r)
    step = state["step"] + 1
    new = {"reference": state["reference"], "step": step, "loss": value,
           **{part: {} for part in ("current", "old", "average", "mean", "square")}}
    average_decay = jnp.minimum((1 + step) / (10 + step), 0.9)
    old_decay = jnp.minimum(0.001 * step, 0.5)
    for name, g in clipped(gradient).items():
        p, mean, square = adamw(state["current"][name], g, state["mean"][name],
                                state["square"][name], step, RATE, DECAY)
        new["current"][name], new["mean"][name], new["square"][name] = p, mean, square
        new["average"][name] = p + average_decay * (state["average"][name] - p)
        new["old"][name] = p + old_decay * (state["old"][name] - p)
    return new


def fresh(key):
    sizes = [2 + 2 * FREQUENCIES] + [WIDTH] * DEPTH
    p = {"gate": jnp.zeros((1, 2 * FREQUENCIES)), "bias_out": jnp.zeros(2),
         "weight_out": jax.random.uniform(key, (2, WIDTH), minval=-1) * 0.1 / math.sqrt(WIDTH)}
    for i, (a, b) in enumerate(zip(sizes, sizes[1:])):
        p[f"weight{i}"] = jax.random.uniform(jax.random.fold_in(key, i), (b, a),
                                             minval=-1) * 1.7 / math.sqrt(a)
        p[f"bias{i}"] = jnp.zeros(b)
    return p


NAMES = {"gate": "gate", "output_weight": "weight_out", "output_bias": "bias_out",
         **{f"{layer}_{kind}": f"{kind}{i}" for kind in ("weight", "bias")
            for i, layer in enumerate(["input", "hidden1", "hidden2"])}}


def check(path):
    """Ends the program where it differs from what ring_epoch --write has written."""
    given = read_safetensors(path)
    under = lambda prefix: {NAMES[n[len(prefix):]]: g for n, g in given.items()
                            if n.startswith(prefix) and n[len(prefix):] in NAMES}
    roles = [under(f"{role}.") for role in ("current", "old", "reference")]
    v = velocity(roles[0], given["x_t"], given["t"])
    gradient = jax.grad(loss)(*roles, given["x0"], given["t"], given["eps"], given["r"])
    wanted = under("gradient.")
    assert gradient.keys() == wanted.keys(), gradient.keys() ^ wanted.keys()
    of_velocity = abs(v - given["velocity"]).max().item()
    of_gradient = max((abs(gradient[n] - g).max() / abs(g).max()).item() for n, g in wanted.items())
    counted.update(forward=0, backward=0)
    jax.eval_shape(epoch, state_of(fresh(jax.random.key(0))), jax.random.key(0))
    evaluations, theirs = list(counted.values()), given["evaluations"].tolist()
    print(f"largest difference of a velocity {of_velocity:.1e}, of a gradient {of_gradient:.1e} of "
          f"the largest in its tensor; an epoch computes {evaluations[0]} velocities and "
          f"differentiates {evaluations[1]}, there {theirs}")
    if of_velocity > 1e-5 or of_gradient > 1e-4 or evaluations != theirs:
        sys.exit("the programs do not do the same work")


if __name__ == "__main__":
    if options.check:
        check(options.check)
    else:
        time_epochs(epoch, state_of(fresh(jax.random.key(0))), options.epochs)
