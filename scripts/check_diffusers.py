#!/usr/bin/env python3
"""Checks that model folders and adapters pass between contraflow and diffusers, both ways.

Run by scripts/check_diffusers, which sets up what this needs. Every network is tiny and random; the
pipelines, tokenizers, file formats and names are the real ones. One line a check, with the largest
difference over the largest value; the last line counts them. Nothing is downloaded.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", DIFFUSERS_VERBOSITY="error", TRANSFORMERS_VERBOSITY="error",
                  HF_HUB_DISABLE_PROGRESS_BARS="1")

import diffusers
import peft
import torch
import transformers
from diffusers import (AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline,
                       FluxTransformer2DModel, SD3Transformer2DModel, StableDiffusion3Pipeline)
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

TOLERANCE = 1e-4
# The layers of the published fine-tuning code; of FLUX.1 with those of feed-forward layers.
TARGETS = ["attn.add_k_proj", "attn.add_q_proj", "attn.add_v_proj", "attn.to_add_out",
           "attn.to_k", "attn.to_out.0", "attn.to_q", "attn.to_v"]
FLUX_TARGETS = [*TARGETS, "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"]
PROMPTS = ["a cat", "two Dogs, it's raining!  ", "\u00dcber na\u00efve \uff43\uff41\uff54s  \u732b"]
TOKENIZER_DATA = Path(__file__).resolve().parent.parent / "tests/data/sd3/tokenizer"


class Checks:
    """What was compared, and how it came out."""

    def __init__(self):
        self.passed = self.failed = 0

    def note(self, good, name, detail):
        self.passed += good
        self.failed += not good
        print(f"{'ok  ' if good else 'FAIL'} {name}: {detail}", flush=True)

    def equal(self, name, got, want):
        if got.shape != want.shape:
            return self.note(False, name, f"{tuple(got.shape)} instead of {tuple(want.shape)}")
        error = ((got - want).abs().max() / want.abs().max()).item()
        self.note(error <= TOLERANCE, name, f"{error:.1e}")

    def differ(self, name, got, want):
        """A comparison says nothing about an adapter whose effect is not seen."""
        effect = ((got - want).abs().max() / want.abs().max()).item()
        self.note(effect > 100 * TOLERANCE, name, f"{effect:.1e}")

    def attempt(self, name, work):
        """Runs work(); an exception is one failed check, and the others go on."""
        try:
            work()
        except Exception as error:  # pylint: disable=broad-except
            self.note(False, name, f"{type(error).__name__}: {str(error).strip()[:500]}")


class Tool:
    """The program tests/interop/tool.cpp."""

    def __init__(self, path, scratch):
        self.path, self.scratch, self.calls = path, scratch, 0

    def run(self, *arguments):
        done = subprocess.run([self.path, *map(str, arguments)], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr.strip() or f"status {done.returncode}")

    def exchange(self, command, folder, tensors, adapter=None, settings=None):
        self.calls += 1
        given = self.scratch / f"{self.calls}.in.safetensors"
        result = self.scratch / f"{self.calls}.out.safetensors"
        metadata = {"settings": json.dumps(settings)} if settings else None
        save_file(tensors, given, metadata)
        self.run(command, folder, given, result, *([adapter] if adapter else []))
        return load_file(result)


def seeded(seed):
    return torch.Generator("cpu").manual_seed(seed)


@torch.no_grad()
def randomise(model, seed):
    """Values that show: no zero biases, no norms of one."""
    generator = seeded(seed)
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        if p.ndim > 1:
            p.copy_(noise / p[0].numel() ** 0.5)
        else:
            p.copy_(0.1 * noise + (0 if name.endswith("bias") else 1))
    return model.eval()


CLIP = {"vocab_size": 49408, "max_position_embeddings": 77, "bos_token_id": 0, "eos_token_id": 2,
        "pad_token_id": 1, "num_hidden_layers": 2}
CLIP_L = {**CLIP, "hidden_size": 24, "intermediate_size": 48, "projection_dim": 24,
          "num_attention_heads": 2, "hidden_act": "quick_gelu"}
CLIP_G = {**CLIP, "hidden_size": 32, "intermediate_size": 64, "projection_dim": 32,
          "num_attention_heads": 4, "hidden_act": "gelu"}


def tiny_t5():
    return transformers.T5EncoderModel(transformers.T5Config(
        vocab_size=67, d_model=64, d_kv=16, d_ff=80, num_layers=2, num_heads=3,
        feed_forward_proj="gated-gelu"))


def tiny_vae(scaling_factor, shift_factor):
    return AutoencoderKL(
        latent_channels=8, block_out_channels=(8, 16, 16), norm_num_groups=4, layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        use_quant_conv=False, use_post_quant_conv=False, scaling_factor=scaling_factor,
        shift_factor=shift_factor)


def randomised(networks):
    return {name: randomise(network, seed) for seed, (name, network) in enumerate(networks.items())}


class StableDiffusion:
    """Stable Diffusion 3 and 3.5 in diffusers: sizes differ from those contraflow writes."""

    name, kind = "SD3.5", "sd3.5-medium"
    pipeline, transformer, targets = StableDiffusion3Pipeline, SD3Transformer2DModel, TARGETS
    fewer_targets = ["attn.to_q", "ff.net.2", "proj_out"]
    refuses_alpha_keys = True
    inputs = {}
    cases = {
        "guided": {"prompts": PROMPTS, "negative": "ugly", "guidance": 4.5, "steps": 6,
                   "t5_tokens": 256, "size": (8, 8)},
        "unguided, wide": {"prompts": PROMPTS[:1], "negative": "", "guidance": 1.0, "steps": 4,
                           "t5_tokens": 128, "size": (4, 12)},
        "long prompt": {"prompts": ["many words " * 60], "negative": "", "guidance": 7.0,
                        "steps": 3, "t5_tokens": 77, "size": (6, 4)},
    }
    # What of the transformer another model has otherwise.
    their_kinds = {"3.5 Medium": {"dual_attention_layers": (0, 1), "qk_norm": "rms_norm"},
                   "3.5 Large": {"qk_norm": "rms_norm"}, "3 Medium": {}}
    our_kinds = {"3.5 Medium": "sd3.5-medium", "3.5 Large": "sd3.5-large",
                 "3 Medium": "sd3-medium"}

    @staticmethod
    def tiny_pipeline(tokenizers, with_t5=True, kind="3.5 Medium"):
        parts = randomised({
            "text_encoder": transformers.CLIPTextModelWithProjection(
                transformers.CLIPTextConfig(**CLIP_L)),
            "text_encoder_2": transformers.CLIPTextModelWithProjection(
                transformers.CLIPTextConfig(**CLIP_G)),
            "text_encoder_3": tiny_t5(),
            "transformer": SD3Transformer2DModel(
                sample_size=16, patch_size=2, in_channels=8, out_channels=8, num_layers=4,
                num_attention_heads=3, attention_head_dim=16, caption_projection_dim=48,
                joint_attention_dim=64, pooled_projection_dim=56, pos_embed_max_size=32,
                **StableDiffusion.their_kinds[kind]),
            "vae": tiny_vae(1.5305, 0.0609),
        })
        for name in ("tokenizer", "tokenizer_2"):
            parts[name] = transformers.CLIPTokenizer.from_pretrained(tokenizers / name)
        parts["tokenizer_3"] = transformers.T5TokenizerFast.from_pretrained(
            tokenizers / "tokenizer_3", extra_ids=0)
        if not with_t5:
            parts["text_encoder_3"] = parts["tokenizer_3"] = None
        return StableDiffusion3Pipeline(scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
                                        **parts)

    @staticmethod
    @torch.no_grad()
    def result(pipe, noise, settings):
        pipe.set_progress_bar_config(disable=True)
        prompts, tokens = settings["prompts"], settings["t5_tokens"]
        texts = {"prompt": [*prompts, settings["negative"]], "max_sequence_length": tokens,
                 "do_classifier_free_guidance": False}
        sequence, _, pooled, _ = pipe.encode_prompt(prompt_2=None, prompt_3=None, **texts)
        scale = pipe.vae_scale_factor
        common = {"prompt": prompts, "negative_prompt": [settings["negative"]] * len(prompts),
                  "num_inference_steps": settings["steps"], "guidance_scale": settings["guidance"],
                  "max_sequence_length": tokens, "latents": noise,
                  "height": noise.shape[2] * scale, "width": noise.shape[3] * scale}
        return {"sequence": sequence, "pooled": pooled,
                "latents": pipe(output_type="latent", **common).images,
                "images": pipe(output_type="pt", **common).images}

    @staticmethod
    def latent_channels(config):
        return config["in_channels"]

    @staticmethod
    def velocity(transformer, x):
        return transformer(hidden_states=x["x_t"], timestep=x["t"] * 1000,
                           encoder_hidden_states=x["sequence"], pooled_projections=x["pooled"],
                           return_dict=False)[0]


class Flux:
    """FLUX.1 in diffusers, likewise."""

    name, kind = "FLUX.1", "flux-dev"
    pipeline, transformer, targets = FluxPipeline, FluxTransformer2DModel, FLUX_TARGETS
    fewer_targets = ["attn.to_q", "ff.net.2", "proj_mlp"]
    refuses_alpha_keys = False
    inputs = {"guidance": torch.tensor(2.5)}
    cases = {
        "embedded guidance": {"prompts": PROMPTS, "negative": "", "guidance": 1.0, "embedded": 3.5,
                              "steps": 6, "t5_tokens": 256, "size": (8, 8)},
        "true guidance, wide": {"prompts": PROMPTS[:2], "negative": "ugly", "guidance": 4.0,
                                "embedded": 1.5, "steps": 4, "t5_tokens": 128, "size": (4, 12)},
        "long prompt": {"prompts": ["many words " * 60], "negative": "", "guidance": 1.0,
                        "embedded": 3.5, "steps": 3, "t5_tokens": 77, "size": (6, 4)},
    }
    their_kinds = {"[dev]": True, "[schnell]": False}
    our_kinds = {"[dev]": "flux-dev", "[schnell]": "flux-schnell"}

    @staticmethod
    def tiny_pipeline(tokenizers, kind="[dev]"):
        is_dev = Flux.their_kinds[kind]
        parts = randomised({
            "text_encoder": transformers.CLIPTextModel(transformers.CLIPTextConfig(**CLIP_L)),
            "text_encoder_2": tiny_t5(),
            "transformer": FluxTransformer2DModel(
                patch_size=1, in_channels=32, num_layers=2, num_single_layers=3,
                num_attention_heads=3, attention_head_dim=16, joint_attention_dim=64,
                pooled_projection_dim=24, guidance_embeds=is_dev, axes_dims_rope=(4, 6, 6)),
            "vae": tiny_vae(0.3611, 0.1159),
        })
        parts["tokenizer"] = transformers.CLIPTokenizer.from_pretrained(tokenizers / "tokenizer")
        parts["tokenizer_2"] = transformers.T5TokenizerFast.from_pretrained(
            tokenizers / "tokenizer_3", extra_ids=0)
        scheduler = FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=is_dev, shift=3.0 if is_dev else 1.0, base_shift=0.5,
            max_shift=1.15, base_image_seq_len=256, max_image_seq_len=4096)
        return FluxPipeline(scheduler=scheduler, **parts)

    @staticmethod
    @torch.no_grad()
    def result(pipe, noise, settings):
        pipe.set_progress_bar_config(disable=True)
        prompts, tokens = settings["prompts"], settings["t5_tokens"]
        sequence, pooled, _ = pipe.encode_prompt(
            [*prompts, settings["negative"]], prompt_2=None, max_sequence_length=tokens)
        scale = pipe.vae_scale_factor
        height, width = noise.shape[2] * scale, noise.shape[3] * scale
        common = {"prompt": prompts, "num_inference_steps": settings["steps"],
                  "guidance_scale": settings["embedded"], "max_sequence_length": tokens,
                  "latents": FluxPipeline._pack_latents(noise, *noise.shape), "height": height,
                  "width": width, "true_cfg_scale": settings["guidance"],
                  "negative_prompt": [settings["negative"]] * len(prompts)}
        latents = pipe(output_type="latent", **common).images
        return {"sequence": sequence, "pooled": pooled,
                "latents": FluxPipeline._unpack_latents(latents, height, width, scale),
                "images": pipe(output_type="pt", **common).images}

    @staticmethod
    def latent_channels(config):
        return config["in_channels"] // 4

    @staticmethod
    def velocity(transformer, x):
        rows, columns = x["x_t"].shape[2] // 2, x["x_t"].shape[3] // 2
        image = FluxPipeline._prepare_latent_image_ids(1, rows, columns, "cpu", torch.float32)
        guidance = x["guidance"].expand(x["t"].shape)
        packed = transformer(
            hidden_states=FluxPipeline._pack_latents(x["x_t"], *x["x_t"].shape),
            timestep=x["t"], guidance=guidance, pooled_projections=x["pooled"],
            encoder_hidden_states=x["sequence"], img_ids=image,
            txt_ids=torch.zeros(x["sequence"].shape[1], 3), return_dict=False)[0]
        # Pixels of a latent that is not made smaller.
        return FluxPipeline._unpack_latents(packed, *x["x_t"].shape[2:], 1)


def compare_images(checks, tool, model, label, folder, pipe, cases=None, adapter=None):
    for name in cases or model.cases:
        settings = dict(model.cases[name])
        size = settings.pop("size")
        channels = model.latent_channels(pipe.transformer.config)
        shape = (len(settings["prompts"]), channels, *size)
        noise = torch.randn(shape, generator=seeded(len(name)))
        ours = tool.exchange("images", folder, {"noise": noise}, adapter, settings)
        for key, want in model.result(pipe, noise, settings).items():
            checks.equal(f"{label}, {name}, {key}", ours[key], want)


def check_their_folders(checks, tool, model, tokenizers, scratch):
    def folder(label, how, **made):
        pipe = model.tiny_pipeline(tokenizers, **made)
        path = scratch / label.replace(" ", "-")
        pipe.save_pretrained(path, **how)
        compare_images(checks, tool, model, label, path, pipe)

    cases = {f"{kind} folder by diffusers": ({}, {"kind": kind}) for kind in model.their_kinds}
    cases[f"sharded {model.name} folder by diffusers"] = ({"max_shard_size": "64KB"}, {})
    if model is StableDiffusion:
        cases[f"{model.name} folder by diffusers without T5"] = ({}, {"with_t5": False})
    for label, (how, made) in cases.items():
        checks.attempt(label, lambda label=label, how=how, made=made: folder(label, how, **made))


def check_our_folders(checks, tool, model, scratch):
    def folder(label, kind, *how):
        path = scratch / label.replace(" ", "-")
        tool.run("folder", path, 5, kind, *how)
        absent = {"text_encoder_3": None, "tokenizer_3": None} if "without-t5" in how else {}
        pipe = model.pipeline.from_pretrained(path, **absent)
        compare_images(checks, tool, model, label, path, pipe)

    cases = {f"{label} folder by contraflow": [kind] for label, kind in model.our_kinds.items()}
    cases[f"sharded {model.name} folder by contraflow"] = [model.kind, "sharded"]
    if model is StableDiffusion:
        cases[f"{model.name} folder by contraflow without T5"] = [model.kind, "without-t5"]
    for label, how in cases.items():
        checks.attempt(label, lambda label=label, how=how: folder(label, *how))


class Velocities:
    """One input of the transformer, through it here and there."""

    def __init__(self, tool, model, folder):
        self.tool, self.model, self.folder = tool, model, folder
        config = model.transformer.load_config(folder / "transformer")
        generator = seeded(11)
        channels = model.latent_channels(config)
        self.inputs = {
            "x_t": torch.randn(2, channels, 8, 6, generator=generator),
            "t": torch.tensor([1.0, 0.4375]),
            "sequence": torch.randn(2, 9, config["joint_attention_dim"], generator=generator),
            "pooled": torch.randn(2, config["pooled_projection_dim"], generator=generator),
            **model.inputs,
        }

    def transformer(self):
        return self.model.transformer.from_pretrained(self.folder / "transformer")

    def pipeline(self):
        return self.model.pipeline.from_pretrained(self.folder)

    def ours(self, adapter=None):
        return self.tool.exchange("velocity", self.folder, self.inputs, adapter)["velocity"]

    @torch.no_grad()
    def theirs(self, transformer):
        return self.model.velocity(transformer, self.inputs)


def check_our_adapters(checks, tool, velocities, scratch):
    out = scratch / "adapter"
    tool.run("adapter", velocities.folder, out, 4, 12)
    model = velocities.model
    base = velocities.theirs(velocities.transformer())
    for form in ("diffusers", "peft"):
        name = f"{model.name}: {form} adapter by contraflow"
        checks.differ(f"{name} has an effect", velocities.ours(out / form), base)

    def through_diffusers():
        name = f"{model.name}: diffusers adapter by contraflow"
        pipe = velocities.pipeline()
        pipe.load_lora_weights(out / "diffusers")
        checks.equal(f"{name}, load_lora_weights, velocity", velocities.ours(out / "diffusers"),
                     velocities.theirs(pipe.transformer))
        checks.equal(f"{name} against the peft one, velocity", velocities.ours(out / "peft"),
                     velocities.theirs(pipe.transformer))
        compare_images(checks, tool, model, name, velocities.folder, pipe,
                       list(model.cases)[:1], out / "diffusers")
        pipe.unload_lora_weights()
        checks.equal(f"{name}, unloaded, velocity", velocities.ours(),
                     velocities.theirs(pipe.transformer))

    def through_peft():
        name = f"{model.name}: peft adapter by contraflow"
        adapted = PeftModel.from_pretrained(velocities.transformer(), str(out / "peft"))
        checks.equal(f"{name}, PeftModel, velocity", velocities.ours(out / "peft"),
                     velocities.theirs(adapted))
        checks.equal(f"{name}, merged by peft, velocity", velocities.ours(out / "peft"),
                     velocities.theirs(adapted.merge_and_unload()))

    def what_does_not_load():
        """Stated on the page on LoRA files; here to be noticed when it changes."""
        name = f"{model.name}: peft adapter through load_lora_weights"
        pipe = velocities.pipeline()
        try:
            pipe.load_lora_weights(out / "peft", weight_name="adapter_model.safetensors")
            checks.equal(f"{name} changes nothing", velocities.theirs(pipe.transformer), base)
        except (KeyError, ValueError):
            checks.note(True, name, "is refused")
        tensors = load_file(out / "diffusers" / "pytorch_lora_weights.safetensors")
        modules = {name.split(".lora_")[0] for name in tensors}
        tensors.update({f"{module}.alpha": torch.tensor(12.0) for module in modules})
        save_file(tensors, scratch / "alpha.safetensors")
        refused = False
        try:
            velocities.pipeline().load_lora_weights(scratch, weight_name="alpha.safetensors")
        except (KeyError, ValueError):
            refused = True
        checks.note(refused == model.refuses_alpha_keys, f"{model.name}: adapter with .alpha keys",
                    "is refused" if refused else "loads")

    name = f"{model.name}: adapters by contraflow"
    checks.attempt(f"{name}, through diffusers", through_diffusers)
    checks.attempt(f"{name}, that diffusers does not load", what_does_not_load)
    checks.attempt(f"{name}, through peft", through_peft)


def train(transformer, velocities):
    """A few steps on noise: enough for both factors to be far from their start."""
    parameters = [p for name, p in transformer.named_parameters() if "lora_" in name]
    optimizer = torch.optim.Adam(parameters, lr=0.05)
    x = velocities.inputs
    target = torch.randn(x["x_t"].shape, generator=seeded(13))
    for _ in range(8):
        optimizer.zero_grad()
        out = velocities.model.velocity(transformer, x)
        (out - target).square().mean().backward()
        optimizer.step()


def check_their_adapters(checks, velocities, scratch):
    of = velocities.model
    base = velocities.theirs(velocities.transformer())

    def by_peft(label, **settings):
        config = LoraConfig(init_lora_weights="gaussian", **settings)
        model = get_peft_model(velocities.transformer(), config)
        train(model, velocities)
        path = scratch / label.replace(" ", "-").replace(",", "").replace(":", "")
        model.save_pretrained(str(path))
        want = velocities.theirs(model)
        checks.differ(f"{label} has an effect", want, base)
        checks.equal(f"{label}, velocity", velocities.ours(path), want)

    def by_diffusers(label, with_metadata):
        config = LoraConfig(r=4, lora_alpha=12, init_lora_weights="gaussian",
                            target_modules=of.targets)
        pipe = velocities.pipeline()
        pipe.transformer.add_adapter(config)
        train(pipe.transformer, velocities)
        config = pipe.transformer.peft_config["default"].to_dict()
        metadata = {"transformer_lora_adapter_metadata": config} if with_metadata else {}
        path = scratch / label.replace(" ", "-").replace(",", "").replace(":", "")
        of.pipeline.save_lora_weights(
            path, transformer_lora_layers=get_peft_model_state_dict(pipe.transformer),
            **metadata)
        trained = velocities.theirs(pipe.transformer)
        # Without metadata the file does not say alpha: what diffusers makes of it is what counts.
        again = velocities.pipeline()
        again.load_lora_weights(path)
        want = velocities.theirs(again.transformer)
        checks.differ(f"{label} has an effect", want, base)
        checks.equal(f"{label}, velocity", velocities.ours(path), want)
        if with_metadata:
            checks.equal(f"{label}, as trained", velocities.ours(path), trained)

    cases = {
        "adapter by peft": lambda l: by_peft(l, r=4, lora_alpha=12, target_modules=of.targets),
        "adapter by peft, fewer layers": lambda l: by_peft(
            l, r=3, lora_alpha=3, target_modules=of.fewer_targets),
        "adapter by diffusers, with metadata": lambda l: by_diffusers(l, True),
        "adapter by diffusers, without metadata": lambda l: by_diffusers(l, False),
    }
    cases = {f"{of.name}: {label}": work for label, work in cases.items()}
    for label, work in cases.items():
        checks.attempt(label, lambda label=label, work=work: work(label))


def check_model(checks, tool, model, tokenizers, scratch):
    tool.run("folder", scratch / "model", 3, model.kind)
    velocities = Velocities(tool, model, scratch / "model")
    checks.equal(f"{model.name}: transformer by contraflow, velocity", velocities.ours(),
                 velocities.theirs(velocities.transformer()))
    check_our_folders(checks, tool, model, scratch)
    check_their_folders(checks, tool, model, tokenizers, scratch)
    checks.attempt(f"{model.name}: adapters by contraflow",
                   lambda: check_our_adapters(checks, tool, velocities, scratch))
    checks.attempt(f"{model.name}: adapters by peft and diffusers",
                   lambda: check_their_adapters(checks, velocities, scratch))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tool", type=Path, help="the program interop")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    print(f"torch {torch.__version__}, diffusers {diffusers.__version__}, "
          f"transformers {transformers.__version__}, peft {peft.__version__}")
    checks = Checks()
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        tool = Tool(arguments.tool.resolve(), scratch)
        tokenizers = scratch / "tokenizers"
        # The public vocabulary of CLIP, and a small model of T5's kind.
        tool.run("tokenizers", tokenizers, TOKENIZER_DATA / "merges.txt")
        (tokenizers / "tokenizer_3").mkdir()
        shutil.copy(TOKENIZER_DATA / "t5_tiny.model", tokenizers / "tokenizer_3" / "spiece.model")
        for model in (StableDiffusion, Flux):
            own = scratch / model.kind
            own.mkdir()
            check_model(checks, tool, model, tokenizers, own)
    print(f"{checks.passed} passed, {checks.failed} failed")
    sys.exit(1 if checks.failed or not checks.passed else 0)


if __name__ == "__main__":
    main()
