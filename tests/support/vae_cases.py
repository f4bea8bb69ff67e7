"""Cases for the Wan VAE that run inside a ComfyUI's own Python: ``python vae_cases.py COMFYUI RESULTS GROUP...``.

Real modules with seeded random weights, biases too: with none, grey would stay exactly zero in every layer. Each case's
result goes into the JSON file RESULTS; what it must be is in tests/host/test_wan_vae.py.
"""

import contextlib
import gc
import importlib.util
import itertools
import json
import logging
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

COMFYUI, RESULTS, *GROUPS = sys.argv[1:]
sys.path.insert(0, COMFYUI)
sys.argv = [sys.argv[0], "--cpu"]
import comfy.options  # noqa: E402 - found in the ComfyUI under test

comfy.options.enable_args_parsing()

import utils.install_util  # noqa: E402, F401, I001 -- before nodes.py puts comfy/, with its utils, first on the path
import comfy.ldm.wan.vae  # noqa: E402
import comfy.model_management  # noqa: E402
import comfy.sd  # noqa: E402
import comfy_extras.nodes_wan  # noqa: E402
import torch  # noqa: E402

REPO = Path(__file__).resolve().parents[2]
_spec = importlib.util.spec_from_file_location(
    "wan_flf2v", REPO / "__init__.py", submodule_search_locations=[str(REPO)]
)
sys.modules["wan_flf2v"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sys.modules["wan_flf2v"])

from wan_flf2v.demo.make_models import TINY_VAE, random_weights  # noqa: E402
from wan_flf2v.video import chunks, conditioning_cache, vae_check  # noqa: E402
from wan_flf2v.video.chunks import chunk_bounds, chunk_count  # noqa: E402
from wan_flf2v.video.geometry import video_size  # noqa: E402
from wan_flf2v.video.known_video import Keyframe, KnownVideo  # noqa: E402
from wan_flf2v.video.memo import MemoisedEncoder  # noqa: E402
from wan_flf2v.video.pictures import to_planar_bytes  # noqa: E402
from wan_flf2v.video.vae_decode import DECODES, decode  # noqa: E402
from wan_flf2v.video.vae_encode import encode_first_last  # noqa: E402

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ENDS = {"start and end": (1, 1), "start": (1, 0), "end": (0, 1), "5 start": (5, 0), "5 end": (0, 5), "2 and 7": (2, 7)}
WanVAE, CausalConv3d = comfy.ldm.wan.vae.WanVAE, comfy.ldm.wan.vae.CausalConv3d


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def weights(dim, seed=1, channels=3):
    state_dict = random_weights(WanVAE(**{**TINY_VAE, "dim": dim, "conv_out_channels": channels}).state_dict(), seed)
    return {key: noise(*v.shape, seed=i) * 0.2 if v.ndim == 1 and key.endswith("bias") else v
            for i, (key, v) in enumerate(state_dict.items())}  # fmt: skip


def new_vae(dim=4, dtype="fp32", seed=1):
    return comfy.sd.VAE(sd=weights(dim, seed), dtype=DTYPES[dtype])


def known_video(length, first=1, last=1, width=32, height=16, seed=0):
    size = video_size(width, height)
    start = noise(first, height, width, 3, seed=seed) if first else None
    end = noise(last, height, width, 3, seed=seed + 100) if last else None
    return KnownVideo(start, end, size, length)


def core_encode(vae, video):
    """What the host's own node puts into the conditioning: the latent and the mask."""
    _, _, length, height, width = video.shape
    node = comfy_extras.nodes_wan.WanFirstLastFrameToVideo
    inputs = {"start_image": video.start, "end_image": video.end}
    (positive, *_) = node.execute([[None, {}]], [], vae, width, height, length, 1, **inputs).result
    return positive[0][1]["concat_latent_image"], positive[0][1]["concat_mask"]


