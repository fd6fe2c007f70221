#!/usr/bin/env python3
"""Writes what the fuzzing programs begin with into the corpora beside this file: inputs that are valid
and some that nearly are. Files that are there under other names were findings, and stay.

Usage: seeds.py
"""

import base64
import json
import pathlib
import struct
import zlib

CORPORA = pathlib.Path(__file__).parent / "corpus"
UNIT = b"\x1f"


def parts(*texts):
    return UNIT.join(text if isinstance(text, bytes) else text.encode() for text in texts)


def lines(*texts):
    return "".join(text + "\n" for text in texts)


def settings():
    yield "valid", '{"a": 3, "b": 2.5, "c": "text", "d": [1, -2], "e": {"f": true}}'
    yield "nulls", '{"a": null, "b": -1e300, "e": {"f": 0}}'
    yield "twice", '{"a": 1, "a": 2}'
    yield "deep", "[" * 80


def safetensors():
    # Bytes behind a length that fits, changes of a valid file, any bytes.
    header = '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    yield "valid", b"\x01" + header.encode() + b"\0\0\x80\x3f"
    yield "metadata", b'\x01{"__metadata__":{"k":"v"},"a":{"dtype":"BOOL","shape":[0],"data_offsets":[0,0]}}'
    yield "changed", b"\x02\x10\x20\x60\x31"
    yield "short", b"\x00\x08\0\0\0"


def png(width, height):
    def chunk(kind, data):
        return (struct.pack(">I", len(data)) + kind + data
                + struct.pack(">I", zlib.crc32(kind + data)))
    rows = b"".join(b"\0" + bytes(3 * width) for _ in range(height))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def image():
    yield "png", b"\x00"
    yield "jpeg", b"\x01"
    yield "png_changed", b"\x00\x00\x19\x10\x00\x20\x01"
    yield "png_other", b"\x03" + png(3, 2)
    yield "png_wide", b"\x03" + png(3, 2).replace(struct.pack(">II", 3, 2), struct.pack(">II", 1 << 30, 2))


def clip_tokenizer():
    yield "words", "The theatre's 12 aaa!  \u00c5ngstr\u00f6m \U0001f600"
    yield "special", "<|startoftext|>the<|endoftext|>!"
    yield "bytes", b"\xff\xfe\xc3("


VOCABULARY = {"<|startoftext|>": 5, "<|endoftext|>": 6, "t": 0, "h": 1, "e</w>": 2, "th": 3, "the</w>": 4,
              "a": 7, "a</w>": 8}
MERGES = lines("#version: 0.2", "t h", "th e</w>")
TOKENIZER_CONFIG = {"model_max_length": 12, "pad_token": "<|endoftext|>",
                    "bos_token": {"content": "<|startoftext|>", "normalized": True}}


def clip_files():
    text = json.dumps
    yield "two_files", parts("", text(VOCABULARY), MERGES, text(TOKENIZER_CONFIG),
                             text({"pad_token": {"content": "a"}, "eos_token": "<|endoftext|>"}))
    yield "vocabulary_alone", parts("", text(VOCABULARY), MERGES)
    single = {"model": {"type": "BPE", "vocab": VOCABULARY, "merges": ["t h", ["th", "e</w>"]]},
              "added_tokens": [{"id": 6, "content": "<|endoftext|>", "normalized": False}]}
    yield "single_file", parts(text(single), "", "", text({"model_max_length": 1e30}))
    added = {"added_tokens_decoder": {"6": {"content": "<|endoftext|>"},
                                      "9": {"content": "<pad>", "normalized": True}},
             "model_max_length": 9}
    yield "added", parts("", text(VOCABULARY | {"<pad>": 9}), MERGES, text(added))
    yield "added_beyond", parts("", text(VOCABULARY), MERGES, text(added))
    yield "merge_of_three", parts("", text(VOCABULARY), "t h e\n")
    yield "id_out_of_range", parts("", text(VOCABULARY | {"x": 1 << 40}), "")


def field(number, kind, payload):
    return bytes([number << 3 | kind]) + payload


def varint(value):
    result = b""
    while value >= 0x80:
        result += bytes([value & 0x7F | 0x80])
        value >>= 7
    return result + bytes([value])


