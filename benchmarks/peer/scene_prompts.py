"""The prompts of scenes, what the strict score asks of each, and the names of weights, for the peers
of scenes_epoch.cpp in Python."""

import itertools

TOKENS, CELLS = 8, 16
WORDS = ("pad null a and circle square triangle cross red green blue yellow magenta cyan "
         "one two three four left right top bottom").split()
SHAPES, COLOURS, NUMBERS = WORDS[4:8], WORDS[8:14], WORDS[14:18]
RELATIONS = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
PALETTE = [[1, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, -1], [1, -1, 1], [-1, 1, 1]]


def all_prompts():
    """Words of all prompts, category by category."""
    pairs = list(itertools.permutations(SHAPES, 2))
    return [
        [["a", s] for s in SHAPES],
        [["a", s, "and", "a", r] for s, r in pairs],
        [[n, s] for n in NUMBERS for s in SHAPES],
        [["a", c, s] for c in COLOURS for s in SHAPES],
        [["a", s, to, "and", "a", r, back] for s, r in pairs for to, back in RELATIONS.items()],
        [["a", c, s, "and", "a", d, r]
         for s, r in pairs for c, d in itertools.permutations(COLOURS, 2)],
    ]


def tokens_of(words):
    return [WORDS.index(word) for word in words] + [0] * (TOKENS - len(words))


def asked_of(prompts):
    """Lists with an entry a prompt: how many of each shape, how many of each shape and colour, whether
    colours are asked for, the number of the relation (0: none), and the first and last shape."""
    asked = {"shapes": [], "pairs": [], "has_colours": [], "relation": [], "ends": []}
    for words in prompts:
        shapes = [SHAPES.index(w) for w in words if w in SHAPES]
        colours = [COLOURS.index(w) for w in words if w in COLOURS]
        if words[0] in NUMBERS:
            shapes *= NUMBERS.index(words[0]) + 1
        of_colour = list(zip(shapes, colours))
        directions = [list(RELATIONS).index(w) + 1 for w in words if w in RELATIONS]
        asked["shapes"].append([shapes.count(s) for s in range(len(SHAPES))])
        asked["pairs"].append([[of_colour.count((s, c)) for c in range(len(COLOURS))]
                               for s in range(len(SHAPES))])
        asked["has_colours"].append(bool(colours))
        asked["relation"].append(directions[0] if directions else 0)
        asked["ends"].append([shapes[0], shapes[-1]])
    return asked


OWN_NAMES = [("text.", "encoder."), ("transformer.pos_embed.pos_embed", "positions"),
             ("transformer.pos_embed.proj", "patches"),
             ("transformer.time_text_embed.timestep_embedder.", "time."),
             ("transformer.time_text_embed.text_embedder.", "pooled."), ("linear_1", "0"),
             ("linear_2", "2"), ("transformer.context_embedder", "context"),
             ("transformer.transformer_blocks", "blocks"),
             ("norm1_context.linear", "text_modulation"),
             ("norm1.linear", "image_modulation"), ("attn.to_out.0", "image_out"),
             ("attn.to_add_out", "text_out"), ("attn.norm_q", "image.query_norm"),
             ("attn.norm_k", "image.key_norm"), ("attn.norm_added_q", "text.query_norm"),
             ("attn.norm_added_k", "text.key_norm"), ("ff_context.net.0.proj", "text_feed.0"),
             ("ff_context.net.2", "text_feed.2"), ("ff.net.0.proj", "image_feed.0"),
             ("ff.net.2", "image_feed.2"), ("transformer.norm_out.linear", "last_modulation"),
             ("transformer.proj_out", "out")]


def by_own_names(tensors, concatenate):
    """Tensors named as in the peers, of those of scenes_epoch.cpp, which keeps queries, keys and
    values apart."""
    tensors = dict(tensors)
    for name in [n for n in tensors if "attn.to_q." in n or "attn.add_q_proj." in n]:
        parts = [tensors.pop(name.replace("to_q", f"to_{p}").replace("add_q", f"add_{p}"))
                 for p in "qkv"]
        joint = name.replace("attn.to_q", "image.qkv").replace("attn.add_q_proj", "text.qkv")
        tensors[joint] = concatenate(parts)
    renamed = {}
    for name, tensor in tensors.items():
        for theirs, own in OWN_NAMES:
            if theirs != "text." or name.startswith(theirs):
                name = name.replace(theirs, own)
        renamed[name] = tensor
    return renamed