def same_as_core(vae, video, how="memoised"):
    latent, mask = core_encode(vae, video)
    ours = encode_first_last(vae, video, how)
    same = torch.equal(ours, latent) and ours.dtype == latent.dtype and bool(torch.isfinite(latent).all())
    return same and torch.equal(video.mask(8), mask)


class Log(logging.Handler):
    """The warnings of the pack, as the user reads them."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines = []
        logging.getLogger("wan_flf2v").addHandler(self)

    def emit(self, record):
        self.lines.append(record.getMessage())

    def take(self):
        lines, self.lines = self.lines, []
        return lines


LOG = Log()


@contextlib.contextmanager
def counted():
    """Yield a list that grows by one for each chunk that the encoder's first convolution computes."""
    calls, forward = [], CausalConv3d.forward

    def counting(self, x, *args, **options):
        if self.in_channels == 3 and x.shape[-1] != vae_check.CHECK_PIXELS:
            calls.append(tuple(x.shape))
        return forward(self, x, *args, **options)

    CausalConv3d.forward = counting
    try:
        yield calls
    finally:
        CausalConv3d.forward = forward


@contextlib.contextmanager
def out_of_memory_above(width, part, times=None):
    """Let the host's encoder or decoder fail as a full GPU does, for anything wider than this, so many times."""
    modules = comfy.ldm.wan.vae
    forward, failures = CausalConv3d.forward, itertools.count()

    def failing(self, x, *args, **options):
        first = self.in_channels == 3 if part == "encode" else self.out_channels == 3
        if first and x.shape[-1] > width and (times is None or next(failures) < times):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return forward(self, x, *args, **options)

    modules.CausalConv3d.forward = failing
    try:
        yield
    finally:
        modules.CausalConv3d.forward = forward


@contextlib.contextmanager
def vae_encode_is(newer):
    """Let the host's VAE have this method, as if its own file had it."""
    original = comfy.sd.VAE.encode
    newer.__code__ = newer.__code__.replace(co_filename=comfy.sd.__file__)
    comfy.sd.VAE.encode = newer
    try:
        yield
    finally:
        comfy.sd.VAE.encode = original


class UnreadableError(Exception):
    """An error of a pack."""


class Opaque(torch.Tensor):
    """A type of weights that cannot be read as bytes, as some packs' quantised ones."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is torch.Tensor.view:
            raise UnreadableError("this type has no view")
        return super().__torch_function__(function, types, args, kwargs)


def encode_cases(lengths, dtypes, ends, dim=4):
    for dtype in dtypes:
        vae = new_vae(dim, dtype)
        for length, end in itertools.product(lengths, ends):
            first, last = ENDS[end]
            yield f"{length} {dtype} {end}", same_as_core(vae, known_video(length, first, last))
    yield "warnings", LOG.take()


class CountsFrames(torch.nn.Module):
    """Gives other values where there are more frames at once, as kernels that are chosen by size may."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x) * (1 + x.shape[2] / 100)


def decode_cases(counts, dtypes, dim=4, counts_frames=False):
    for dtype in dtypes:
        vae = new_vae(dim, dtype)
        if counts_frames:
            vae.first_stage_model.conv2 = CountsFrames(vae.first_stage_model.conv2)
        for count in counts:
            samples = noise(1, 16, count, 2, 3) * 2 - 1
            whole = to_planar_bytes(vae.decode(samples)[0].movedim(-1, 1))
            (clip,) = decode(vae, samples)
            parts = list(clip.parts)
            right = torch.equal(torch.cat(parts), whole) and max(map(len, parts)) <= 2
            sizes = (clip.frames, clip.height, clip.width) == (whole.shape[0], *whole.shape[2:])
            yield f"{count} {dtype}", right and sizes and len(whole.unique()) > 50
    yield "warnings", LOG.take()


def in_small_blocks(counts, counts_frames=False):
    with small_blocks():
        yield from decode_cases(counts, ("fp32",), counts_frames=counts_frames)


