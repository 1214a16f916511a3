"""Small GGUF files: a tiny LLaMA of random weights with a byte-level tokenizer, written with the gguf package."""

from __future__ import annotations

from pathlib import Path

import numpy as np

HIDDEN, INNER, LAYERS, HEADS, KEY_HEADS, HEAD_DIM = 64, 96, 2, 4, 2, 16


def write_gguf(path: Path, *, architecture: str = "llama", seed: int = 0) -> None:
    """Matrices of the layers in Q8_0, the embedding in F16, norms in F32; tied embeddings."""
    import gguf
    from tokenizers.pre_tokenizers import ByteLevel

    words = ["<|end|>", *sorted(ByteLevel.alphabet()), "th", "the"]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_key_length(HEAD_DIM)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([3] + [1] * (len(words) - 1))
    writer.add_token_merges(["t h", "th e"])
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(0)
    random = np.random.default_rng(seed)

    def add(name: str, *shape: int, kind: gguf.GGMLQuantizationType) -> None:
        values = random.standard_normal(shape).astype(np.float32) * 0.3
        if len(shape) == 1:
            values = 1 + 0.1 * values
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)

    kinds = gguf.GGMLQuantizationType
    add("token_embd.weight", len(words), HIDDEN, kind=kinds.F16)
    add("output_norm.weight", HIDDEN, kind=kinds.F32)
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        for name, rows, columns in (
            ("attn_q", HEADS * HEAD_DIM, HIDDEN),
            ("attn_k", KEY_HEADS * HEAD_DIM, HIDDEN),
            ("attn_v", KEY_HEADS * HEAD_DIM, HIDDEN),
            ("attn_output", HIDDEN, HEADS * HEAD_DIM),
            ("ffn_gate", INNER, HIDDEN),
            ("ffn_up", INNER, HIDDEN),
            ("ffn_down", HIDDEN, INNER),
        ):
            add(f"{block}.{name}.weight", rows, columns, kind=kinds.Q8_0)
        for name in ("attn_norm", "ffn_norm"):
            add(f"{block}.{name}.weight", HIDDEN, kind=kinds.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
