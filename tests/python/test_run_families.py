"""`bigsmall run` computes what transformers computes in f32, for a tiny random model of each family and each switch.

`python -m unittest test_run_families -k gemma3` takes only the models whose name holds a word (`-` is `_` here).
"""
import functools
import hashlib
import json
import shutil
import unittest
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

import families
from common import bigsmall
from common import scratch
from families import Case
from families import Golden
from families import STEPS
from family_cases import CASES


@dataclass(frozen=True)
class Ran:
    """What the program made of a model."""
    prompt_logits: np.ndarray
    logits: np.ndarray
    tokens: list[int]

    def digests(self) -> list[str]:
        return [hashlib.sha256(a.tobytes()).hexdigest() for a in (self.prompt_logits, self.logits)]


def run(model: Path, prompt: list[int], output: Path) -> Ran:
    done = bigsmall("run", model, "--prompt-ids", ",".join(map(str, prompt)), "--max-new-tokens", STEPS,
                    "--logits", output, "--all-logits", "--json")
    said = json.loads(done.stdout)
    if said["schema"] != "bigsmall.run/1":
        raise AssertionError(f"not a report of run: {done.stdout[:200]}")
    tensors = load_file(output)
    return Ran(tensors["prompt_logits"], tensors["logits"], said["tokens"])


# ---------------------------------------------------------------- each made, and computed, once
def setUpModule():
    global ROOT
    ROOT = unittest.enterModuleContext(scratch())


def ids(case: Case) -> list[int]:
    return families.prompt(case.vocabulary)


@functools.cache
def folder(name: str) -> Path:
    """The model called `name`; what is made from it is put beside it."""
    path = ROOT / name / "plain"
    families.make(next(c for c in CASES if c.name == name), path)
    return path


@functools.cache
def golden_of(name: str) -> Golden:
    case = next(c for c in CASES if c.name == name)
    return families.golden(folder(name), ids(case))


@functools.cache
def ran_of(name: str) -> Ran:
    case = next(c for c in CASES if c.name == name)
    return run(folder(name), ids(case), ROOT / name / "plain.logits")


# ---------------------------------------------------------------- tests
class Goldens(unittest.TestCase):
    """What the comparison rests on; the program takes no part."""

    def is_computed_the_same_in_other_ways(self, case: Case):
        """A pass without a cache, and one in f64: the noise of f32 is far below the tolerance."""
        golden = golden_of(case.name)
        whole = ids(case) + golden.tokens[:-1]
        types = [families.torch.float32]
        if not case.config.get("reorder_and_upcast_attn"):  # which transformers computes in f32 only
            types.append(families.torch.float64)
        for dtype in types:
            other = families.at_once(folder(case.name), whole, dtype)
            self.assertLess(np.abs(other - golden.all).max(), golden.tolerance / 3, dtype)
        best = np.sort(golden.logits, axis=-1)
        margins = best[:, -1] - best[:, -2]
        self.assertGreater(margins.min(), 10 * golden.tolerance, "a token could be another one: take another seed")

    def moves_when_it_is_changed(self, case: Case):
        """The test could fail: whatever is got wrong moves the logits by far more than the tolerance."""
        golden = golden_of(case.name)
        for number, (what, change) in enumerate(case.changes.items()):
            with self.subTest(what):
                target = ROOT / case.name / f"changed-{number}"
                families.changed(folder(case.name), target, change)
                moved = np.abs(families.at_once(target, ids(case)) - golden.prompt_logits).max()
                self.assertGreater(moved, 100 * golden.tolerance)

    def test_every_kind_of_model_has_changes(self):
        kinds = {c.kind for c in CASES}
        self.assertEqual({c.kind for c in CASES if c.changes}, kinds)


