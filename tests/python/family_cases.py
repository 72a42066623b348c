"""The models by which `bigsmall run` is compared with transformers: at least one of each family, and of each switch."""
import torch
from families import Case
from families import columns_swapped
from families import eight_bits
from families import filled
from families import head_too
from families import keys
from families import new_names
from families import old
from families import old_names
from families import paired
from families import plain_norm
from families import rope
from families import scaled
from families import swapped

VOCABULARY = 320
NO_ENDS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
SHORT = [0.9, 1.1, 1.2, 1.3, 1.5, 1.7, 2.0, 2.5]
LONG = [2.0, 2.5, 3.0, 4.5, 6.0, 8.0, 9.0, 12.0]
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2,
          "image_size": 28, "patch_size": 14, "num_channels": 3}


def base(**more) -> dict:
    """What the families have in common; no size is a multiple of 64."""
    return {"vocab_size": VOCABULARY, "hidden_size": 96, "intermediate_size": 200, "num_hidden_layers": 3,
            "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 256,
            "rms_norm_eps": 1e-5, "tie_word_embeddings": False, **NO_ENDS, **more}


def llama3(**more) -> dict:
    """Of the eight frequencies one stays, one lies between, and the others are divided."""
    return {"rope_type": "llama3", "rope_theta": 5000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 32, **more}


def yarn(**more) -> dict:
    """A ramp over the second to the fourth of the eight frequencies."""
    return {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128,
            "beta_fast": 4.0, "beta_slow": 0.5, **more}


def longrope(original: int) -> dict:
    return {"original_max_position_embeddings": original, "max_position_embeddings": 8 * original,
            "rope_parameters": {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": SHORT,
                                "long_factor": LONG, "original_max_position_embeddings": original}}


def gemma(**more) -> dict:
    return base(tie_word_embeddings=True, query_pre_attn_scalar=20, sliding_window=12, **more)


NORMS = {"norms all ones": filled("layernorm", 1.0), "last norm all ones": filled("model.norm", 1.0)}
GEMMA_NORMS = {f"w for 1 + w in {part}": plain_norm(part) for part in (
    "input_layernorm", "post_attention_layernorm", "pre_feedforward", "post_feedforward", "model.norm")}
HEAD_NORMS = {"no q norm": filled("q_norm", 1.0), "no k norm": filled("k_norm", 1.0)}
PAIRS = {"pairs of rope": paired(16, "q_proj", "k_proj")}

