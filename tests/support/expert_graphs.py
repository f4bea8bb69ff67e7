"""Graphs around node 57: its inputs patched, its result beside that of the stock nodes."""

import torch
from safetensors.torch import save_file

from support.demo_graphs import demo_graph, shorten_texts

LORA = "tiny_lora.safetensors"


def sampler_graph(*, slow=False, **inputs):
    """Return the demo graph up to node 57, its latent dumped as ``ours``; its texts are short if not ``slow``."""
    graph = demo_graph(**inputs)
    if not slow:
        shorten_texts(graph)
    del graph["73"]
    dump_latent(graph, "57", "ours")
    return graph


def dump_latent(graph, node_id, name):
    inputs = {"latent": [node_id, 0], "name": name}
    graph[f"dump_{name}"] = {"class_type": "WanFLF2VTestDumpLatent", "inputs": inputs}


def dump_model(graph, source, name, after=None):
    inputs = {"model": source, "name": name, **({"after": after} if after else {})}
    graph[f"dump_{name}"] = {"class_type": "WanFLF2VTestDumpModel", "inputs": inputs}


def patch(graph, expert, class_type, **inputs):
    """Put a patch between an expert and node 57 (on top of those before)."""
    key = "model_prelude" if expert == "prelude" else f"model_{expert}_noise"
    node_id = f"{class_type}_{expert}_{len(graph)}"
    graph[node_id] = {"class_type": class_type, "inputs": {"model": graph["57"]["inputs"][key], **inputs}}
    graph["57"]["inputs"][key] = [node_id, 0]
    return graph


def add_stock(graph, first_low_step, shift=None, cfg_low=None):
    """Add the stock way: a shift node for the low-noise expert and two KSamplerAdvanced, dumped as ``stock``."""
    ours = graph["57"]["inputs"]
    shift = graph["54"]["inputs"]["shift"] if shift is None else shift
    graph["55"] = {"class_type": "ModelSamplingSD3", "inputs": {"shift": shift, "model": ours["model_low_noise"]}}
    same = ("noise_seed", "steps", "cfg", "sampler_name", "scheduler", "positive", "negative")
    common = {key: ours[key] for key in same}
    graph["58"] = {
        "class_type": "KSamplerAdvanced",
        "inputs": {
            **common,
            "model": ours["model_high_noise"],
            "latent_image": ours["latent_image"],
            "add_noise": "enable",
            "start_at_step": 0,
            "end_at_step": first_low_step,
            "return_with_leftover_noise": "enable",
        },
    }
    graph["59"] = {
        "class_type": "KSamplerAdvanced",
        "inputs": {
            **common,
            "cfg": ours["cfg"] if cfg_low is None else cfg_low,
            "model": ["55", 0],
            "latent_image": ["58", 0],
            "add_noise": "disable",
            "start_at_step": first_low_step,
            "end_at_step": 10000,
            "return_with_leftover_noise": "disable",
        },
    }
    dump_latent(graph, "59", "stock")
    return graph


def add_plain(graph, denoise=1.0, *, node_id="57", name="stock"):
    """Add one KSampler with the high-noise model of a WanFLF2VSampler alone, dumped under ``name``."""
    ours = graph[node_id]["inputs"]
    shared = ("steps", "cfg", "sampler_name", "scheduler", "positive", "negative", "latent_image")
    inputs = {key: ours[key] for key in shared}
    inputs.update(model=ours["model_high_noise"], seed=ours["noise_seed"], denoise=denoise)
    graph[f"plain_{name}"] = {"class_type": "KSampler", "inputs": inputs}
    dump_latent(graph, f"plain_{name}", name)
    return graph


def add_guided(graph, *, resume=False):
    """Add node 57's run as WanFLF2VGuider and SamplerCustomAdvanced on the same sigmas, dumped as ``stock``.

    With ``resume`` it may play what node 57 kept: then nothing is compared.
    """
    ours = graph["57"]["inputs"]
    experts = ("model_high_noise", "model_low_noise", "positive", "negative", "cfg", "cfg_low_noise", "cfg_gate")
    guider = {key: ours[key] for key in (*experts, "handover", "handover_step", "boundary")} | {"resume": resume}
    sigmas = {key: ours[key] for key in ("scheduler", "steps", "denoise")}
    parts = {
        "guider": ("WanFLF2VGuider", guider),
        "noise": ("RandomNoise", {"noise_seed": ours["noise_seed"]}),
        "sampler": ("KSamplerSelect", {"sampler_name": ours["sampler_name"]}),
        "sigmas": ("BasicScheduler", {**sigmas, "model": ours["model_high_noise"]}),
    }
    graph |= {name: {"class_type": class_type, "inputs": inputs} for name, (class_type, inputs) in parts.items()}
    ours["sigmas"] = ["sigmas", 0]
    inputs = {**{name: [name, 0] for name in parts}, "latent_image": ours["latent_image"]}
    graph["58"] = {"class_type": "SamplerCustomAdvanced", "inputs": inputs}
    dump_latent(graph, "58", "stock")
    return graph


def add_mask(graph):
    """Give node 57's latent a mask of a half."""
    graph["mask"] = {"class_type": "SolidMask", "inputs": {"value": 0.5, "width": 64, "height": 64}}
    inputs = {"samples": ["67", 2], "mask": ["mask", 0]}
    graph["latent"] = {"class_type": "SetLatentNoiseMask", "inputs": inputs}
    graph["57"]["inputs"]["latent_image"] = ["latent", 0]


def relative_difference(host, names=("ours", "stock")):
    ours, stock = (host.tensors(name)["samples"] for name in names)
    assert ours.shape == stock.shape
    assert torch.isfinite(stock).all()
    return ((ours - stock).norm() / stock.norm()).item()


def notes(host):
    """Return what the probes noted since the last time."""
    host.run({"1": {"class_type": "WanFLF2VMeasureWriteNotes", "inputs": {"name": "notes"}}})
    return host.state("notes")


def calls(noted, label):
    return [note for note in noted if note["model"] == label and "sigma" in note]


def write_lora(host):
    """Make a LoRA for the tiny experts and return its name."""
    path = host.base_dir / "models" / "loras" / LORA
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        generator, tensors = torch.Generator().manual_seed(7), {}
        for layer in ("blocks.0.self_attn.q", "blocks.1.cross_attn.o"):
            for half, shape in (("lora_A", (4, 128)), ("lora_B", (128, 4))):
                tensors[f"diffusion_model.{layer}.{half}.weight"] = torch.randn(shape, generator=generator) * 0.2
        save_file(tensors, path)
    return LORA