class Families(unittest.TestCase):
    def has_the_logits_and_tokens_of_transformers(self, case: Case):
        golden, ran = golden_of(case.name), ran_of(case.name)
        for got, wanted in ((ran.prompt_logits, golden.prompt_logits), (ran.logits, golden.logits)):
            self.assertEqual((got.dtype, got.shape), (np.float32, wanted.shape))
            off = np.abs(got - wanted).max(axis=-1)
            self.assertLessEqual(off.max(), golden.tolerance, f"from row {int((off > golden.tolerance).argmax())} on")
            best = np.sort(wanted, axis=-1)
            clear = best[:, -1] - best[:, -2] > golden.tolerance
            self.assertTrue((got.argmax(-1) == wanted.argmax(-1))[clear].all())
        self.assertEqual(ran.tokens, golden.tokens)
        self.assertEqual(ran.logits[0].tobytes(), ran.prompt_logits[-1].tobytes())

    def has_the_same_bits_from_its_image(self, case: Case):
        plain = folder(case.name)
        packed = plain.parent / "packed"
        if case.shards:
            bigsmall("compress", plain, "-o", packed)
        else:
            packed.mkdir()
            bigsmall("compress", plain / "model.safetensors", "-o", packed / "model.bs")
            shutil.copy(plain / "config.json", packed)
        self.assertFalse(list(packed.glob("*.safetensors")))
        from_image = run(packed, ids(case), packed.parent / "packed.logits")
        self.assertEqual(from_image.digests(), ran_of(case.name).digests())
        self.assertEqual(from_image.tokens, ran_of(case.name).tokens)


def one_test_for_each_case(suite: type, *checks: str) -> None:
    """`-k` then takes some models or some checks."""
    for case in CASES:
        for check in checks:
            name = f"test_{case.name.replace('-', '_')}_{check}"
            setattr(suite, name, functools.partialmethod(getattr(suite, check), case))


one_test_for_each_case(Goldens, "is_computed_the_same_in_other_ways", "moves_when_it_is_changed")
one_test_for_each_case(Families, "has_the_logits_and_tokens_of_transformers", "has_the_same_bits_from_its_image")


class Refusals(unittest.TestCase):
    """What is not known is refused by its name before anything is computed, and a mount is what helps."""

    def is_refused(self, case: str, word: str, change) -> None:
        with scratch() as copy, self.subTest(word):
            shutil.copytree(folder(case), copy, dirs_exist_ok=True)
            families.edit(copy, change)
            done = bigsmall("run", copy, "--prompt-ids", "1,2,3", "--max-new-tokens", 1,
                            "--logits", copy / "logits", "--json", expect=6)
            self.assertIn(word, done.stderr)
            self.assertIn("mount", done.stderr)
            self.assertEqual(done.stdout, "")
            self.assertFalse((copy / "logits").exists())

    def test_families_that_are_not_executed(self):
        for model_type, architecture in (
                ("mamba", "MambaForCausalLM"), ("mixtral", "MixtralForCausalLM"), ("bert", "BertForMaskedLM"),
                ("deepseek_v3", "DeepseekV3ForCausalLM"), ("qwen3_moe", "Qwen3MoeForCausalLM"),
                ("gemma3n", "Gemma3nForConditionalGeneration"), ("t5", "T5ForConditionalGeneration"),
                ("never_heard_of", "NeverHeardOfForCausalLM")):
            self.is_refused("llama", model_type, lambda config, m=model_type, a=architecture: config.update(
                model_type=m, architectures=[a]))

    def test_heads_that_are_not_those_of_a_language_model(self):
        self.is_refused("llama", "LlamaForSequenceClassification", lambda config: config.update(
            architectures=["LlamaForSequenceClassification"]))

    def test_values_that_are_not_known(self):
        self.is_refused("llama", "spiral", lambda config: config["rope_parameters"].update(rope_type="spiral"))
        self.is_refused("llama", "crelu", lambda config: config.update(hidden_act="crelu"))
        self.is_refused("qwen2-window", "chunked_attention", lambda config: config.update(
            layer_types=["chunked_attention"] * 4))
        self.is_refused("gemma2", "use_bidirectional_attention", lambda config: config.update(
            use_bidirectional_attention=True))
        self.is_refused("gpt2", "add_cross_attention", lambda config: config.update(add_cross_attention=True))

    def test_keys_that_are_not_known(self):
        self.is_refused("llama", "mrope_section", lambda config: config["rope_parameters"].update(
            mrope_section=[2, 3, 3]))
        self.is_refused("llama", "attention_sink_size", lambda config: config.update(attention_sink_size=4))
        self.is_refused("llama", "quantization_config", lambda config: config.update(
            quantization_config={"quant_method": "fp8"}))


if __name__ == "__main__":
    unittest.main()
