"""The training room inside ComfyUI's Python: ``python training_cases.py COMFYUI RESULTS``.

Seconds of training on procedural pictures. What must come of each case is in tests/host/test_training.py.
"""

import json
import math
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

from vae_cases import COMFYUI, RESULTS  # isort: skip -- first, it prepares the host
import comfy.model_base
import comfy.model_management
import comfy.sd
import comfy.utils
import torch
from PIL import Image
from wan_flf2v.nodes.conditioning import WanFLF2VConditioning
from wan_flf2v.training import experts, export, latents, procedural, text, vae
from wan_flf2v.training import pictures as training_pictures
from wan_flf2v.training.__main__ import STAGES, Training
from wan_flf2v.training.experts import EXPERT_CONFIG, Expert, velocity_loss
from wan_flf2v.training.muon import Muon
from wan_flf2v.training.pictures import PICTURES
from wan_flf2v.training.trainer import Machine, Schedule, Trainer
from wan_flf2v.training.transitions import TRANSITIONS, transition_clip
from wan_flf2v.wan import TEXT_TOKENS

SMALL_VAE = {**vae.VAE_CONFIG, "dim": 4}
SMALL_EXPERT = {**EXPERT_CONFIG, "num_layers": 2, "ffn_dim": 128}
CPU = Machine()
FOLDER = Path(RESULTS).parent
vae.CROP = 32
latents.SIDES, latents.USUAL_SIDE, latents.LENGTHS = (48, 64), 64, (17, 21)
latents.LENGTH_WEIGHTS = (1.0, 1.0)


def pictures(count, side=96):
    generator = torch.Generator().manual_seed(5)
    return [(procedural.picture(side, side, generator) * 255).byte() for _ in range(count)]


def random_vae(config=SMALL_VAE):
    """A VAE whose every weight and bias is random, also those of past frames, which training starts at zero."""
    module = vae.new_vae(1, config)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, value in module.named_parameters():
            if not name.endswith("gamma"):
                scale = 0.2 if value.ndim < 2 else value[0].numel() ** -0.5
                value.copy_(torch.randn(value.shape, generator=generator) * scale)
    return module


def off(found, expected):
    """The largest difference relative to the largest value."""
    return float((found - expected).abs().max() / expected.abs().max())


@torch.no_grad()
def whole_clip_cases():
    module = random_vae()
    for frames in (1, 5, 9, 33):
        video = torch.rand(1, 3, frames, 32, 48, generator=torch.Generator().manual_seed(frames)) * 2 - 1
        latent = module.vae.encode(video)
        yield f"encode {frames}", off(module.encode(video), latent)
        yield f"decode {frames}", off(module.decode(latent), module.vae.decode(latent))


def vae_trainer(folder, photographs, steps=24, machine=CPU):
    def loss(model, generator):
        return vae.reconstruction_loss(model, vae.mixed_batch(photographs, generator), generator, machine)

    return Trainer(vae.new_vae(1, SMALL_VAE), loss, Schedule(steps, 0.01, warmup=2), FOLDER / folder, 1, machine)


