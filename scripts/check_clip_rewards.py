#!/usr/bin/env python3
"""Writes tiny random models of CLIP, images and captions, and the scores of the Python packages.

Run by scripts/check_clip_rewards, which sets up what this needs; the test `[published]` of
test_reward reads the folder. The models, preprocessing and tokenizers are those of the packages;
how scores are made of them is as in the trainers published with DiffusionNFT. Weights are stored in
float16 and computed with in float32, on both sides.
"""

import argparse
import gzip
import io
import json
import math
import os
import tempfile
import warnings
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error")
warnings.filterwarnings("ignore")

import numpy as np
import torch
import torchvision.transforms.functional as functional
import transformers
from PIL import Image
from open_clip import CLIP, SimpleTokenizer
from safetensors.torch import save_file
from torchvision.transforms import CenterCrop, InterpolationMode, Normalize, Resize

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SIDE, PATCH, PROJECTION = 28, 7, 12
TEXT = {"hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2}
VISION = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2,
          "num_attention_heads": 2, "image_size": SIDE, "patch_size": PATCH}
CAPTIONS = ["a photo of a cat", "two Dogs, it's raining!  ", "", "na\u00efve caf\u00e9 no. 42",
            "many words " * 60, "THE END"]
SIZES = [(40, 33), (28, 28), (20, 61), (64, 64), (57, 30), (19, 23)]
LARGE_SIZES = [(512, 512), (512, 768), (333, 500), (224, 225), (100, 80)]
MERGES = Path(__file__).resolve().parent.parent / "tests/data/sd3/tokenizer/merges.txt"
MERGE_COUNT = 80


def write_tokenizer(folder):
    """The first published merges, and the vocabulary that they make."""
    lines = [line for line in MERGES.read_text(encoding="utf-8").splitlines()
             if line and not line.startswith("#")][:MERGE_COUNT]
    symbols = list(transformers.models.clip.tokenization_clip.bytes_to_unicode().values())
    tokens = symbols + [symbol + "</w>" for symbol in symbols]
    tokens += [line.replace(" ", "") for line in lines] + ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *lines]) + "\n",
                                       encoding="utf-8")
    return lines, len(tokens)


def randomise(model, generator):
    """Weights under which every part of the network matters, rounded to float16."""
    for name, weight in sorted(model.state_dict().items()):
        if not weight.is_floating_point():
            continue
        if name == "logit_scale":
            value = torch.tensor(math.log(100.0))
        elif name.endswith("bias"):
            value = torch.randn(weight.shape, generator=generator) * 0.2
        elif weight.ndim == 1:
            value = 1 + torch.randn(weight.shape, generator=generator) * 0.2
        else:
            fan_in = weight[0].numel() if "proj" not in name else weight.shape[0]
            value = torch.randn(weight.shape, generator=generator) * 1.5 / math.sqrt(fan_in)
        weight.copy_(value.half().float())
    return model.eval()


def save_half(weights, path):
    save_file({name: weight.half().contiguous() for name, weight in weights.items()
               if weight.is_floating_point()}, str(path))


def random_images(sizes, generator):
    """Waves under noise, in 8-bit steps as images in files are, and some that are not."""
    for i, (height, width) in enumerate(sizes):
        y = torch.linspace(0, 5, height)[:, None]
        x = torch.linspace(0, 7, width)
        phase = torch.rand(3, 1, 1, generator=generator) * 6
        waves = 0.5 + 0.4 * torch.sin(x + y * y + phase)
        image = (waves + 0.1 * torch.randn(3, height, width, generator=generator)).clamp(0, 1)
        yield image if i % 2 else image.mul(255).round().div(255)


