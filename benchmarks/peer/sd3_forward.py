"""The forward pass of sd3_forward.cpp through diffusers, from the same folder.

Usage: sd3_forward.py --model FOLDER [--size N] [--batch N] [--tokens N] [--rounds N] [--threads N]
                      [--dtype float32|bfloat16]

Prints seconds a pass (median).
"""

import argparse
import statistics
import time

import torch
from diffusers import SD3Transformer2DModel


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=333)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dtype = getattr(torch, options.dtype)
    model = SD3Transformer2DModel.from_pretrained(options.model, subfolder="transformer",
                                                  torch_dtype=dtype).eval()
    config = model.config
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    inputs = {
        "hidden_states": normal(options.batch, config.in_channels, options.size // 8,
                                options.size // 8),
        "encoder_hidden_states": normal(options.batch, options.tokens,
                                        config.joint_attention_dim),
        "pooled_projections": normal(options.batch, config.pooled_projection_dim),
        "timestep": torch.full((options.batch,), 500.0),
    }
    seconds = []
    with torch.no_grad():
        for _ in range(options.rounds + 1):
            start = time.perf_counter()
            model(**inputs, return_dict=False)
            seconds.append(time.perf_counter() - start)
    print(f"{statistics.median(seconds[1:]):.6f}")


if __name__ == "__main__":
    main()