def message(number, payload):
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def piece(text, score, kind):
    return message(1, message(1, text.encode()) + field(2, 5, struct.pack("<f", score))
                   + field(3, 0, varint(kind)))


def charsmap(key=b"\xef\xbc\x92", value=b"2"):
    """A map of one text to another as SentencePiece keeps it: a trie in a double array, and texts."""
    nothing = 1 << 31  # no byte is labelled so
    units = [nothing] * 256 * (len(key) + 2)
    place = units[0] = 0
    for i, byte in enumerate(key):
        base = 256 * (i + 1)
        units[place] |= (place ^ base) << 10
        place = base ^ byte
        units[place] = byte
    base = 256 * (len(key) + 1)
    units[place] |= (place ^ base) << 10 | 1 << 8
    units[base] = nothing | 0  # the text at 0
    trie = struct.pack(f"<{len(units)}I", *units)
    return struct.pack("<I", len(trie)) + trie + value + b"\0"


PIECES = [("<pad>", 0, 3), ("</s>", 0, 3), ("<unk>", 0, 2), ("\u2581a", -2, 1), ("\u2581", -3, 1),
          ("photo", -4, 1), ("o", -5, 1), ("2", -5, 1)]


def model(characters=None):
    pieces = b"".join(piece(*entry) for entry in PIECES)
    trainer = b"".join(varint(number << 3) + varint(value) for number, value in
                       [(3, 1), (40, 2), (41, (1 << 64) - 1), (42, 1), (43, 0)])
    normalizer = message(1, b"identity")
    if characters:
        normalizer = message(1, b"precompiled") + message(2, characters)
    return pieces + message(2, trainer) + message(3, normalizer)


def t5_files():
    yield "model", model()
    yield "model_with_map", model(charsmap())
    yield "model_cut", model()[:-7]
    yield "map_out_of_array", model(charsmap()[:4 + 4 * 256 - 1] + b"\xff" * 3 + charsmap()[4 + 4 * 256 + 2:])
    yield "map_too_long", model(struct.pack("<I", 4 * 256 * 5 + 1024) + charsmap()[4:])
    yield "map_without_end", model(charsmap()[:-1])
    yield "map_in_circle", model(struct.pack("<II", 1024, 0) + bytes(1024))
    vocabulary = [[text, score] for text, score, _ in PIECES]
    normalizer = {"type": "Precompiled",
                  "precompiled_charsmap": base64.b64encode(charsmap(b"B", b"b")[:2052 + 2048]).decode()}
    plain = {"model": {"type": "Unigram", "unk_id": 2, "vocab": vocabulary},
             "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                 {"type": "WhitespaceSplit"},
                 {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always"}]},
             "added_tokens": [{"content": "</s>"}]}
    yield "single_file", json.dumps(plain, ensure_ascii=False)
    yield "spaces", json.dumps(plain | {"normalizer": {"type": "Sequence", "normalizers": [
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "\u2581"}, {"type": "Strip"}]}},
        ensure_ascii=False)
    yield "single_file_with_map", json.dumps(plain | {"normalizer": normalizer}, ensure_ascii=False)
    yield "no_unknown", json.dumps({"model": {"type": "Unigram", "unk_id": 9, "vocab": vocabulary}})


