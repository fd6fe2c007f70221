"""What the epochs in JAX have in common: the command line, which has to be read before JAX is loaded,
the parts of NFT and of its optimiser, and the clock."""

import argparse
import json
import math
import os
import statistics
import sys
import time

CLIP_NORM, BETA1, BETA2, EPSILON, FLOOR = 1.0, 0.9, 0.999, 1e-8, 1e-5


def options_of(description, epochs):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--check", metavar="FILE")
    options = parser.parse_args()
    # XLA makes a thread for each processor that it may use, once, when it is first asked.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:options.threads])
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""),
                                        "--xla_cpu_prefer_vector_width=512"])
    os.environ["JAX_PLATFORMS"] = "cpu"
    return options


def branch(x0_branch, x0):
    """The matching error of one branch of NFT, over its own size."""
    import jax
    import jax.numpy as jnp
    axes = tuple(range(1, x0.ndim))
    difference = x0_branch - x0
    weight = jnp.maximum(jnp.abs(jax.lax.stop_gradient(difference)).mean(axes), FLOOR)
    return jnp.square(difference).mean(axes) / weight


def clipped(gradient):
    """A gradient whose norm is at most CLIP_NORM."""
    import jax.numpy as jnp
    norm = jnp.sqrt(sum(jnp.square(g).sum() for g in gradient.values()))
    factor = jnp.where(norm > CLIP_NORM, CLIP_NORM / norm, 1)
    return {name: g * factor for name, g in gradient.items()}


def adamw(p, gradient, mean, square, step, rate, decay):
    import jax.numpy as jnp
    mean = BETA1 * mean + (1 - BETA1) * gradient
    square = BETA2 * square + (1 - BETA2) * jnp.square(gradient)
    size = jnp.sqrt(square / (1 - BETA2**step)) + EPSILON
    return p * (1 - rate * decay) - rate / (1 - BETA1**step) * mean / size, mean, square


def state_of(p):
    """What an epoch begins with: copies of the weights for each role, and the optimiser's zeros."""
    import jax
    import jax.numpy as jnp
    copy = lambda: jax.tree.map(jnp.copy, p)
    zero = lambda: jax.tree.map(jnp.zeros_like, p)
    return {"current": copy(), "old": copy(), "reference": copy(), "average": copy(),
            "mean": zero(), "square": zero(), "step": jnp.zeros(()), "loss": jnp.zeros(())}


def time_epochs(epoch, state, epochs):
    """Runs epochs, whose buffers are reused, and prints their seconds and the processor's (medians)."""
    import jax
    run = jax.jit(epoch, donate_argnums=0)
    seconds, processor = [], []
    for key in list(jax.random.split(jax.random.key(1), epochs)):
        start, clock = time.perf_counter(), time.process_time()
        state = jax.block_until_ready(run(state, key))
        seconds.append(time.perf_counter() - start)
        processor.append(time.process_time() - clock)
    if not math.isfinite(state["loss"]):
        sys.exit("the loss is not finite")
    # The first epoch is compiled.
    medians = [statistics.median(t[max(1, len(t) // 5):] or t) for t in (seconds, processor)]
    print(*(f"{median:.6f}" for median in medians))


def read_safetensors(path):
    import numpy
    dtypes = {"F32": numpy.float32, "F64": numpy.float64, "I64": numpy.int64}
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = file.read()
    header.pop("__metadata__", None)
    return {name: numpy.frombuffer(data, dtypes[entry["dtype"]], math.prod(entry["shape"]),
                                   entry["data_offsets"][0]).reshape(entry["shape"])
            for name, entry in header.items()}