LLAMA = [
    Case("llama", "LlamaForCausalLM", base(), changes=NORMS | PAIRS | {
        "theta": rope(rope_theta=5000.0), "epsilon": keys(rms_norm_eps=0.05)}),
    Case("llama-f32", "LlamaForCausalLM", base(), dtype="f32", changes={
        "half of the heads": keys(num_attention_heads=3, head_dim=32, num_key_value_heads=1)}),
    Case("llama-f16-epsilon", "LlamaForCausalLM", base(rms_norm_eps=0.01), dtype="f16", changes={
        "no epsilon": keys(rms_norm_eps=0.0)}),
    Case("llama-tied", "LlamaForCausalLM", base(tie_word_embeddings=True, num_key_value_heads=6), changes=PAIRS),
    Case("llama-tied-twice", "LlamaForCausalLM", base(tie_word_embeddings=True), files=head_too),
    Case("llama-odd", "LlamaForCausalLM", base(
        vocab_size=333, hidden_size=100, intermediate_size=173, num_attention_heads=5, num_key_value_heads=1),
        changes={"pairs of rope": paired(20, "q_proj", "k_proj")}),
    Case("llama-llama3", "LlamaForCausalLM", base(rope_parameters=llama3()), changes={
        "no scaling": rope(rope_type="default"), "low factor": rope(low_freq_factor=2.0),
        "high factor": rope(high_freq_factor=2.0), "original": rope(original_max_position_embeddings=64)}),
    Case("llama-yarn", "LlamaForCausalLM", base(rope_parameters=yarn()), changes={
        "no attention factor": rope(attention_factor=1.0), "not truncated": rope(truncate=False),
        "fast": rope(beta_fast=32.0), "slow": rope(beta_slow=1.0), "linear": rope(rope_type="linear")}),
    Case("llama-yarn-mscale", "LlamaForCausalLM", base(
        rope_parameters=yarn(mscale=1.5, mscale_all_dim=0.5, truncate=False)), changes={
        "no mscale": rope(mscale=None), "truncated": rope(truncate=True)}),
    Case("llama-yarn-factor", "LlamaForCausalLM", base(rope_parameters=yarn(attention_factor=1.3)), changes={
        "computed factor": rope(attention_factor=None)}),
    Case("llama-linear", "LlamaForCausalLM", base(
        rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}), changes={
        "no scaling": rope(rope_type="default")}),
    Case("llama-biases", "LlamaForCausalLM", base(attention_bias=True, mlp_bias=True), changes={
        f"no bias of {part}": filled(f"{part}_proj.bias", 0.0) for part in ("q", "v", "o", "gate", "up", "down")}),
    Case("llama-old", "LlamaForCausalLM", base(rope_parameters=llama3()), shards=True, rewrite=old(
        drop=("head_dim", "mlp_bias"), _name_or_path="somewhere/else", pretraining_tp=1)),
    Case("llama-old-linear", "LlamaForCausalLM", base(
        rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}), rewrite=old(
        drop=("head_dim", "attention_bias", "mlp_bias"), rope_scaling={"type": "linear", "factor": 4.0})),
]

MISTRAL = [
    Case("mistral-window", "MistralForCausalLM", base(sliding_window=16), changes={
        "no window": keys(sliding_window=None), "one key more": keys(sliding_window=17),
        "one key less": keys(sliding_window=15)} | NORMS | PAIRS),
    Case("mistral-heads", "MistralForCausalLM", base(sliding_window=None, head_dim=24), changes={
        "pairs of rope": paired(24, "q_proj", "k_proj"), "a window": keys(sliding_window=16)}),
    Case("mistral-old", "MistralForCausalLM", base(sliding_window=16), rewrite=old(drop=("head_dim",))),
    Case("ministral3", "Ministral3ForCausalLM", base(head_dim=16, sliding_window=None, rope_parameters=yarn(
        original_max_position_embeddings=8, llama_4_scaling_beta=0.4, mscale=1.0, mscale_all_dim=1.0,
        max_position_embeddings=256, type="yarn")), changes={
        "no temperature": rope(llama_4_scaling_beta=0.0), "attention factor": rope(mscale=0.0)} | NORMS | PAIRS),
]

QWEN = [
    Case("qwen2", "Qwen2ForCausalLM", base(), changes=NORMS | PAIRS | {
        f"no bias of {part}": filled(f"{part}_proj.bias", 0.0) for part in "qkv"}),
    Case("qwen2-window", "Qwen2ForCausalLM", base(
        num_hidden_layers=4, use_sliding_window=True, sliding_window=12, max_window_layers=2), changes={
        "no window": keys(layer_types=["full_attention"] * 4),
        "all windows": keys(layer_types=["sliding_attention"] * 4)}),
    Case("qwen2-old", "Qwen2ForCausalLM", base(tie_word_embeddings=True), rewrite=old(
        drop=("layer_types",), use_sliding_window=False, sliding_window=12, max_window_layers=1), changes={
        "the window": keys(use_sliding_window=True)}),
    Case("qwen2-old-window", "Qwen2ForCausalLM", base(
        num_hidden_layers=4, use_sliding_window=True, sliding_window=12, max_window_layers=2), rewrite=old(
        drop=("layer_types",)), changes={"no window": keys(use_sliding_window=False)}),
    Case("qwen3", "Qwen3ForCausalLM", base(head_dim=24), changes=NORMS | HEAD_NORMS | {
        "pairs of rope": paired(24, "q_proj", "k_proj")}),
    Case("qwen3-fp8", "Qwen3ForCausalLM", base(head_dim=24), rewrite=scaled, files=eight_bits(torch.float32)),
    Case("qwen3-fp8-bf16-scales", "Qwen3ForCausalLM", base(head_dim=24, intermediate_size=256), rewrite=scaled,
         files=eight_bits(torch.bfloat16), changes={"other scales": filled("_scale_inv", 0.001)}),
    Case("qwen3-biases", "Qwen3ForCausalLM", base(head_dim=16, attention_bias=True, tie_word_embeddings=True), changes={
        f"no bias of {part}": filled(f"{part}_proj.bias", 0.0) for part in "qkvo"}),
]