def adapters():
    text = json.dumps
    diffusers = lines("transformer.transformer_blocks.0.attn.to_q.lora_A.weight F32 2 4",
                      "transformer.transformer_blocks.0.attn.to_q.lora_B.weight F32 4 2",
                      "transformer.transformer_blocks.0.attn.to_q.alpha F32")
    yield "diffusers", parts(text({"transformer.lora_alpha": 4, "lora_alpha": 4, "use_rslora": True}), diffusers)
    patterns = {"lora_alpha": 8, "r": 2, "alpha_pattern": {"attn.to_[qk]": 3.5, "x|y": 2},
                "transformer.alpha_pattern": {"attn\\.to_q": 1}, "init_lora_weights": "gaussian",
                "use_dora": False}
    yield "patterns", parts(text(patterns), diffusers)
    kohya = lines("lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight F16 2 4",
                  "lora_unet_joint_blocks_0_x_block_attn_qkv.lora_up.weight F16 12 2",
                  "lora_unet_joint_blocks_0_x_block_attn_qkv.alpha F16",
                  "lora_te1_text_model.lora_down.weight F16 2 4")
    yield "kohya", parts("{}", kohya)
    flux = lines("double_blocks.0.processor.qkv_lora1.down.weight BF16 2 4",
                 "double_blocks.0.processor.qkv_lora1.up.weight BF16 12 2",
                 "diffusion_model.single_blocks.0.linear1.lora_A.weight F32 2 4",
                 "diffusion_model.single_blocks.0.linear1.lora_B.weight F32 14 2")
    yield "flux", parts("{}", flux)
    swapped = lines("diffusion_model.final_layer.adaLN_modulation.1.lora_A.weight F8_E4M3 1 2",
                    "diffusion_model.final_layer.adaLN_modulation.1.lora_B.weight F8_E4M3 4 1")
    yield "swapped", parts("{}", swapped)
    yield "dimensions", parts("{}", lines("diffusion_model.final_layer.adaLN_modulation.1.lora_A.weight U8 0 4611686018427387904",
                                          "diffusion_model.final_layer.adaLN_modulation.1.lora_B.weight U8 4 0"))
    yield "backtracking", parts(text({"alpha_pattern": {"(.*)*(.*)*x(a|a|b)*y": 1}, "transformer.alpha_pattern": {"(a+)+$": 1}}), diffusers)
    yield "parentheses", parts(text({"alpha_pattern": {"(" * 450: 1}}), diffusers)
    yield "counts", parts(text({"alpha_pattern": {"((a{0,99}){0,99}){0,99}": 1}}), diffusers)
    yield "dora", parts(text({"use_dora": True}), lines("base_model.model.a.lora_magnitude_vector F32 4"))
    yield "empty_layers", parts("{}", lines("diffusion_model.final_layer.linear.lora_A.weight U8 0 4"))


STATE = lines("@version 3", "@epoch 1", "@order 1", "@run 7", "@seed 0", "@gradient_steps 1",
              "@forward_evaluations 2", "@backward_evaluations 2", "@nanoseconds 5", "loss_scale F64 2",
              "current.frequencies F32 4", "current.gate F32 1 8", "current.input_bias F32 2",
              "current.input_weight F32 2 10", "current.output_bias F32 2", "current.output_weight F32 2 2")
SHAPES = ["2 10", "2", "2 2", "2", "1 8"]


def checkpoints():
    text = json.dumps
    steps = {"optimizer": "AdamW", "steps": {str(i): 1 for i in range(len(SHAPES))}}
    tensors = lines(*(f"exp_avg{end}.{i} F32 {shape}" for i, shape in enumerate(SHAPES) for end in ("", "_sq")))
    yield "adamw", parts(text(steps), text({"optimizer.json": "1"}), STATE, tensors)
    yield "archive", parts(text({"optimizer": "archive", "archive": {"a": ["int", 1]}}), "", STATE, tensors)
    yield "order", parts(text(steps), "{}", lines("@version 3", "@order 9223372036854775807"), "")
    yield "scale", parts(text(steps), "", STATE.replace("loss_scale F64 2", "loss_scale F32 1"), tensors)
    yield "steps", parts(text(steps | {"steps": {"0": 1e300}}), "", STATE, tensors)
    yield "words", parts('{"optimizer": "AdamW", "steps": {"0x": 1.5}}', "[]", "@version three\n", "")


def optimizer_archive():
    options = {name: ["double", 0.0] for name in ("dampening", "lr", "momentum", "weight_decay")}
    group = {"options": ["archive", options | {"nesterov": ["bool", False]}],
             "params/0": ["string", "94"], "params/size": ["tensor", "tensor.2"]}
    archive = {"param_groups": ["archive", {"param_groups/0": ["archive", group],
                                            "param_groups/size": ["tensor", "tensor.1"]}],
               "pytorch_version": ["string", "1.5.0"],
               "state": ["archive", {"94": ["archive", {"momentum_buffer": ["tensor", "tensor.0"]}]}]}
    tensors = lines("tensor.0 F32 2", "tensor.1 U8", "tensor.2 U8")  # sizes: all bytes are 1
    yield "sgd", parts(json.dumps({"optimizer": "archive", "archive": archive}), tensors)
    yield "sizes", parts(json.dumps({"optimizer": "archive", "archive": archive}), tensors.replace("U8", "I64"))
    yield "tuple", parts(json.dumps({"optimizer": "archive", "archive": {
        "a": ["tuple", [["int", 1], ["none", None], ["tuple", []]]]}}), "")


