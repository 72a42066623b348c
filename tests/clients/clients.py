"""Clients of a mount, unmodified, each a small program: `python clients.py NAME FOLDER` prints what it got, with digests.

scripts/clients runs each on a plain folder and on a mount of its images and compares what they print.
"""
import hashlib
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

CLIENTS = {}


def client(f):
    CLIENTS[f.__name__] = f
    return f


def models(folder):
    return sorted(p for p in Path(folder).rglob("*.safetensors") if p.is_file())


def digest_torch(tensors):
    import torch

    h = hashlib.sha256()
    for name in sorted(tensors):
        t = tensors[name].detach().contiguous()
        h.update(f"{name} {t.dtype} {list(t.shape)}\n".encode())
        if t.numel():
            h.update(t.reshape(-1).view(torch.uint8).cpu().numpy().tobytes())
    return h.hexdigest()


@client
def safetensors_torch(folder):
    from safetensors.torch import load_file

    for path in models(folder):
        print(path.name, digest_torch(load_file(path)))


@client
def safetensors_numpy(folder):
    from safetensors import safe_open

    for path in models(folder):
        h = hashlib.sha256()
        with safe_open(path, "np") as f:
            for name in sorted(f.keys()):
                if f.get_slice(name).get_dtype() not in ("BF16", "F8_E4M3", "F8_E5M2"):
                    h.update(f.get_tensor(name).tobytes())
        print(path.name, h.hexdigest())


@client
def safetensors_bytes(folder):
    """The whole file by read(), as loaders do without a mapping."""
    from safetensors.torch import load

    for path in models(folder):
        print(path.name, digest_torch(load(path.read_bytes())))


def generate(folder, **options):
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(folder, **options)
    print(digest_torch(dict(model.state_dict())) if "device_map" not in options else "offloaded")
    ids = torch.arange(1, 9).reshape(1, -1)
    with torch.no_grad():
        print(model.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=0).tolist())


@client
def transformers(folder):
    generate(folder, dtype="auto")


@client
def transformers_without_mapping(folder):
    generate(folder, dtype="auto", disable_mmap=True)


@client
def transformers_cast(folder):
    """Another dtype than the file's: everything is read at load."""
    import torch

    generate(folder, dtype=torch.float32)


@client
def accelerate_offload(folder):
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        generate(folder, dtype="auto", device_map={"": "disk"}, offload_folder=scratch)


def save(folder, model):
    model.save_pretrained(folder, safe_serialization=True)


def shape(folder, make):
    """Loads the model of the folder, and prints its parameters and one output."""
    import torch

    torch.manual_seed(0)
    model, inputs = make(folder)
    model.eval()
    with torch.no_grad():
        out = model(**inputs)
    print(digest_torch(dict(model.state_dict())), digest_torch({"out": out[0]}))


@client
def transformers_whisper(folder):
    import torch
    from transformers import WhisperModel

    shape(folder, lambda f: (WhisperModel.from_pretrained(f), {"input_features": torch.ones(1, 80, 3000) / 9, "decoder_input_ids": torch.tensor([[1, 2]])}))


@client
def transformers_vit(folder):
    import torch
    from transformers import ViTModel

    shape(folder, lambda f: (ViTModel.from_pretrained(f), {"pixel_values": torch.ones(1, 3, 32, 32) / 9}))


@client
def transformers_clip(folder):
    import torch
    from transformers import CLIPModel

    shape(folder, lambda f: (CLIPModel.from_pretrained(f), {"input_ids": torch.tensor([[1, 2, 3]]), "pixel_values": torch.ones(1, 3, 32, 32) / 9}))


@client
def diffusers_unet(folder):
    import torch
    from diffusers import UNet2DModel

    shape(folder, lambda f: (UNet2DModel.from_pretrained(f), {"sample": torch.ones(1, 3, 32, 32) / 9, "timestep": 10, "return_dict": False}))