def held_cases(counts):
    """How many bytes of new tensors there are at most while a part is read."""
    vae = new_vae(dtype="bf16")
    with small_blocks():
        for count in counts:
            (clip,) = decode(vae, noise(1, 16, count, 2, 3) * 2 - 1)
            gc.freeze()  # what is there already is not counted, nor looked at
            yield str(count), max(bytes_of_tensors() for _ in clip.parts)
            gc.unfreeze()


def small_blocks():
    """The decoder's first layer runs over blocks of four latent frames of 2x3 pixels."""
    return mock.patch.object(chunks, "_BLOCK_PIXELS", 24)


def first_layer_cases():
    """Whether the decoder's first layer, in blocks, makes the host's bits of clips with so many latent frames.

    60x104 pixels are 832x480, where PyTorch takes other kernels for a part of the clip, with threads.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    for dtype in ("fp32", "bf16"):
        model = new_vae(dtype=dtype).first_stage_model
        for count in (1, 43, 127, 128):
            latent = (noise(1, 16, count, 60, 104) * 2 - 1).to(DTYPES[dtype])
            chunk = chunks._first_layer(model, latent, "cpu", DTYPES[dtype])
            made = [chunk(*chunk_bounds(i)) for i in range(chunk_count(count))]
            yield f"{count} {dtype}", torch.equal(torch.cat(made, 2), model.conv2(latent))
    torch.set_num_threads(threads)


def bytes_of_tensors():
    storages = [item.untyped_storage() for item in gc.get_objects() if type(item) is torch.Tensor]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def batch_case(dtype="fp32", size=(4, 6)):
    """Whether the clips of a batch are the same, decoded in either way."""
    vae, samples = new_vae(32, dtype), noise(3, 16, 3, *size) * 2 - 1
    ways = [[torch.cat(list(clip.parts)) for clip in decode(vae, samples, how)] for how in DECODES]
    yield "a batch", all(torch.equal(streamed, whole) for streamed, whole in zip(*ways, strict=True))


def work_cases():
    """How many chunks each layer computes, of how many it is called for."""
    vae = new_vae()
    keyframe = Keyframe(40, noise(1, 16, 32, 3, seed=7))
    videos = {str(length): known_video(length) for length in (81, 141)}
    videos["81, a keyframe at 40"] = replace(known_video(81), keyframes=(keyframe,))
    for name, known in videos.items():
        video = known.whole().movedim(-1, 1).movedim(1, 0).unsqueeze(0) * 2 - 1
        encoder = MemoisedEncoder(vae.first_stage_model)
        encoder.encode(lambda i: video[:, :, slice(*chunk_bounds(i))], chunk_count(known.length))  # noqa: B023
        yield name, encoder.computed


def host_cases():
    """VAEs that are left to the host: the result is the host's and one line says why."""

    def left_to_host(name, vae, how="memoised"):
        LOG.take()
        same = same_as_core(vae, known_video(17), how)
        encode_log = LOG.take()
        samples = noise(1, 16, 3, 2, 3)
        clip = decode(vae, samples)[0]
        whole = to_planar_bytes(vae.decode(samples)[0, ..., :3].movedim(-1, 1))
        same_bytes = torch.equal(torch.cat(list(clip.parts)), whole) and clip[1:3] == tuple(whole.shape[2:])
        return name, [same, same_bytes, encode_log, LOG.take()]

    class CountsChunks(torch.nn.ZeroPad2d):
        """Treats every chunk of a video otherwise and shows it in no cache, so only the self-check can tell."""

        def forward(self, x):
            self.chunk = 1 if x.shape[0] == 1 else self.chunk + 1
            return super().forward(x) * self.chunk

    class OtherVae(comfy.sd.VAE):
        pass

    class Upscaling(comfy.sd.VAE):
        """As the pack of the decoder with 12 channels does it: four pixels of three channels."""

        def decode(self, samples):
            return torch.nn.functional.pixel_shuffle(super().decode(samples).movedim(-1, 2), 2).movedim(2, -1)

    yield left_to_host("as it is", new_vae())
    yield left_to_host("another VAE class", OtherVae(sd=weights(8), dtype=torch.float32))
    vae = new_vae()
    vae.first_stage_model.__class__ = type("WanVAE", (WanVAE,), {"__module__": "another.pack"})
    yield left_to_host("another model class", vae)
    yield left_to_host("a decoder with transparency", comfy.sd.VAE(sd=weights(8, channels=4), dtype=torch.float32))
    yield left_to_host("a decoder of twice the size", Upscaling(sd=weights(8, channels=12), dtype=torch.float32))
    vae = new_vae()
    vae.encode, vae.decode = vae.encode, vae.decode
    yield left_to_host("replaced on the object", vae)
    vae = new_vae()
    vae.first_stage_model.encoder.middle[1].register_forward_hook(lambda module, args, output: output * 1.5)
    yield left_to_host("hooked", vae)
    vae = new_vae()
    key = "encoder.conv1.weight"
    vae.patcher.add_patches({key: ("diff", (noise(*vae.first_stage_model.state_dict()[key].shape),))})
    yield left_to_host("patched weights", vae)
    vae = new_vae()
    vae.first_stage_model.encoder.downsamples[2].resample[0] = CountsChunks((0, 1, 0, 1))
    yield left_to_host("a layer that counts", vae)
    vae = new_vae()
    weight = vae.first_stage_model.encoder.conv1.weight
    vae.first_stage_model.encoder.conv1.weight = torch.nn.Parameter(weight.as_subclass(Opaque), False)
    yield left_to_host("weights of their own type", vae, "cached")
    original = comfy.sd.VAE.encode
    with vae_encode_is(lambda self, pixel_samples, tiles=None: original(self, pixel_samples)):
        yield left_to_host("an argument more that can be left out", new_vae())
    with vae_encode_is(lambda self, pixel_samples, tiles: None):
        yield "an argument more", vae_check.why_not_chunked(new_vae())
    try:
        decode(comfy.sd.VAE(sd=weights(8, channels=12), dtype=torch.float32), noise(1, 16, 3, 2, 3))
    except ValueError as error:
        yield "12 channels", [str(error), LOG.take()]
    original = WanVAE.encode
    WanVAE.encode = lambda self, x: original(self, x)
    yield left_to_host("replaced in the class", new_vae())
    WanVAE.encode = original