def same_weights(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def muon_cases():
    """Beside torch's own, which rounds its products to bfloat16."""
    generator = torch.Generator().manual_seed(3)
    for shape in ((24, 60), (60, 24)):
        start = torch.randn(shape, generator=generator)
        gradients = [torch.randn(shape, generator=generator) for _ in range(3)]
        moved = []
        for new in (
            lambda matrix: Muon([matrix], weight_decay=0.01, lr=0.02),
            lambda matrix: torch.optim.Muon([matrix], lr=0.02, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        ):
            matrix = torch.nn.Parameter(start.clone())
            optimizer = new(matrix)
            for gradient in gradients:
                matrix.grad = gradient
                optimizer.step()
            moved.append(matrix.detach() - start)
        yield f"{shape[0]}x{shape[1]}", off(*moved)


def training_cases():
    photographs = pictures(4)
    whole = vae_trainer("whole", photographs, steps=8)
    losses = []
    whole.run(1e9, losses.append)
    first = vae_trainer("parts", photographs, steps=8)
    for _ in range(3):
        first.train_step()
    first.save()
    log = FOLDER / "parts" / "log.jsonl"
    log.write_text('{"step": 2}\n{"step": 5}\n', "utf-8")
    second = vae_trainer("parts", photographs, steps=8)
    yield "resumed", second.resume()
    yield "lines before the checkpoint", log.read_text("utf-8")
    yield "resumed at", second.step
    second.run(1e9, losses.append)
    yield "resumes bit for bit", same_weights(whole.module, second.module)
    log = [json.loads(line) for line in (FOLDER / "whole" / "log.jsonl").read_text().splitlines()]
    yield "logged", sorted(log[-1])
    longer = vae_trainer("longer", photographs, steps=40)
    batch = vae.picture_batch(photographs, 8, torch.Generator().manual_seed(9))

    def error():
        with torch.no_grad():
            return float((longer.module(batch)[1] - batch).square().mean())

    before = error()
    longer.run(1e9, losses.append)
    yield "loss ratio", error() / before
    frozen = vae.freeze_encoder(vae.new_vae(1, SMALL_VAE))
    latent = frozen.encode(batch)

    def loss(model, generator):
        return vae.reconstruction_loss(model, batch, generator, Machine())

    decoder = Trainer(frozen, loss, Schedule(2, 0.01), FOLDER / "decoder", 1)
    moved = frozen.vae.decoder.head[2].weight.clone()
    decoder.run(1e9, losses.append)
    yield "encoder stays", torch.equal(frozen.encode(batch), latent)
    yield "decoder moves", not torch.equal(moved, frozen.vae.decoder.head[2].weight)
    late = vae_trainer("late", photographs)
    late.run(0, losses.append)
    yield "out of time", [late.step, (FOLDER / "late" / "checkpoint.pt").exists()]
    (FOLDER / "late").rename(FOLDER / "vae-images")
    try:
        Training(Path(COMFYUI), FOLDER, 0.0, None).run("vae-clips")
    except FileNotFoundError as error:
        yield "half a stage", str(error)


def export_cases():
    module, photographs = random_vae(), pictures(4)
    mean, deviation = latents.statistics(module, photographs, 7)
    video = torch.rand(1, 3, 9, 64, 64, generator=torch.Generator().manual_seed(4)) * 2 - 1
    with torch.no_grad():
        expected = (module.encode(video) - mean.view(1, -1, 1, 1, 1)) / deviation.view(1, -1, 1, 1, 1)
        decoded = module.decode(module.encode(video))
        export.rescale_latent(module.vae, mean, deviation, *export.host_statistics())
        format_ = comfy.latent_formats.Wan21()
        yield "latents in the host's format", off(format_.process_in(module.encode(video)), expected)
        yield "decodes as before", off(module.decode(module.encode(video)), decoded)
    target = FOLDER / "exported" / export.FILES["vae"]
    export.save_half(module.vae.state_dict(), target)
    loaded = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(target)), dtype=torch.float32)
    frames = (video[0].movedim(0, -1) + 1) / 2
    with torch.no_grad():
        yield "ComfyUI loads the VAE", off(loaded.encode(frames), module.encode(video))
        again = export.load_vae(FOLDER / "exported", vae.new_vae(1, SMALL_VAE))
        yield "training goes on from it", off(again.encode(video), expected)
    yield from conditioning_cases(loaded, module)