GEMMA3_ROPE = {"sliding_attention": {"rope_type": "default", "rope_theta": 1000.0},
               "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 100000.0}}
GEMMA3 = gemma(num_hidden_layers=7, head_dim=40)
GEMMA = [
    Case("gemma2", "Gemma2ForCausalLM", gemma(
        hidden_size=160, num_attention_heads=4, num_hidden_layers=4, head_dim=24, attn_logit_softcapping=4.0,
        final_logit_softcapping=3.0), changes=GEMMA_NORMS | {
        "no cap of scores": keys(attn_logit_softcapping=None), "no cap of logits": keys(final_logit_softcapping=None),
        "scale": keys(query_pre_attn_scalar=24), "no window": keys(sliding_window=256),
        "other layers": keys(layer_types=["full_attention", "sliding_attention"] * 2),
        "SiLU": keys(hidden_activation="silu"), "pairs of rope": paired(24, "q_proj", "k_proj")}),
    Case("gemma2-old", "Gemma2ForCausalLM", gemma(
        num_hidden_layers=4, head_dim=40, attn_logit_softcapping=None, final_logit_softcapping=None), rewrite=old(
        drop=("layer_types", "tie_word_embeddings"), cache_implementation="hybrid", hidden_act="silu")),
    Case("gemma3-text", "Gemma3ForCausalLM", GEMMA3 | {"rope_parameters": GEMMA3_ROPE}, changes=GEMMA_NORMS | {
        "w for 1 + w in q_norm": plain_norm("q_norm"), "w for 1 + w in k_norm": plain_norm("k_norm"),
        "theta of windows": rope("sliding_attention", rope_theta=100000.0),
        "no scaling": rope("full_attention", rope_type="default"), "scale": keys(query_pre_attn_scalar=40),
        "scaling everywhere": rope("sliding_attention", rope_type="linear", factor=8.0)}),
    Case("gemma3-text-old", "Gemma3ForCausalLM", gemma(
        num_hidden_layers=6, head_dim=24, rope_parameters=GEMMA3_ROPE,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"] * 2), rewrite=old(
        drop=("layer_types", "tie_word_embeddings", "_sliding_window_pattern"), nested=True,
        rope_local_base_freq=1000.0, sliding_window_pattern=3, cache_implementation="hybrid")),
    Case("gemma3", "Gemma3ForConditionalGeneration", {
        "text_config": GEMMA3, "vision_config": VISION, "mm_tokens_per_image": 4, "tie_word_embeddings": True},
        changes={"no window": keys(sliding_window=256), "w for 1 + w in q_norm": plain_norm("q_norm")}),
    Case("gemma3-renamed", "Gemma3ForConditionalGeneration", {
        "text_config": gemma(num_hidden_layers=6, head_dim=16), "vision_config": VISION, "mm_tokens_per_image": 4},
        files=new_names),
    Case("gemma3-old", "Gemma3ForConditionalGeneration", {  # heads and much else are as by default, and not said
        "text_config": gemma(num_hidden_layers=6, num_attention_heads=8, num_key_value_heads=4, head_dim=256) | {
            "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-6}, "vision_config": VISION, "mm_tokens_per_image": 4},
        rewrite=old(nested=True, drop=(
            "layer_types", "_sliding_window_pattern", "head_dim", "num_attention_heads", "num_key_value_heads",
            "query_pre_attn_scalar", "rms_norm_eps", "hidden_activation", "attn_logit_softcapping",
            "final_logit_softcapping", "tie_word_embeddings", "attention_bias"))),
]

PHI = [
    Case("phi3", "Phi3ForCausalLM", base(), changes=NORMS | {
        "pairs of rope": paired(16, "qkv_proj", rows=8 * 16), "gate and up": swapped("gate_up_proj")}),
    Case("phi3-window", "Phi3ForCausalLM", base(sliding_window=16), changes={"no window": keys(sliding_window=None)}),
    Case("phi3-partial", "Phi3ForCausalLM", base(rope_parameters={
        "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}), changes={
        "all dimensions": rope(partial_rotary_factor=1.0)}),
    Case("phi3-short", "Phi3ForCausalLM", base(**longrope(80)), changes={
        "long": rope(short_factor=LONG), "no attention factor": rope(attention_factor=1.0)}),
    Case("phi3-border", "Phi3ForCausalLM", base(**longrope(71)), changes={"long": rope(short_factor=LONG)}),
    Case("phi3-long", "Phi3ForCausalLM", base(**longrope(63)), changes={
        "short": rope(long_factor=SHORT), "no attention factor": rope(attention_factor=1.0)}),
    Case("phi3-old", "Phi3ForCausalLM", base(**longrope(32)), rewrite=old(
        rope_scaling={"type": "longrope", "short_factor": SHORT, "long_factor": LONG},
        attention_bias=False, _name_or_path="somewhere/else")),
    Case("phi3-old-partial", "Phi3ForCausalLM", base(
        head_dim=32, tie_word_embeddings=True, **longrope(32)) | {"num_attention_heads": 3, "num_key_value_heads": 1}
        | {"rope_parameters": longrope(32)["rope_parameters"] | {"partial_rotary_factor": 0.5}}, rewrite=old(
        drop=("head_dim",), attention_bias=False, lm_head_bias=False, mlp_bias=False, full_attn_mod=1,
        interpolate_factor=1)),
]

OLMO = [
    Case("olmo2", "Olmo2ForCausalLM", base(), changes=NORMS | HEAD_NORMS | PAIRS),
    Case("olmo2-biases", "Olmo2ForCausalLM", base(attention_bias=True, rope_parameters={
        "rope_type": "default", "rope_theta": 500000.0}), changes={"no bias of o": filled("o_proj.bias", 0.0)}),
    Case("olmo3", "Olmo3ForCausalLM", base(num_hidden_layers=4, sliding_window=12, rope_parameters={
        "sliding_attention": {"rope_type": "default", "rope_theta": 1000.0}, "full_attention": yarn()}),
        changes=NORMS | HEAD_NORMS | PAIRS | {
        "no window": keys(sliding_window=256), "theta of windows": rope("sliding_attention", rope_theta=10000.0),
        "no scaling": rope("full_attention", rope_type="default")}),
    Case("olmo3-old", "Olmo3ForCausalLM", base(num_hidden_layers=4, sliding_window=12, rope_parameters={
        "sliding_attention": {"rope_type": "default", "rope_theta": 500000.0},
        "full_attention": yarn(rope_theta=500000.0)}), rewrite=old(nested=True)),
]

OTHERS = [
    Case("smollm3", "SmolLM3ForCausalLM", base(
        num_hidden_layers=4, tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 1e4}),
        changes=NORMS | PAIRS | {"rope everywhere": keys(no_rope_layers=[1] * 4),
                                 "the other way round": keys(no_rope_layers=[0, 0, 0, 1])}),
    Case("smollm3-window", "SmolLM3ForCausalLM", base(
        num_hidden_layers=4, no_rope_layers=[1, 0, 0, 1], use_sliding_window=True, sliding_window=12,
        attention_bias=True, mlp_bias=True), changes={"no window": keys(layer_types=["full_attention"] * 4),
                                                      "no bias of gate": filled("gate_proj.bias", 0.0)}),
    Case("smollm3-old", "SmolLM3ForCausalLM", base(num_hidden_layers=4, tie_word_embeddings=True), rewrite=old(
        drop=("layer_types", "no_rope_layers", "tie_word_embeddings"), no_rope_layer_interval=4)),
    Case("granite", "GraniteForCausalLM", base(
        embedding_multiplier=12.0, residual_multiplier=0.5, attention_multiplier=0.4, logits_scaling=0.7),
        changes=NORMS | PAIRS | {name: keys(**{name: 1.0}) for name in (
            "embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling")}),
    Case("granite-biases", "GraniteForCausalLM", base(attention_multiplier=0.25, attention_bias=True, mlp_bias=True,
                                                      tie_word_embeddings=True), rewrite=old(), changes={
        "no bias of down": filled("down_proj.bias", 0.0)}),
    Case("glm4", "Glm4ForCausalLM", base(head_dim=16), changes=PAIRS | {
        f"{part} all ones": filled(part, 1.0) for part in (
            "input_layernorm", "post_self_attn_layernorm", "post_attention_layernorm", "post_mlp_layernorm")} | {
        "all dimensions": rope(partial_rotary_factor=1.0), "gate and up": swapped("gate_up_proj"),
        "no bias of k": filled("q_proj.bias", 0.0)}),
    Case("glm4-old", "Glm4ForCausalLM", base(head_dim=24, attention_bias=False), rewrite=old()),
]


def gpt2(**more) -> dict:
    return {"vocab_size": VOCABULARY, "n_positions": 128, "n_embd": 96, "n_layer": 3, "n_head": 6, **NO_ENDS, **more}


GPT2 = [
    Case("gpt2", "GPT2LMHeadModel", gpt2(), dtype="f32", changes={
        "no bias of c_attn": filled("c_attn.bias", 0.0), "no bias of c_fc": filled("c_fc.bias", 0.0),
        "no bias of ln_1": filled("ln_1.bias", 0.0), "no bias of ln_f": filled("ln_f.bias", 0.0),
        "no positions": filled("wpe", 0.0), "q and k": columns_swapped("c_attn.weight"),
        "ReLU": keys(activation_function="relu"), "epsilon": keys(layer_norm_epsilon=0.05),
        "scale by layer": keys(scale_attn_by_inverse_layer_idx=True)}),
    Case("gpt2-by-layer", "GPT2LMHeadModel", gpt2(scale_attn_by_inverse_layer_idx=True, n_inner=200), changes={
        "not by layer": keys(scale_attn_by_inverse_layer_idx=False)}),
    Case("gpt2-reordered", "GPT2LMHeadModel", gpt2(
        reorder_and_upcast_attn=True, scale_attn_by_inverse_layer_idx=True, n_head=4), changes={
        "not by layer": keys(scale_attn_by_inverse_layer_idx=False)}),
    Case("gpt2-unscaled", "GPT2LMHeadModel", gpt2(scale_attn_weights=False, tie_word_embeddings=False), changes={
        "scaled": keys(scale_attn_weights=True)}),
    Case("gpt2-old", "GPT2LMHeadModel", gpt2(), dtype="f32", files=old_names, rewrite=lambda config: config.update(
        n_ctx=128, task_specific_params={"text-generation": {"do_sample": True, "max_length": 50}})),
]

CASES = [*LLAMA, *MISTRAL, *QWEN, *GEMMA, *PHI, *OLMO, *OTHERS, *GPT2]