def memory_cases():
    """Out of memory: the whole encode of the host if that fits, else its tiles, bit for bit, and one line."""
    vae = new_vae()
    video = known_video(9, width=288, height=16)
    whole = vae.encode(video.whole())
    with out_of_memory_above(256, "encode", times=1):
        yield "encode, the host's fits", [torch.equal(encode_first_last(vae, video), whole), LOG.take()]
    with out_of_memory_above(256, "encode"), counted() as calls:
        tiled = vae.encode(video.whole())
        yield "tiles are another latent", not torch.equal(tiled, whole)
        of_host = len(calls)
        for run in ("encode", "encode again"):
            calls.clear()
            yield run, [torch.equal(encode_first_last(vae, video), tiled), len(calls) - of_host, LOG.take()]
    samples = noise(1, 16, 5, 2, 36)
    whole = to_planar_bytes(vae.decode(samples)[0].movedim(-1, 1))
    with out_of_memory_above(256, "decode"):
        (clip,) = decode(vae, samples)
        try:
            fits = bool(list(clip.parts))
        except torch.cuda.OutOfMemoryError:
            fits = False
        made = torch.cat(list(clip.by_comfyui().parts))
        tiled = to_planar_bytes(vae.decode_tiled(samples, tile_x=32, tile_y=32, overlap=8)[0].movedim(-1, 1))
        yield "decode", [fits, torch.equal(made, tiled), torch.equal(tiled, whole), LOG.take()]