def as_bytes(image):
    return (image * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()


def pixels_of_transformers(image, side):
    processor = transformers.CLIPImageProcessor(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    inputs = processor(images=[Image.fromarray(as_bytes(image))], return_tensors="pt")
    return inputs["pixel_values"]


def pixels_of_torchvision(image, side):
    framed = CenterCrop(side)(Resize(side)(image[None]))
    return Normalize(MEAN, STD)(framed)


def pixels_with_padding(image, side):
    height, width = image.shape[-2:]
    scale = side / max(height, width)
    if scale != 1:
        size = [round(height * scale), round(width * scale)]
        image = functional.resize(image, size, InterpolationMode.BICUBIC)
        high, wide = side - size[0], side - size[1]
        image = functional.pad(image, [wide // 2, high // 2, wide - wide // 2, high - high // 2])
    return Normalize(MEAN, STD)(image[None])


PREPROCESSINGS = {"transformers": pixels_of_transformers, "torchvision": pixels_of_torchvision,
                  "padded": pixels_with_padding}


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)


def transformers_scores(folder, images, generator):
    """ClipScore, PickScore and the aesthetic predictor on one model."""
    target = folder / "clip"
    target.mkdir(exist_ok=True)
    lines, count = write_tokenizer(target)
    ids = {"vocab_size": count, "bos_token_id": count - 2, "eos_token_id": count - 1,
           "pad_token_id": count - 1}
    config = transformers.CLIPConfig(text_config={**TEXT, **ids}, vision_config=VISION,
                                     projection_dim=PROJECTION)
    model = randomise(transformers.CLIPModel(config), generator)
    config.save_pretrained(target)
    save_half(model.state_dict(), target / "model.safetensors")
    tokenizer = transformers.CLIPTokenizer(str(target / "vocab.json"), str(target / "merges.txt"))
    text = tokenizer(CAPTIONS, padding="max_length", truncation=True, max_length=77,
                     return_tensors="pt")

    def embeddings(preprocess):
        pixels = torch.cat([preprocess(image, SIDE) for image in images])
        return unit(model.get_image_features(pixels))

    texts = unit(model.get_text_features(**text))
    pixels = torch.cat([pixels_of_torchvision(image, SIDE) for image in images])
    logits = model(pixel_values=pixels, **text).logits_per_image.diagonal()
    pick_images = embeddings(pixels_of_transformers)
    head = torch.nn.Module()
    head.layers = torch.nn.Sequential(
        torch.nn.Linear(PROJECTION, 1024), torch.nn.Dropout(0.2), torch.nn.Linear(1024, 128),
        torch.nn.Dropout(0.2), torch.nn.Linear(128, 64), torch.nn.Dropout(0.1),
        torch.nn.Linear(64, 16), torch.nn.Linear(16, 1))
    randomise(head, generator)
    save_half(head.state_dict(), folder / "head.safetensors")
    scores = {"clip_score": logits / 100,
              "pick_score": model.logit_scale.exp() * (pick_images * texts).sum(-1) / 26,
              "aesthetic": head.layers(pick_images).squeeze(1)}
    return scores, lines


def open_clip_scores(folder, images, lines, generator):
    """HPS v2.1 on a model of OpenCLIP."""
    target = folder / "hps"
    target.mkdir(exist_ok=True)
    count = 512 + len(lines) + 2
    model = CLIP(embed_dim=PROJECTION, output_dict=True,
                 vision_cfg={"layers": VISION["num_hidden_layers"], "width": VISION["hidden_size"],
                             "head_width": VISION["hidden_size"] // VISION["num_attention_heads"],
                             "patch_size": PATCH, "image_size": SIDE},
                 text_cfg={"context_length": 77, "vocab_size": count, "width": TEXT["hidden_size"],
                           "heads": TEXT["num_attention_heads"],
                           "layers": TEXT["num_hidden_layers"]})
    randomise(model, generator)
    save_half(model.state_dict(), target / "hps.safetensors")
    gelu = {"hidden_act": "gelu"}
    (target / "config.json").write_text(json.dumps(
        {"projection_dim": PROJECTION, "vision_config": {**VISION, **gelu},
         "text_config": {**TEXT, **gelu, "vocab_size": count, "eos_token_id": count - 1}},
        indent=2) + "\n")
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "bpe.txt.gz"
        path.write_bytes(gzip.compress("\n".join(["#version: 0.2", *lines]).encode()))
        tokenizer = SimpleTokenizer(str(path), context_length=77)
    pixels = torch.cat([pixels_with_padding(image, SIDE) for image in images])
    out = model(pixels, tokenizer(CAPTIONS))
    return {"hps_v21": (out["image_features"] @ out["text_features"].T).diagonal()}


def jpeg_kilobytes(image):
    buffer = io.BytesIO()
    Image.fromarray(as_bytes(image)).save(buffer, format="JPEG", quality=95)
    return buffer.tell() / 1000


def colourfulness(image):
    red, green, blue = (image.double() * 255).numpy()
    rg, yb = red - green, (red + green) / 2 - blue
    return math.hypot(rg.std(), yb.std()) + 0.3 * math.hypot(rg.mean(), yb.mean())


class Brightest(torch.nn.Module):
    """A reward to be exported."""

    def forward(self, images):
        return images.amax((2, 3)).mean(1, keepdim=True)


def export(folder):
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    torch.jit.script(Brightest()).save(str(folder / "exported.pt"))
    program = torch.export.export(Brightest(), (images,))
    torch._inductor.aoti_compile_and_package(program, package_path=str(folder / "exported.pt2"))
    return {"exported.images": images, "exported": Brightest()(images).squeeze(1)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--small", action="store_true",
                        help="without large images and exported modules")
    arguments = parser.parse_args()
    folder = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_grad_enabled(False)
    generator = torch.Generator().manual_seed(arguments.seed)

    images = list(random_images(SIZES, generator))
    scores, lines = transformers_scores(folder, images, generator)
    scores |= open_clip_scores(folder, images, lines, generator)
    scores["colourfulness"] = torch.tensor([colourfulness(image) for image in images])
    tensors = {f"score.{name}": values.float() for name, values in scores.items()}
    large = [] if arguments.small else list(random_images(LARGE_SIZES, generator))
    sides = [SIDE] * len(images) + [224] * len(large)
    for i, (image, side) in enumerate(zip(images + large, sides)):
        tensors[f"image.{i}"] = image
        for name, preprocess in PREPROCESSINGS.items():
            tensors[f"pixels.{name}.{i}"] = preprocess(image, side)[0]
    if not arguments.small:
        sizes = [jpeg_kilobytes(image) for image in images + large]
        tensors["jpeg"] = torch.tensor(sizes)
        tensors |= export(folder)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()},
              str(folder / "expected.safetensors"))
    (folder / "captions.json").write_text(json.dumps(CAPTIONS, indent=2) + "\n")


if __name__ == "__main__":
    main()
