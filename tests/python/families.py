"""Tiny random models of each family that `bigsmall run` executes, and what transformers computes with them.

A case is one model: a configuration of transformers, the type of its weights, and changes, each of which must move the
logits far more than the tolerance: a test that cannot tell the changed model from the model would show nothing.
"""
import copy
import functools
import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import numpy as np
import torch
import transformers
from safetensors.torch import load_file
from safetensors.torch import save_file

torch.set_num_threads(1)  # for models this small a second thread only waits
transformers.utils.logging.disable_progress_bar()

SEED = 20261128
PROMPT = 64  # tokens
STEPS = 8  # generated tokens
TYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}


@dataclass(frozen=True)
class Case:
    """One model: `kind` is the model class of transformers, `config` goes to its configuration class."""
    name: str
    kind: str
    config: dict
    dtype: str = "bf16"
    shards: bool = False
    rewrite: Callable[[dict], None] | None = None  # edits the saved config.json: how older files say the same
    files: Callable[[Path], None] | None = None  # edits the saved tensors
    changes: dict[str, Callable[[dict, dict], None]] = field(default_factory=dict)

    @property
    def vocabulary(self) -> int:
        return self.config.get("text_config", self.config)["vocab_size"]


@dataclass(frozen=True)
class Golden:
    prompt_logits: np.ndarray  # f32 [prompt, vocabulary]
    logits: np.ndarray  # f32 [steps, vocabulary]; the first row is that after the whole prompt
    tokens: list[int]

    @functools.cached_property
    def all(self) -> np.ndarray:
        """The logits of every position, each once."""
        return np.concatenate([self.prompt_logits, self.logits[1:]])

    @functools.cached_property
    def tolerance(self) -> float:
        return 1e-4 * max(1.0, float(self.all.std()))


# ---------------------------------------------------------------- models
def rng(name: str) -> np.random.Generator:
    return np.random.default_rng([SEED, *hashlib.sha256(name.encode()).digest()[:8]])


def prompt(vocabulary: int) -> list[int]:
    return [int(i) for i in rng("prompt").integers(3, vocabulary, PROMPT)]


def draw(name: str, shape, one: float, source: np.random.Generator) -> np.ndarray:
    """Values with which swapped or forgotten terms show: no norm is all ones, no bias is zero."""
    x = source.standard_normal(shape).astype("f4")
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "bias":
        return 0.3 * x
    if len(shape) == 1:  # the weight of a norm
        return one + 0.3 * x
    if "embed" in name or "wte" in name or "wpe" in name or "lm_head" in name:
        return x * (1.5 / shape[1] ** 0.5)
    inputs = shape[0] if ".c_" in name else shape[1]  # GPT-2 keeps its matrices transposed
    gain = 1.4 if any(w in name for w in ("q_proj", "k_proj", "qkv_proj", "c_attn")) else 1.0
    return x * (gain / inputs ** 0.5)


def make(case: Case, folder: Path) -> None:
    """Writes the model of `case` into `folder`: config.json and model.safetensors, or shards of it."""
    model_class = getattr(transformers, case.kind)
    config = copy.deepcopy(case.config)  # the configuration class writes into what it is given
    model = model_class(model_class.config_class(**config))
    one = 0.0 if case.kind.startswith("Gemma") else 1.0  # Gemma's norms multiply by 1 + w
    source = rng(case.name)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            p.copy_(torch.from_numpy(np.asarray(draw(name, tuple(p.shape), one, source), "f4")))
    model.to(TYPES[case.dtype]).save_pretrained(folder, max_shard_size="200KB" if case.shards else "1GB")
    (folder / "generation_config.json").unlink(missing_ok=True)
    edit(folder, case.rewrite)
    if case.files is not None:
        case.files(folder)


