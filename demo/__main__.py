"""``python3 run.py demo``: starts ComfyUI with the tiny models and makes a small video."""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
from pathlib import Path

from ..bootstrap.server import ComfyServer, ServerError
from ..cli.progress_bar import ProgressRenderer
from ..cli.shared import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, out, say
from ..client.comfy import ComfyClient
from ..client.errors import ComfyError
from ..client.images import ImageError, check_image
from ..client.run import run_graph
from ..contract.parameters import DEMO, END_IMAGE, PROMPT, START_IMAGE
from ..contract.validation import ContractError, validate
from ..contract.workflow import fill, graph_for, ui_form
from .base import IMAGES, prepare_demo
from .contact_sheet import contact_sheet
from .gallery import gallery

# The transitions that the demo's models have learnt (training/transitions.py).
WORDS = ("dissolve", "circle", "wipe left", "wipe right", "slide left", "slide right", "zoom in")


def main() -> int:
    """Run the demo; returns the exit code (0 done, 1 failed, 2 bad input, 130 Ctrl-C)."""
    args = _parse_arguments()
    base_dir = args.cache / "demo"
    try:
        prepare_demo(base_dir, args.comfyui)
        if args.prepare_only:
            print(base_dir)
            return 0
        for image in (args.start, args.end):
            check_image(image)
        if args.gallery:
            videos = {word: args.out / f"{word.replace(' ', '_')}.mp4" for word in WORDS}
        else:
            videos = {args.prompt: args.out / "demo.mp4"}
        images = {START_IMAGE.key: "start", END_IMAGE.key: "end"}
        runs = [(validate(DEMO, {PROMPT.key: prompt, **images}), video) for prompt, video in videos.items()]
        args.out.mkdir(parents=True, exist_ok=True)
        _say(f"Starting ComfyUI on the CPU ({args.comfyui})")
        server = ComfyServer(args.comfyui, Path(sys.executable), base_dir, extra_args=("--cpu", "--disable-api-nodes"))
        with server:
            seconds = [asyncio.run(_make_video(server.url, values, args.start, args.end, to)) for values, to in runs]
        if args.gallery:
            gallery(videos, args.out / "gallery.webp")
            _say(f"{args.out / 'gallery.webp'}  {len(videos)} videos side by side, made in {sum(seconds):.1f} s")
        else:
            _report(args.out, args.start, args.end, seconds[0])
        return 0
    except KeyboardInterrupt:
        _say("Stopped.")
        return EXIT_INTERRUPTED
    except (ImageError, ContractError) as error:
        say(str(error), "red")
        return EXIT_USAGE
    except (ComfyError, ServerError, OSError, subprocess.CalledProcessError) as error:
        say(str(error), "red")
        return EXIT_FAILED


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="run.py demo", description="Make a small video on tiny demo models.")
    parser.add_argument("--comfyui", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--start", type=Path)
    parser.add_argument("--end", type=Path)
    parser.add_argument("--prompt")
    parser.add_argument("--gallery", action="store_true")
    parser.add_argument("--prepare-only", action="store_true")
    args = parser.parse_args()
    if (args.start is None) != (args.end is None):
        parser.error("--start and --end go together: give both, or neither for the demo's photographs")
    if args.gallery and args.prompt:
        parser.error("--gallery makes a video for every word: leave out --prompt")
    args.prompt = args.prompt or str(DEMO.parameter(PROMPT.key).default)
    if args.start is None:
        args.start, args.end = IMAGES / "start.jpg", IMAGES / "end.jpg"
    return args


async def _make_video(url: str, values: dict, start: Path, end: Path, target: Path) -> float:
    """Queue the bundled workflow on the demo models, save the file, and return the server's seconds for it."""
    async with ComfyClient(url) as client:
        images = {START_IMAGE.key: await client.upload_image(start), END_IMAGE.key: await client.upload_image(end)}
        graph = fill(graph_for(DEMO), DEMO, {**values, **images})
        with ProgressRenderer(out) as show:
            form = ui_form(DEMO.workflow, graph)
            result = await run_graph(client, graph, on_progress=show, workflow=form)
        await client.download(result.files[0], target)
    return result.seconds


def _report(out: Path, start: Path, end: Path, seconds: float) -> None:
    video, sheet = out / "demo.mp4", out / "demo.png"
    facts = contact_sheet(video, start, end, sheet)
    _say(f"{video}  {facts.frames} frames, {facts.width}x{facts.height}, {facts.fps:g} fps, made in {seconds:.1f} s")
    _say(f"{sheet}  start image, frames of the video, end image")
    _say(f"The demo's models are tiny and know seven words; try another with --prompt: {', '.join(WORDS)}.")


def _say(text: str) -> None:
    out.print(text, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
