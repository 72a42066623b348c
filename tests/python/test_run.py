"""A model that is run beside transformers, in a mount, and within the memory that it promised."""
import json
import os
import shutil
import unittest

from common import MINI_LLAMA
from common import bigsmall
from common import mounted
from common import scratch
from common import sha256

PROMPT = "The compiler will"
NEW = 24


def answer(model, *words) -> dict:
    done = bigsmall("run", model, "--prompt", PROMPT, "--max-new-tokens", NEW, "--json", "-q", *words)
    return json.loads(done.stdout)


def copied(folder):
    """The trained model that comes with the project, without its image."""
    shutil.copytree(MINI_LLAMA, folder)
    return folder


class Text(unittest.TestCase):
    def test_greedy_text_is_that_of_transformers(self):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        import torch
        from transformers import AutoModelForCausalLM
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(MINI_LLAMA)
        model = AutoModelForCausalLM.from_pretrained(MINI_LLAMA, dtype=torch.float32)
        ids = tokenizer(PROMPT, return_tensors="pt").input_ids
        with torch.inference_mode():
            whole = model.generate(ids, max_new_tokens=NEW, do_sample=False)[0, ids.shape[1]:]
        found = answer(MINI_LLAMA)
        self.assertEqual(found["tokens"], whole.tolist())
        self.assertEqual(found["text"], tokenizer.decode(whole, skip_special_tokens=True))

    def test_a_mounted_model_has_the_same_logits(self):
        with scratch() as folder:
            plain = copied(folder / "plain")
            bigsmall("compress", plain, "-o", folder / "small", "-q")
            answer(plain, "--logits", folder / "plain.logits", "--all-logits")
            with mounted(folder / "small") as point:
                self.assertTrue((point / "model.safetensors").is_file())
                answer(point, "--logits", folder / "mounted.logits", "--all-logits")
                answer(folder / "small", "--logits", folder / "small.logits", "--all-logits", "--stream")
            of_plain = sha256(folder / "plain.logits")
            self.assertEqual(sha256(folder / "mounted.logits"), of_plain)
            self.assertEqual(sha256(folder / "small.logits"), of_plain)


class Memory(unittest.TestCase):
    def test_a_budget_is_kept_and_changes_nothing(self):
        with scratch() as folder:
            plain = copied(folder / "plain")
            image = folder / "image"
            image.mkdir()
            for name in ("config.json", "tokenizer.json"):
                shutil.copy(plain / name, image)
            bigsmall("compress", plain / "model.safetensors", "-o", image / "model.safetensors.bs", "-q")
            whole = answer(image)
            least = bigsmall("run", image, "--prompt", PROMPT, "--ram", "1M", expect=8).stderr
            least = int(least.split("--ram ")[1].split("M`")[0])
            for more in (0, 1, 2, 8):
                found = answer(image, "--ram", f"{least + more}M")
                self.assertEqual(found["tokens"], whole["tokens"])
                self.assertLessEqual(found["peak_bytes"], found["promised_bytes"])
                self.assertLessEqual(found["promised_bytes"], (least + more) << 20)


if __name__ == "__main__":
    unittest.main()