def prompts():
    yield "captions", "\ufeffa red cube\r\n\n  two cats \n"
    yield "records", lines('{"prompt": "two cats", "include": [{"class": "cat", "count": 2}]}',
                           '{"prompt": "", "tag": null}')
    yield "no_prompt", '{"prompt": 3}\n'
    yield "bytes", b"a\xffb\n"


def row_file():
    yield "rows", lines("@source fuzz", "checksum I64 3", "pooled F32 3 2", "sequence F16 3 2 2")
    yield "other_rows", lines("@source fuzz", "checksum I64 3", "pooled F32 2 2")
    yield "none", lines("@source fuzz", "checksum I64 0", "pooled F32 0 9")


def judge_answer():
    def chat(content, reason="stop"):
        return json.dumps({"choices": [{"message": {"content": content}, "finish_reason": reason}]})
    yield "scores", '{"scores": [0.5, null, "abstain"]}'
    yield "one_score", '{"scores": [1e39]}'
    yield "chat", chat("All there.\nscore: 7.5")
    yield "chat_cut", chat("score: 1", "length")
    yield "reward", "pickscore=0.5:http://host:8000/score"
    yield "no_choice", '{"choices": []}'


def judge_score():
    yield "alone", '"**8.**"'
    yield "behind", "All there.\n**Score:** 7.5"
    yield "own", "\x1fanswer: 3.2 and answer: 4"
    yield "too_large", "score = 11"


def configurations():
    sd3 = {"_class_name": "SD3Transformer2DModel", "sample_size": 8, "patch_size": 2, "in_channels": 4,
           "num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 8, "joint_attention_dim": 12,
           "caption_projection_dim": 16, "pooled_projection_dim": 10, "pos_embed_max_size": 12,
           "dual_attention_layers": [0], "qk_norm": "rms_norm"}
    flux = {"_class_name": "FluxTransformer2DModel", "in_channels": 64, "num_layers": 1,
            "num_single_layers": 1, "num_attention_heads": 2, "attention_head_dim": 128,
            "joint_attention_dim": 16, "pooled_projection_dim": 8, "guidance_embeds": True,
            "axes_dims_rope": [16, 56, 56]}
    yield "sd3", json.dumps(sd3)
    yield "flux", json.dumps(flux)
    yield "clip", json.dumps({"text_config": {"hidden_size": 32, "hidden_act": "gelu",
                                              "architectures": ["CLIPTextModel"]},
                              "vision_config": {"patch_size": 14, "image_size": 28}, "projection_dim": 8})
    yield "t5", json.dumps({"vocab_size": 32, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1,
                            "num_heads": 2, "feed_forward_proj": "gated-gelu"})
    yield "vae", json.dumps({"act_fn": "silu", "in_channels": 3, "out_channels": 3, "latent_channels": 16,
                             "layers_per_block": 1, "block_out_channels": [8, 8], "norm_num_groups": 2,
                             "scaling_factor": 1.5, "shift_factor": 0.06})
    yield "scheduler", json.dumps({"shift": 3.0, "num_train_timesteps": 1000, "use_dynamic_shifting": True,
                                   "base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256,
                                   "max_image_seq_len": 4096})
    yield "index", json.dumps({"weight_map": {"a": "part-1.safetensors", "b": "../part-2"}})
    yield "judge", json.dumps({"url": "http://host", "score_pattern": "([0-9]+)", "least": 1})


def base64_texts():
    yield "whole", "Zm9vYmFy"
    yield "padded", "Zm8="
    yield "wrong", "Zm9=Zg==="


PROGRAMS = {"base64": base64_texts} | {
    body.__name__: body for body in [settings, safetensors, image, clip_tokenizer, clip_files, t5_files, adapters,
                                     checkpoints, optimizer_archive, prompts, row_file, judge_answer, judge_score, configurations]}


def main():
    for name, seeds in PROGRAMS.items():
        folder = CORPORA / name
        folder.mkdir(parents=True, exist_ok=True)
        for stem, content in seeds():
            (folder / stem).write_bytes(content if isinstance(content, bytes) else content.encode())


if __name__ == "__main__":
    main()
