#!/usr/bin/env python3
"""Make what `scripts/bench-run` runs: the model of make_large.py as a folder, and as a BF16 GGUF for llama.cpp.

usage: make_run_model.py FOLDER

Writes FOLDER/plain/{config.json,model.safetensors} and FOLDER/model.gguf. The weights are random, so is the text; the
shapes, and with them all work, are those of a language model of 0.5 B parameters (Qwen2).
"""
import json
import subprocess
import sys
from pathlib import Path

import gguf
import make_large
import numpy as np
from safetensors import safe_open

HEADS, KV_HEADS, HEAD_DIM, THETA = 14, 2, 64, 1e6
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}


def config() -> dict:
    return {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": make_large.HIDDEN,
        "intermediate_size": make_large.INTERMEDIATE, "num_hidden_layers": make_large.LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "vocab_size": make_large.VOCABULARY,
        "rope_theta": THETA, "rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": True,
        "max_position_embeddings": 32768, "dtype": "bfloat16",
    }


def gguf_name(name: str) -> str:
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    _, _, layer, *middle, kind = name.split(".")
    return f"blk.{layer}.{NAMES['.'.join(middle)]}.{kind}"


def write_gguf(model: Path, out: Path) -> None:
    w = gguf.GGUFWriter(str(out), "qwen2")
    w.add_block_count(make_large.LAYERS)
    w.add_context_length(4096)
    w.add_embedding_length(make_large.HIDDEN)
    w.add_feed_forward_length(make_large.INTERMEDIATE)
    w.add_head_count(HEADS)
    w.add_head_count_kv(KV_HEADS)
    w.add_layer_norm_rms_eps(1e-6)
    w.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    w.add_rope_freq_base(THETA)
    w.add_rope_dimension_count(HEAD_DIM)
    w.add_vocab_size(make_large.VOCABULARY)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("qwen2")
    w.add_token_list([f"<t{i}>".encode() for i in range(make_large.VOCABULARY)])
    w.add_token_types([1] * make_large.VOCABULARY)
    w.add_token_merges(["a b"])
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    header_len = int.from_bytes(model.open("rb").read(8), "little")
    header = json.loads(model.read_bytes()[8:8 + header_len])
    data = np.memmap(model, np.uint8, "r", 8 + header_len)
    with safe_open(model, "np") as names:
        for name in names.keys():
            start, end = header[name]["data_offsets"]
            x = np.asarray(data[start:end]).view("<u2").reshape(header[name]["shape"])
            if x.ndim == 1:
                w.add_tensor(gguf_name(name), (x.astype("<u4") << 16).view("<f4"))
            else:
                bf16 = gguf.GGMLQuantizationType.BF16
                w.add_tensor(gguf_name(name), np.ascontiguousarray(x).view(np.uint8), raw_dtype=bf16)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def main() -> None:
    folder = Path(sys.argv[1])
    plain = folder / "plain"
    plain.mkdir(parents=True, exist_ok=True)
    model = plain / "model.safetensors"
    if not model.exists():
        subprocess.run([sys.executable, make_large.__file__, model], check=True)
    (plain / "config.json").write_text(json.dumps(config(), indent=1))
    part = folder / "model.part"
    write_gguf(model, part)
    part.rename(folder / "model.gguf")


main()