def edit(folder: Path, change: Callable[[dict], None] | None) -> None:
    """Changes config.json; no token ends the text in any of these models."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for part in (config, config.get("text_config", {})):
        if "eos_token_id" in part:
            part["eos_token_id"] = None
    if change is not None:
        change(config)
    path.write_text(json.dumps(config, indent=2) + "\n")


def changed(folder: Path, target: Path, change: Callable[[dict, dict], None]) -> None:
    """Writes the model of `folder`, with one thing changed, into `target`."""
    target.mkdir()
    config = json.loads((folder / "config.json").read_text())
    tensors = {}
    for part in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(part)
    change(config, tensors)
    (target / "config.json").write_text(json.dumps(config))
    save_file({k: v.contiguous() for k, v in tensors.items()}, target / "model.safetensors", {"format": "pt"})


# ---------------------------------------------------------------- goldens
def load(folder: Path, dtype=torch.float32):
    if "quantization_config" in json.loads((folder / "config.json").read_text()):
        with tempfile.TemporaryDirectory() as plain:
            changed(folder, Path(plain) / "model", widened)
            return load(Path(plain) / "model", dtype)
    config = transformers.AutoConfig.from_pretrained(folder)
    model_class = getattr(transformers, config.architectures[0])
    model = model_class.from_pretrained(folder, dtype=dtype, attn_implementation="eager")
    return model.eval()


@torch.inference_mode()
def golden(folder: Path, ids: list[int], steps: int = STEPS) -> Golden:
    """The logits of every position of the prompt, and of `steps` greedy tokens, by prefill and decode, in f32."""
    model = load(folder)
    out = model(input_ids=torch.tensor([ids]), use_cache=True)
    whole = out.logits[0].numpy().copy()
    rows, tokens = [whole[-1]], []
    kept = "cache" if "cache" in out else "past_key_values"  # the newer name and the older
    while True:
        tokens.append(int(rows[-1].argmax()))
        if len(tokens) == steps:
            return Golden(whole, np.stack(rows), tokens)
        out = model(input_ids=torch.tensor([tokens[-1:]]), use_cache=True, **{kept: out[kept]})
        rows.append(out.logits[0, -1].numpy().copy())


@torch.inference_mode()
def at_once(folder: Path, ids: list[int], dtype=torch.float32) -> np.ndarray:
    """The logits of every position of `ids` from one pass without a cache."""
    return load(folder, dtype)(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float().numpy()


# ---------------------------------------------------------------- changes
def keys(**values):
    """Sets keys of the configuration."""
    def change(config, _tensors):
        config.get("text_config", config).update(values)
    return change


def rope(kind=None, **values):
    """Sets keys of the rope parameters; `kind` names a type of layers where they are kept by type."""
    def change(config, _tensors):
        parameters = config.get("text_config", config)["rope_parameters"]
        (parameters[kind] if kind else parameters).update(values)
    return change


def filled(part: str, value: float):
    """Sets all values of the tensors whose names hold `part`."""
    def change(_config, tensors):
        found = [t for name, t in tensors.items() if part in name]
        if not found:
            raise AssertionError(f"no tensor is called {part}")
        for t in found:
            t.fill_(value)
    return change


def plain_norm(part: str):
    """The norm multiplies by w, where the family multiplies by 1 + w."""
    def change(_config, tensors):
        for name in tensors:
            if part in name:
                tensors[name] = (tensors[name].float() - 1).to(tensors[name].dtype)
    return change


def paired(head_dim: int, *parts: str, rows=None):
    """Rotates dimensions (2i, 2i+1) together, where the family rotates (i, i + half), by the rows of q and k."""
    order = torch.arange(head_dim).reshape(2, -1).T.reshape(-1)

    def change(_config, tensors):
        for name in tensors:
            if any(p in name for p in parts):
                t = tensors[name]
                n = rows or t.shape[0]
                moved = t[:n].reshape(-1, head_dim, *t.shape[1:])[:, order].reshape(t[:n].shape)
                tensors[name] = torch.cat([moved, t[n:]])
    return change


def swapped(part: str):
    """The first half of the rows and the second change places: gate and up of a fused matrix."""
    def change(_config, tensors):
        for name, t in tensors.items():
            if part in name:
                tensors[name] = torch.cat(t.chunk(2)[::-1])
    return change


def columns_swapped(part: str):
    """q and k of GPT-2 change places: its scores are transposed."""
    def change(_config, tensors):
        for name, t in tensors.items():
            if part in name:
                q, k, v = t.chunk(3, -1)
                tensors[name] = torch.cat([k, q, v], -1)
    return change


# ---------------------------------------------------------------- weights of eight bits
SCALED = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [48, 64]}


def scaled(config: dict) -> None:
    """Says that matrices have eight bits a weight, and a scale for each 48 rows and 64 columns."""
    config["quantization_config"] = SCALED


def in_blocks(scales: torch.Tensor, shape) -> torch.Tensor:
    """The scale of each weight, f32."""
    rows, columns = SCALED["weight_block_size"]
    return scales.float().repeat_interleave(rows, 0).repeat_interleave(columns, 1)[:shape[0], :shape[1]]


def widened(config: dict, tensors: dict) -> None:
    """The same model in f32: weights times scales."""
    del config["quantization_config"]
    config["dtype"] = "float32"
    for name in [name for name in tensors if name.endswith("_scale_inv")]:
        scales, of = tensors.pop(name), name.removesuffix("_scale_inv")
        tensors[of] = tensors[of].float() * in_blocks(scales, tensors[of].shape)


def eight_bits(scale_type: torch.dtype):
    """Writes the matrices of the layers as published models of eight bits have them."""
    rows, columns = SCALED["weight_block_size"]

    def rewrite(tensors):
        out = {}
        for name, t in tensors.items():
            if "_proj.weight" not in name:
                out[name] = t
                continue
            padded = torch.nn.functional.pad(t.float(), (0, -t.shape[1] % columns, 0, -t.shape[0] % rows))
            blocks = padded.reshape(padded.shape[0] // rows, rows, -1, columns)
            scales = (blocks.abs().amax((1, 3)) / 448).to(scale_type)
            out[name] = (t.float() / in_blocks(scales, t.shape)).clamp(-448, 448).to(torch.float8_e4m3fn)
            out[f"{name}_scale_inv"] = scales
        return out
    return retensor(rewrite)


# ---------------------------------------------------------------- older files
def old(*, drop=(), nested=False, **values):
    """Rewrites config.json as older files have it: `rope_theta` and `rope_scaling` at the top, `torch_dtype`."""
    def rewrite(config):
        part = config.get("text_config", config)
        parameters = part.pop("rope_parameters")
        full = dict(parameters["full_attention"] if nested else parameters)
        part["rope_theta"] = full.pop("rope_theta")
        partial = full.pop("partial_rotary_factor", None)
        if partial is not None:
            part["partial_rotary_factor"] = partial
        if full.get("rope_type", "default") == "default":
            part["rope_scaling"] = None
        else:
            part["rope_scaling"] = full
        config["torch_dtype"] = config.pop("dtype")
        for key in drop:
            del part[key]
        part.update(values)
    return rewrite


def retensor(change: Callable[[dict], dict]):
    """Writes the tensors anew, with other names or with more of them."""
    def rewrite(folder):
        path = folder / "model.safetensors"
        save_file(change(load_file(path)), path, {"format": "pt"})
    return rewrite


@retensor
def head_too(tensors):
    """A tied model that holds its head all the same."""
    return tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}


@retensor
def new_names(tensors):
    """The names that the classes use now, which `save_pretrained` turns into those of the published files."""
    renamed = {k.replace("language_model.model.", "language_model."): v for k, v in tensors.items()}
    return {f"model.{k}": v for k, v in renamed.items()}


@retensor
def old_names(tensors):
    """GPT-2 as it was first published: no prefix, and masks kept as tensors."""
    renamed = {k.removeprefix("transformer."): v for k, v in tensors.items()}
    for layer in range(3):
        renamed[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 128, 128).tril()
        renamed[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    return renamed
