#!/usr/bin/env python3
"""One run of a program that executes language models: prints {"load", "prefill", "decode"} in seconds and tokens/s.

usage: run_peer.py llama.cpp|transformers-bf16|transformers-f32|accelerate MODEL PROMPT_TOKENS NEW_TOKENS THREADS
"""
import json
import sys
import tempfile
import time

name, model = sys.argv[1:3]
prompt_len, new_len, threads = map(int, sys.argv[3:])
IDS = [(37 * i) % 50000 + 100 for i in range(prompt_len)]


def llama_cpp() -> dict:
    import xllamacpp

    p = xllamacpp.CommonParams()
    p.model.path, p.n_ctx, p.warmup, p.n_parallel = model, 1024, False, 1
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = threads
    begun = time.time()
    server = xllamacpp.Server(p)
    load = time.time() - begun
    answer = server.handle_completions({"prompt": IDS, "n_predict": new_len, "temperature": 0, "ignore_eos": True,
                                        "cache_prompt": False})
    answer = json.loads(answer) if isinstance(answer, (str, bytes)) else answer
    timings = answer["timings"]
    return {"load": load, "prefill": timings["prompt_per_second"], "decode": timings["predicted_per_second"]}


def with_torch() -> dict:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    begun = time.time()
    dtype = torch.float32 if name.endswith("f32") else torch.bfloat16
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
    loaded.eval()
    if name == "accelerate":
        import accelerate

        accelerate.disk_offload(loaded, tempfile.mkdtemp(dir="."), execution_device=torch.device("cpu"))
    load = time.time() - begun
    ids = torch.tensor([IDS])
    with torch.inference_mode():
        begun = time.time()
        out = loaded(ids, use_cache=True, logits_to_keep=1)
        prefill = time.time() - begun
        begun = time.time()
        for _ in range(new_len - 1):
            token = out.logits[:, -1:].argmax(-1)
            out = loaded(token, past_key_values=out.past_key_values, use_cache=True)
        decode = time.time() - begun
    return {"load": load, "prefill": prompt_len / prefill, "decode": (new_len - 1) / decode}


print(json.dumps(llama_cpp() if name == "llama.cpp" else with_torch()))
