"""The plan as text: the node's and the command line's table of steps, work and memory."""

from __future__ import annotations

from collections.abc import Iterator

from ..wan import TRAIN_TIMESTEPS
from .plan import ExpertPlan, Plan

_MIB, _GIB = 1 << 20, 1 << 30


def to_text(plan: Plan) -> str:
    """Return the plan as lines to read: video, schedule with the hand-over, work, memory, then what to look at."""
    return "\n".join(
        [*_video(plan), *_segments(plan), *_schedule(plan), *_work(plan), *_memory(plan), *_findings(plan)]
    )


def summary(plan: Plan) -> str:
    """Return the plan in one line."""
    experts = f"{plan.count('high')} high noise, {plan.count('low')} low noise from sigma {plan.handover_sigma:.4f}"
    return f"{len(plan.steps)} steps: {_prelude(plan)}{experts}"


def _prelude(plan: Plan) -> str:
    count = plan.count("prelude")
    sigmas = [*(step.sigma for step in plan.steps), plan.final_sigma]
    return f"{count} prelude to sigma {sigmas[count]:.4f}, " if count else ""


def _video(plan: Plan) -> Iterator[str]:
    video = plan.video
    size, generated = (video.width, video.height), (video.generated_width, video.generated_height)
    cropped = f", generated at {generated[0]}x{generated[1]} and cropped" if size != generated else ""
    snapped = f" ({video.length} is not 4n+1)" if video.length != video.frames else ""
    yield (
        f"Video       {size[0]}x{size[1]}{cropped}; {video.frames} frames{snapped} at "
        f"{video.frame_rate:g} fps, {video.seconds:.2f} s"
    )
    frames, height, width = video.latent_shape
    yield f"Latent      {frames} frames of {height}x{width}, {video.tokens:,} tokens"


def _segments(plan: Plan) -> Iterator[str]:
    count, video = plan.video.segments, plan.video
    if count == 1:
        return
    experts = sum(expert.steps > 0 for expert in plan.experts)
    seconds = (video.joined_frames - 1) / video.frame_rate
    yield f"Segments    {count}, joined {video.joined_frames} frames, {seconds:.2f} s; what follows is one segment's"
    last = "last frame" if video.shared_frames == 1 else f"last {video.shared_frames} frames"
    if video.shared_frames == 1:  # else no segment begins with an image
        kept = f", {_size(plan.record_bytes * count)} of records" if plan.record_bytes else ""
        yield f"  images    from image to image, all phase by phase: {experts} loads of experts in all{kept}"
    yield f"  carried   each begins with the {last} of the one before: {experts} loads a segment"


def _schedule(plan: Plan) -> Iterator[str]:
    sampling = plan.sampling
    denoise = f", denoise {sampling.denoise:g}" if sampling.denoise and sampling.denoise < 1 else ""
    yield f"Sampler     {sampling.sampler_name}, {sampling.scheduler}, shift {sampling.shift:g}{denoise}"
    rule = {
        "boundary": f"boundary {sampling.boundary:g}: timestep {sampling.boundary * TRAIN_TIMESTEPS:g}",
        "step": f"step {sampling.handover_step}",
        "half": "half of the steps",
    }[sampling.handover]
    if plan.count("prelude"):
        ends = {"snap": "its last one ends at the next sigma of the rest", "exact": "they end where they do there"}
        yield (
            f"Prelude     the first {plan.count('prelude')} of {sampling.prelude_schedule} steps at shift "
            f"{sampling.prelude_shift:g}; {ends[sampling.prelude_end]}"
        )
    yield f"Hand-over   {summary(plan)} ({rule})"
    yield ""
    yield "step   sigma  timestep  expert"
    for step in plan.steps:
        yield f"{step.index:>4}  {step.sigma:.4f}  {step.timestep:>8.1f}  {step.expert}"
    yield f" end  {plan.final_sigma:.4f}"
    yield ""


def _work(plan: Plan) -> Iterator[str]:
    assumed = " (dimensions of Wan 14B assumed: no file tells them)" if plan.assumed_14b else ""
    yield f"Work        {_tflop(plan.tflop_per_forward)} a forward pass{assumed}"
    for expert in plan.experts:
        yield (
            f"  {expert.expert:<9} {expert.steps} steps at cfg {expert.cfg:g}: {expert.forwards} forward passes, "
            f"{_tflop(expert.tflop)}"
        )
    yield f"  total     {sum(expert.forwards for expert in plan.experts)} forward passes, {_tflop(plan.tflop)}"


def _memory(plan: Plan) -> Iterator[str]:
    yield f"Memory      by the files' headers and this ComfyUI's own estimate for its device, {plan.device}"
    for expert in plan.experts:
        yield f"  {expert.expert:<9} {_device_memory(expert)}"
    needed = "unknown: no files chosen" if plan.ram_bytes is None else f"{_size(plan.ram_bytes)}, all files chosen"
    if plan.mapped_bytes:
        copied = f"{_size(plan.ram_bytes or 0)} of the files chosen"
        needed = f"{copied}; the other {_size(plan.mapped_bytes)} are mapped, and read again where memory is short"
    if plan.record_bytes:
        record = f"{plan.count('high')} predictions of the high-noise expert, kept for the low-noise one's phase"
        yield f"  record    {_size(plan.record_bytes)}: {record}"
    yield f"  RAM       {needed}; {_size(plan.available_ram_bytes)} available"


def _device_memory(expert: ExpertPlan) -> str:
    if expert.file is None:
        return "no file chosen"
    if expert.weight_bytes is None:
        return f"{expert.file}: unknown"
    dtypes = ", ".join(f"{dtype} {_size(size)}" for dtype, size in expert.weight_bytes_by_dtype.items())
    weights = f"{_size(expert.weight_bytes)} weights{f' ({dtypes})' if dtypes else ''}"
    if expert.activation_bytes is None or expert.vram_bytes is None:
        return f"{expert.file}: {weights}; the rest is unknown, this file does not tell its dimensions"
    activations = f"{_size(expert.activation_bytes)} activations"
    return f"{expert.file}: {_size(expert.vram_bytes)} on the device = {weights} + {activations}"


def _findings(plan: Plan) -> Iterator[str]:
    for kind, texts in (("Error", plan.errors), ("Warning", plan.warnings)):
        for text in texts:
            yield f"{kind:<12}{text}"


def _size(size: int) -> str:
    return f"{size / _GIB:.2f} GiB" if size >= _GIB / 10 else f"{size / _MIB:.1f} MiB"


def _tflop(count: float) -> str:
    return f"{count:,.0f} TFLOP" if count >= 100 else f"{count:.3g} TFLOP"