@torch.no_grad()
def conditioning_cases(loaded, module):
    """The conditioning that the experts learn from, beside what node 67 and ComfyUI give them in use."""
    ones, wan = torch.ones(16), comfy.latent_formats.Wan21()
    encoder = latents.Encoder(module, wan.latents_mean.flatten() * ones, wan.latents_std.flatten() * ones)
    start, end = (picture[:, :64, :64] / 255 for picture in pictures(2))
    given = {"start_image": start.movedim(0, -1)[None], "end_image": end.movedim(0, -1)[None]}
    for name, without in (("both", None), ("start", "end_image"), ("end", "start_image")):
        images = {key: value for key, value in given.items() if key != without}
        settings = (64, 64, 17, 1, "crop", "#000000", "host")
        positive = WanFLF2VConditioning.execute([[None, {}]], [[None, {}]], loaded, *settings, **images).result[0]
        found = encoder.conditioning(
            start if "start_image" in images else None, end if "end_image" in images else None, 17, None
        )
        yield f"conditioning {name}", off(found, host_conditioning(positive[0][1]))
    plain = encoder.conditioning(start, end, 17, None)
    keyed = encoder.conditioning(start, end, 17, (2, start))
    yield "key in the mask", (keyed - plain)[:4].nonzero()[:, :2].unique(dim=0).tolist()
    yield "key changes the image latent", bool((keyed - plain)[4:, 2].abs().max() > 0.01)
    yield "key leaves the past", float((keyed - plain)[4:, :2].abs().max())


def host_conditioning(values):
    """Mask and image as WAN21.concat_cond gives them to the model."""

    class Model:
        latent_format = comfy.latent_formats.Wan21()
        image_to_video = True
        diffusion_model = Expert(1, SMALL_EXPERT).model

        def process_latent_in(self, latent):
            return self.latent_format.process_in(latent)

    noise = torch.zeros_like(values["concat_latent_image"])
    return comfy.model_base.WAN21.concat_cond(Model(), noise=noise, device=noise.device, **values)[0]


@cache
def all_prompts():
    return text.Prompts(text.demo_clip(Path(COMFYUI), FOLDER / "models"))


def expert_cases():
    encoder = latents.Encoder(random_vae(), torch.zeros(16), torch.ones(16))
    photographs = pictures(3, 200)
    said = []
    left = iter((True, True, False))
    done = latents.make_pairs(encoder, photographs, FOLDER / "pairs", 3, 1, lambda: next(left), said.append)
    yield "pairs before the time was up", done
    first = (FOLDER / "pairs" / "00000.safetensors").read_bytes()
    yield "all pairs", latents.make_pairs(encoder, photographs, FOLDER / "pairs", 3, 1, lambda: True, said.append)
    yield "kept", first == (FOLDER / "pairs" / "00000.safetensors").read_bytes()
    kept, again, other = (latents.make_pair(encoder, photographs, 0, seed)["both/conditioning"] for seed in (1, 1, 2))
    yield "a seed has its pairs", [torch.equal(kept, again), torch.equal(kept, other)]
    examples = latents.Examples(FOLDER / "pairs", 3)
    generator = torch.Generator().manual_seed(1)
    batch = examples.batch(600, generator)
    yield "example", [example.conditioning.shape[1:] == batch[0].latent.shape[1:] for example in batch]
    prompts = all_prompts()
    yield "prompts", sorted(prompts.named)
    loss = partial(velocity_loss, examples=examples, prompts=prompts, high_noise=False, machine=Machine(), tokens=100)

    def step(model, generator):
        return loss(model, generator=generator)

    trainer = Trainer(Expert(1, SMALL_EXPERT), step, Schedule(30, 0.01, warmup=3), FOLDER / "expert", 1)
    first = Trainer(Expert(1, SMALL_EXPERT), step, Schedule(30, 0.01, warmup=3), FOLDER / "expert", 1)
    first.train_step()
    first.save()
    losses = [trainer.train_step()["loss"] for _ in range(2)]
    second = Trainer(Expert(1, SMALL_EXPERT), step, Schedule(30, 0.01, warmup=3), FOLDER / "expert", 1)
    yield "resumed at", second.resume() and second.step
    second.train_step()
    yield "resumes bit for bit", same_weights(trainer.module, second.module)
    losses += [trainer.train_step()["loss"] for _ in range(28)]
    yield "loss", [sum(losses[:6]) / 6, sum(losses[-6:]) / 6]
    half = partial(loss, machine=Machine("cpu", torch.bfloat16))
    mixed = Trainer(Expert(1, SMALL_EXPERT), lambda m, g: half(m, generator=g), Schedule(1, 0.01), FOLDER / "mixed", 1)
    yield "bfloat16", mixed.train_step()["loss"]
    yield "loads", loaded_expert_is_off(trainer.module, batch[0], prompts)