@client
def diffusers_vae(folder):
    import torch
    from diffusers import AutoencoderKL

    shape(folder, lambda f: (AutoencoderKL.from_pretrained(f), {"sample": torch.ones(1, 3, 32, 32) / 9, "return_dict": False}))


@client
def sentence_transformers(folder):
    import numpy as np
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(1)
    model = SentenceTransformer(str(folder), device="cpu")
    embedded = model.encode(["a cat sits on the mat", "the kitten rests on a rug"])
    print(hashlib.sha256(np.ascontiguousarray(embedded, "<f4").tobytes()).hexdigest())


@client
def fastsafetensors(folder):
    """Its reader of files without a GPU: O_DIRECT, many threads, overlapping pieces."""
    from fastsafetensors import SafeTensorsFileLoader, SingleGroup

    for path in models(folder):
        loader = SafeTensorsFileLoader(SingleGroup(), "cpu", nogds=True)
        loader.add_filenames({0: [str(path)]})
        buffer = loader.copy_files_to_device()
        print(path.name, digest_torch({name: buffer.get_tensor(name) for name in buffer.key_to_rank_lidx}))
        buffer.close()
        loader.close()


@client
def runai_streamer(folder):
    from runai_model_streamer import SafetensorsStreamer

    for path in models(folder):
        with SafetensorsStreamer() as streamer:
            streamer.stream_file(str(path))
            print(path.name, digest_torch({name: tensor.clone() for name, tensor in streamer.get_tensors()}))


@client
def vllm(folder):
    # unasked it takes most of the memory for its cache
    for name, value in {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}.items():
        os.environ.setdefault(name, value)
    from vllm import LLM, SamplingParams

    model = LLM(str(folder), max_model_len=64, enforce_eager=True, skip_tokenizer_init=True)
    out = model.generate([{"prompt_token_ids": list(range(1, 9))}], SamplingParams(max_tokens=12, temperature=0, detokenize=False))
    print(out[0].outputs[0].token_ids)


@client
def gguf(folder):
    """A GGUF file, which passes through, mapped by the reader of llama.cpp's package."""
    from gguf import GGUFReader

    for path in sorted(Path(folder).rglob("*.gguf")):
        reader = GGUFReader(path)
        print(path.name, [(t.name, hashlib.sha256(t.data.tobytes()).hexdigest()) for t in reader.tensors])


# ---------------------------------------------------------------- models in the shapes that the clients want
def make_models(folder):
    """Small models with random weights: folder/NAME for each client that wants a shape of its own."""
    import torch

    torch.manual_seed(1)
    folder = Path(folder)

    def tiny(name, make):
        model = make().to(torch.float16 if name.startswith("unet") else torch.float32)
        save(folder / name, model)

    def whisper():
        from transformers import WhisperConfig, WhisperModel

        return WhisperModel(WhisperConfig(d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=128, decoder_ffn_dim=128, vocab_size=500, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1))

    def vit():
        from transformers import ViTConfig, ViTModel

        return ViTModel(ViTConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128, image_size=32, patch_size=8))

    def clip():
        from transformers import CLIPConfig, CLIPModel

        side = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128)
        return CLIPModel(CLIPConfig(text_config=dict(vocab_size=500, eos_token_id=2, **side), vision_config=dict(image_size=32, patch_size=8, **side), projection_dim=32))

    for name, make in (("whisper", whisper), ("vit", vit), ("clip", clip)):
        tiny(name, make)
    try:
        from diffusers import AutoencoderKL, UNet2DModel
    except ImportError:
        return
    blocks = dict(block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8)
    unet = dict(down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"))
    vae = dict(down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2)
    save(folder / "unet", UNet2DModel(sample_size=32, **unet, **blocks))
    save(folder / "vae", AutoencoderKL(sample_size=32, **vae, **blocks))


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make_models(sys.argv[2])
    else:
        CLIENTS[sys.argv[1]](sys.argv[2])
