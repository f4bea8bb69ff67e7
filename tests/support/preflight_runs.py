"""Prompts for preflight and the files that they name."""

import contextlib
import shutil

import numpy
import psutil
from safetensors.numpy import save_file

from support.demo_graphs import demo_graph
from support.wan_files import write_sparse, write_tensors, write_wan

HIGH, LOW = "preflight/wan2.2_i2v_high_noise.safetensors", "preflight/wan2.2_i2v_low_noise.safetensors"
LORA = "preflight/wan2.2_lightx2v_4steps_lora.safetensors"
OFFICIAL_LORA = "preflight/Wan2.2-I2V-A14B-4steps-lora-rank64-Seko-V1/{}_noise_model.safetensors"
RENAMED_LORA = "preflight/renamed.safetensors"  # its metadata tells what it is
T2V_HIGH, T2V_LOW = "preflight/wan_t2v_high_noise.safetensors", "tiny_wan_t2v.safetensors"
GGUF, TAE = "preflight/wan2.2_i2v_low_noise_Q4.gguf", "taehv.safetensors"  # in folders that only their loaders know
# More than can be free; a loader maps a file of this size without reading it, but none larger than main memory.
BIG = psutil.virtual_memory().total - (32 << 20)


@contextlib.contextmanager
def model_files(server):
    """Put Wan files of telling names into the server's models folder: the demo's, and ones with headers alone."""
    models = server.base_dir / "models"
    for name, source in ((HIGH, "tiny_wan_high_noise"), (LOW, "tiny_wan_low_noise")):
        (models / "diffusion_models" / name).parent.mkdir(exist_ok=True)
        shutil.copy(models / "diffusion_models" / f"{source}.safetensors", models / "diffusion_models" / name)
    diffusion = models / "diffusion_models" / "preflight"
    write_wan(diffusion / "wan_t2v_high_noise.safetensors", in_channels=16)
    write_wan(diffusion / "wan_i2v.safetensors")
    broken = write_wan(diffusion / "x_cut_high_noise.safetensors")
    broken.write_bytes(broken.read_bytes()[:-100])
    (diffusion / "wan2.2_i2v_high_noise_Q4.gguf").write_bytes(b"GGUF" + bytes(1000))
    lora = {"diffusion_model.blocks.0.self_attn.q.lora_A.weight": [[0.0] * 128]}
    lora["diffusion_model.blocks.0.self_attn.q.lora_B.weight"] = [[0.0]] * 128
    official = [OFFICIAL_LORA.format(expert) for expert in ("high", "low")]
    for name in (LORA, *official, "preflight/style_low_noise.safetensors"):
        write_tensors(models / "loras" / name, **lora)
    titled = {"modelspec.title": "Wan 2.2 Lightning, low noise"}
    save_file({"a": numpy.zeros(2, numpy.float16)}, models / "loras" / RENAMED_LORA, titled)
    write_tensors(models / "vae_approx" / TAE, a=[0.0])
    for kind in ("unet_gguf", "clip_gguf"):
        (models / kind / "preflight").mkdir(parents=True)
        (models / kind / GGUF).write_bytes(b"GGUF" + bytes(1000))
    write_sparse(models / "loras" / "preflight" / "huge.safetensors", BIG)
    write_wan(server.base_dir / "input" / "outside.safetensors", in_channels=16)
    yield models
    for folder in ("diffusion_models", "loras", "unet_gguf", "clip_gguf"):
        shutil.rmtree(models / folder / "preflight")
    (models / "vae_approx" / TAE).unlink()
    (server.base_dir / "input" / "outside.safetensors").unlink()


def graph(**inputs):
    """Return the demo graph, 20 steps, on files whose names tell the experts."""
    return demo_graph(**{"n57_steps": 20, "n37_unet_name": HIGH, "n56_unet_name": LOW, **inputs})


def with_loras(name, *experts, **inputs):
    """Return a graph with a LoRA of this name before each of these inputs of node 57 (``high``, ``low``)."""
    prompt = graph(**inputs)
    for expert in experts:
        model = prompt["57"]["inputs"][f"model_{expert}_noise"]
        lora = {"lora_name": name, "strength_model": 1.0, "model": model}
        prompt[f"lora_{expert}"] = {"class_type": "LoraLoaderModelOnly", "inputs": lora}
        prompt["57"]["inputs"][f"model_{expert}_noise"] = [f"lora_{expert}", 0]
    return prompt


def with_official_loras(**inputs):
    prompt = with_loras(OFFICIAL_LORA.format("high"), "high", "low", **inputs)
    prompt["lora_low"]["inputs"]["lora_name"] = OFFICIAL_LORA.format("low")
    return prompt


def with_gguf():
    """Return a graph whose low-noise expert and text encoder are GGUF files."""
    prompt = graph(n56_unet_name=GGUF, n38_clip_name=GGUF)
    prompt["56"]["class_type"], prompt["38"]["class_type"] = "UnetLoaderGGUF", "CLIPLoaderGGUF"
    return prompt


def with_vace():
    """Return a graph of a VACE model, whose input channels are those of text-to-video."""
    prompt = graph(n37_unet_name=T2V_HIGH, n56_unet_name=T2V_LOW)
    frames = {"num_frames": 81, "empty_frame_level": 0.5, "start_image": ["68", 0], "end_image": ["62", 0]}
    prompt["frames"] = {"class_type": "WanVideoVACEStartToEndFrame", "inputs": frames}
    vace = {"positive": ["6", 0], "negative": ["7", 0], "vae": ["39", 0], "width": 64, "height": 64, "length": 81}
    vace |= {"batch_size": 1, "strength": 1.0, "control_video": ["frames", 0], "control_masks": ["frames", 1]}
    prompt["67"] = {"class_type": "WanVaceToVideo", "inputs": vace}
    return prompt


def linked_length(length):
    prompt = graph()
    prompt["frames"] = {"class_type": "PrimitiveInt", "inputs": {"value": length}}
    prompt["67"]["inputs"]["length"] = ["frames", 0]
    return prompt


def without_images(**inputs):
    prompt = graph(**inputs)
    prompt["57"]["inputs"].update(positive=["6", 0], negative=["7", 0])
    return prompt


SWAPPED = f"The experts are swapped: model_high_noise has {LOW}, model_low_noise has {HIGH}. Exchange the two files."
SAME = (
    "model_high_noise and model_low_noise are the same ({}). That is right for Wan 2.1, which has one model; of Wan "
    "2.2, load the high-noise file in one and the low-noise file in the other."
)
FRAMES = (
    "The video has {} frames, but Wan 2.2 was trained on up to 81: longer ones tend to loop or to burn out. Set length "
    "to 81, or join several videos."
)
GUIDED = (
    "{} is 4, but {} ({}) looks made for few steps without guidance: the video will be too harsh and take twice as "
    "long. Set cfg to 1, or remove that file."
)


def other(slot, name, there, here):
    return (
        f"{slot} has {name}, whose name or metadata says that it is for the {there}-noise expert. Load the "
        f"{here}-noise one there."
    )