def cache_cases():
    """Which changes encode again, in chunks computed by the first convolution (0: nothing was encoded)."""
    vae = new_vae()

    def computed(name, vae, video, how="cached"):
        with counted() as calls:  # first, while the host has not yet put patches into the weights
            latent = encode_first_last(vae, video, how)
        assert torch.equal(latent, core_encode(vae, video)[0]), name
        latent.zero_()  # what is kept must not change with it
        return name, len(calls)

    yield computed("first", vae, known_video(17))
    yield computed("again", vae, known_video(17))
    for off in ("memoised", "host"):
        yield computed(f"again, {off}", vae, known_video(17), off)
    yield computed("same file loaded again", new_vae(), known_video(17))
    yield computed("other image", vae, known_video(17, seed=1))
    yield computed("other image again", vae, known_video(17, seed=1))
    yield computed("back to the first image", vae, known_video(17))
    yield computed("start only", vae, known_video(17, last=0))
    yield computed("end only", vae, known_video(17, first=0))
    swapped = known_video(17)
    yield computed("images swapped", vae, KnownVideo(swapped.end, swapped.start, swapped.size, 17))
    yield computed("other length", vae, known_video(21))
    yield computed("other size", vae, known_video(17, width=16, height=32))
    yield computed("other weights", new_vae(seed=2), known_video(17))
    yield computed("other dtype", new_vae(dtype="bf16"), known_video(17))
    key = "encoder.conv1.weight"
    patched, strength = new_vae(), noise(*vae.first_stage_model.state_dict()[key].shape)
    patched.patcher.add_patches({key: ("diff", (strength,))})
    yield computed("patched", patched, known_video(17))
    yield computed("patched, again", patched, known_video(17))
    patched.patcher.add_patches({key: ("diff", (strength * 0.5,))})
    yield computed("patched otherwise", patched, known_video(17))
    changed = new_vae()
    yield computed("before a weight is changed in place", changed, known_video(17))
    changed.first_stage_model.encoder.middle[0].residual[2].weight.data[0, 0, 0, 0, 0] += 0.5
    yield computed("after a weight was changed in place", changed, known_video(17))
    seamless = new_vae()
    layer = next(layer for layer in seamless.first_stage_model.modules() if isinstance(layer, torch.nn.Conv2d))
    layer._conv_forward = layer._conv_forward  # as packs for seamless pictures do
    yield computed("code of a layer patched", seamless, known_video(17))
    yield "kept", len(conditioning_cache.CACHE._latents)


CASES = {
    "encode": lambda: [
        *encode_cases((17,), ("fp32",), ENDS),
        *encode_cases((81, 141), ("fp32",), ("start", "2 and 7")),
    ],
    "encode dtypes": lambda: encode_cases((17, 33), ("bf16", "fp16"), ("start and end", "2 and 7")),
    "decode": lambda: [*decode_cases(range(1, 13), ("fp32",)), *batch_case()],
    "decode dtypes": lambda: decode_cases((1, 2, 24), ("bf16", "fp16")),
    "decode, a layer that counts": lambda: in_small_blocks((1, 5, 22), counts_frames=True),
    "decode in blocks": lambda: in_small_blocks((1, 9, 13, 14, 24)),
    "decode, the first layer": first_layer_cases,
    "decode memory": lambda: held_cases((21, 101)),
    "encode all": lambda: encode_cases((17, 33, 81, 141), ("fp32", "bf16"), ENDS, 16),
    "decode all": lambda: decode_cases(range(1, 37), ("fp32", "bf16"), 16),
    "work": work_cases,
    "host": host_cases,
    "memory": memory_cases,
    "cache": cache_cases,
}

if __name__ == "__main__":
    with torch.inference_mode():
        results = {}
        for group in GROUPS:
            LOG.take()
            results[group] = dict(CASES[group]())
    Path(RESULTS).write_text(json.dumps(results))
