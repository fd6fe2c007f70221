#!/usr/bin/env python3
"""Writes the reference numbers of this folder: Stable Diffusion 3 Medium and 3.5 Large.

    pip install torch==2.11.0 diffusers==0.42.1
    python tests/data/sd3_kinds/make.py

A folder for each model, by what diffusers' SD3Transformer2DModel is under its configuration:
`real_config.json` and `real_shapes.json`, the published configuration and every name and shape that
follows from it, found without memory; and tiny networks of its kind with random weights, in the
layout of `tests/data/sd3`: `mmdit` with one forward and backward pass, `manifest.json` with the
rounding noise of float32 and bfloat16 against float64.
"""

import copy
import json
from pathlib import Path

import torch
from diffusers import SD3Transformer2DModel
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parent
SHARED = {"sample_size": 128, "patch_size": 2, "in_channels": 16, "out_channels": 16,
          "attention_head_dim": 64, "joint_attention_dim": 4096, "pooled_projection_dim": 2048,
          "pos_embed_max_size": 192}
# As published: 3 Medium's file is older than the last two entries.
PUBLISHED = {
    "3_medium": {"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536},
    "3_5_large": {"num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432,
                  "dual_attention_layers": [], "qk_norm": "rms_norm"},
}
TINY = {"sample_size": 8, "patch_size": 2, "in_channels": 4, "out_channels": 4,
        "joint_attention_dim": 12, "pooled_projection_dim": 10, "attention_head_dim": 8,
        "num_layers": 3, "pos_embed_max_size": 12}
TINY_WIDTHS = {
    "3_medium": {"num_attention_heads": 2, "caption_projection_dim": 16},
    "3_5_large": {"num_attention_heads": 3, "caption_projection_dim": 24},
}
WATCHED = ["pos_embed.proj.weight", "context_embedder.weight", "proj_out.bias",
           "transformer_blocks.0.attn.to_q.weight", "transformer_blocks.1.attn.add_k_proj.weight",
           "transformer_blocks.2.norm1_context.linear.weight"]


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator("cpu").manual_seed(seed))


@torch.no_grad()
def randomise(model):
    """Values that show: no zero biases, no norms of one, gates that let the branches through."""
    for seed, (name, p) in enumerate(model.named_parameters()):
        noise = normal(1000 + seed, *p.shape)
        gain, shift = (2.5, 0.4) if ".linear." in name and "norm" in name else (0.9, 0.1)
        if p.ndim > 1:
            p.copy_(gain * noise / p[0].numel() ** 0.5)
        else:
            p.copy_(shift * noise if name.endswith("bias") else 1 + 0.2 * noise)
    return model.eval()


def recorded(model):
    """Outputs of blocks, by name, filled in by the next pass."""
    taken = {}

    def hook(label):
        def store(_module, _inputs, output):
            parts = output if isinstance(output, tuple) else (output,)
            for i, part in enumerate(parts):
                if part is not None:
                    taken[f"act/{label}.{i}" if len(parts) > 1 else f"act/{label}"] = part.detach()
        return store

    watched = {"pos_embed": model.pos_embed, "temb": model.time_text_embed,
               "norm_out": model.norm_out, "block0.attn": model.transformer_blocks[0].attn}
    watched.update({f"block{i}": block for i, block in enumerate(model.transformer_blocks)})
    for label, module in watched.items():
        module.register_forward_hook(hook(label))
    return taken


def case_of(model):
    """One pass, and the rounding noise of its output."""
    inputs = {"hidden_states": normal(1, 2, TINY["in_channels"], 6, 14),
              "encoder_hidden_states": normal(2, 2, 9, TINY["joint_attention_dim"]),
              "pooled_projections": normal(3, 2, TINY["pooled_projection_dim"])}
    timestep, target = torch.tensor([1000.0, 437.5]), normal(4, 2, TINY["in_channels"], 6, 14)
    double, half = copy.deepcopy(model).double(), copy.deepcopy(model).bfloat16()
    activations = recorded(model)
    leaves = {name: x.clone().requires_grad_() for name, x in inputs.items()}
    output = model(**leaves, timestep=timestep, return_dict=False)[0]
    loss = (output - target).square().mean()
    loss.backward()
    with torch.no_grad():
        exact = double(**{k: x.double() for k, x in inputs.items()}, timestep=timestep.double(),
                       return_dict=False)[0]
        rounded = half(**{k: x.bfloat16() for k, x in inputs.items()}, timestep=timestep,
                       return_dict=False)[0]
    named = dict(model.named_parameters())
    tensors = {**inputs, "timestep": timestep, "target": target, "output": output, "loss": loss,
               "output_bf16": rounded, **activations,
               **{f"grad/{name}": x.grad for name, x in leaves.items()},
               **{f"grad/{name}": named[name].grad for name in WATCHED},
               **{f"grad_norm/{name}": p.grad.norm() for name, p in named.items()}}
    noise = {"mmdit/wide": (output.double() - exact).abs().max().item(),
             "mmdit/wide_bf16": (rounded.double() - exact).abs().max().item()}
    return tensors, noise


def write_json(path, value):
    path.write_text(json.dumps(value, indent=1) + "\n")


def write_shapes(path, model):
    lines = [f'  "{name}": {json.dumps(list(t.shape))}' for name, t in model.state_dict().items()]
    path.write_text('{\n "transformer": {\n' + ",\n".join(lines) + "\n }\n}\n")


def write_tensors(path, tensors):
    save_file({k: t.detach().clone().contiguous() for k, t in tensors.items()}, path)
    path.chmod(0o644)


def main():
    for kind, own in PUBLISHED.items():
        folder = ROOT / kind
        (folder / "mmdit").mkdir(parents=True, exist_ok=True)
        published = {**SHARED, **own}
        with torch.device("meta"):
            write_shapes(folder / "real_shapes.json", SD3Transformer2DModel(**published))
        write_json(folder / "real_config.json",
                   {"_class_name": "SD3Transformer2DModel", **published})
        tiny = {**published, **TINY, **TINY_WIDTHS[kind]}
        model = randomise(SD3Transformer2DModel(**tiny))
        write_json(folder / "mmdit" / "config.json", tiny)
        write_tensors(folder / "mmdit" / "model.safetensors", model.state_dict())
        tensors, noise = case_of(model)
        write_tensors(folder / "mmdit" / "case_wide.safetensors", tensors)
        write_json(folder / "manifest.json", {"max_abs_error_float32_vs_float64": noise})


if __name__ == "__main__":
    main()