@torch.no_grad()
def loaded_expert_is_off(expert, example, prompts):
    """Export, load as a user would, run with all 512 text tokens; compare with the module in training."""
    target = FOLDER / "expert.safetensors"
    state = {name: value.half().float() for name, value in expert.model.state_dict().items()}
    expert.model.load_state_dict(state)
    export.save_half(state, target)
    patcher = comfy.sd.load_diffusion_model(str(target), model_options={"dtype": torch.float32})
    comfy.model_management.in_training = False
    prompt = prompts.named["circle"][1]
    padded = torch.zeros(1, TEXT_TOKENS, prompt.shape[-1])
    padded[0, : len(prompt)] = prompt
    x, conditioning = example.latent[None], example.conditioning[None]
    sigma = torch.tensor([0.7])
    joined = torch.cat([x, conditioning], dim=1)
    found = patcher.model.diffusion_model(joined, sigma * 1000, padded)
    comfy.model_management.in_training = True
    return off(expert(x, conditioning, sigma, [prompt]), found)


def command_cases():
    """All stages of the command but the first, with two steps each: stopped at once, then to their end."""
    work, schedule = FOLDER / "command", Schedule(2, 0.01, warmup=1)
    vae.new_vae, experts.Expert = partial(vae.new_vae, config=SMALL_VAE), partial(Expert, config=SMALL_EXPERT)
    vae.IMAGES = vae.CLIPS = vae.DECODER = experts.SCHEDULE = schedule
    latents.PAIRS = 2
    prompts = all_prompts()
    text.demo_clip, text.Prompts = lambda *_: None, lambda _: prompts  # they take long
    experts.velocity_loss = partial(velocity_loss, tokens=400)
    latents.statistics = partial(latents.statistics, count=4)
    vae.held_out_clips = partial(vae.held_out_clips, frames=5)
    of_each = [next(one for one in PICTURES if one.held_out == held_out) for held_out in (False, True)]
    training_pictures.PICTURES = [replace(one, name=f"{one.name}{n}") for one in of_each for n in range(4)]
    (work / "pictures").mkdir(parents=True)
    for picture, pixels in zip(training_pictures.PICTURES, pictures(8, 200), strict=True):
        Image.fromarray(pixels.movedim(0, -1).numpy()).save(work / "pictures" / f"{picture.name}.png")
    yield "without time", Training(Path(COMFYUI), work, 0.0).run("vae-images")
    yield "stages", [Training(Path(COMFYUI), work, math.inf).run(stage) for stage in STAGES[1:]]
    exported = work / "export"
    yield "exported", sorted(path.name for path in exported.iterdir() if path.is_file())
    for name in ("high", "low"):
        loaded = comfy.sd.load_diffusion_model(str(exported / export.FILES[name]))
        yield f"{name} loads", type(loaded.model).__name__
    lines = (work / "vae-clips" / "log.jsonl").read_text("utf-8").splitlines()
    yield "last line", sorted(json.loads(lines[-1]))
    vae.CLIPS = Schedule(3, 0.01, warmup=1)
    Training(Path(COMFYUI), work, math.inf).run("vae-clips")
    try:
        Training(Path(COMFYUI), work, math.inf).run("latents")
    except latents.OtherEncoderError as error:
        yield "old latents", str(error)


def transition_cases():
    start, end = (picture / 255 for picture in pictures(2, 64))
    for word in TRANSITIONS:
        clip = transition_clip(word, start, end, 9)
        yield word, [off(clip[:, 0], start), off(clip[:, -1], end), float((clip[:, 4] - start).abs().mean())]


if __name__ == "__main__":
    groups = {
        "whole clip": whole_clip_cases,
        "muon": muon_cases,
        "training": training_cases,
        "export": export_cases,
        "experts": expert_cases,
        "transitions": transition_cases,
        "command": command_cases,  # last: it makes everything smaller
    }
    Path(RESULTS).write_text(json.dumps({name: dict(cases()) for name, cases in groups.items()}))
