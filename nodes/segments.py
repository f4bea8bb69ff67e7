"""Several images into the start and end images of segments, as lists that the other nodes go through."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from comfy_api.latest import io

from .notice import show_notice

_SOCKETS = 8


class WanFLF2VSegments(io.ComfyNode):
    """Say which segments a video has: from each image to the next."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanFLF2VSegments",
            display_name="Wan FLF2V Segments",
            category="video/wan flf2v",
            description=(
                "A video through several images: each segment goes from one image to the next. The outputs are lists "
                "with one entry a segment. Connect them as you would single images and a prompt: Wan First Last Frame "
                "(FLF2V) takes each segment, Wan FLF2V Sampler loads each expert once for all of them, and Wan FLF2V "
                "Video Combine with join_segments writes one file."
            ),
            search_aliases=["several images", "multiple images", "long video", "chain videos", "image sequence flf2v"],
            inputs=[
                io.Image.Input("image_1", tooltip="The first image. A batch or a list gives several."),
                *(
                    io.Image.Input(f"image_{number}", optional=True, tooltip="The next image, or several.")
                    for number in range(2, _SOCKETS + 1)
                ),
                io.String.Input(
                    "prompts",
                    default="",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What happens: a line for each segment, or one line for all of them.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="start_images",
                    is_output_list=True,
                    tooltip="For start_image of Wan First Last Frame (FLF2V).",
                ),
                io.Image.Output(
                    display_name="end_images",
                    is_output_list=True,
                    tooltip="For end_image of Wan First Last Frame (FLF2V).",
                ),
                io.String.Output(
                    display_name="prompts", is_output_list=True, tooltip="For text of CLIP Text Encode (Prompt)."
                ),
                io.Int.Output(display_name="segments", tooltip="How many there are, for Wan FLF2V Report."),
            ],
            hidden=[io.Hidden.unique_id],
            is_input_list=True,
        )

    @classmethod
    def execute(cls, prompts: list[str], **batches: list[torch.Tensor]) -> io.NodeOutput:
        in_order = [batches.get(f"image_{number}", []) for number in range(1, _SOCKETS + 1)]
        images = [image for given in in_order for batch in given for image in batch.split(1)]
        segments = len(images) - 1
        if segments < 1:
            raise ValueError(
                f"image_1 to image_{_SOCKETS}: {len(images)} image{'s' * (len(images) != 1)} connected, but a segment "
                "goes from one image to the next. Connect at least 2; for one image alone, use Wan First Last Frame "
                "(FLF2V)."
            )
        sizes = list(dict.fromkeys(f"{image.shape[2]}x{image.shape[1]}" for image in images))
        if len(sizes) > 1:
            text = f"The images have {len(sizes)} sizes ({', '.join(sizes)}): each is fitted to the video, see fit."
            show_notice(cls.hidden.unique_id, text, warning=True)
        return io.NodeOutput(images[:-1], images[1:], prompt_of_each(prompts, segments), segments)


def prompt_of_each(prompts: Sequence[str], segments: int) -> list[str]:
    """Return the prompt of each segment: from a list as it is, from a single text one a line, but for empty lines.

    Raises:
        ValueError: there are neither one nor ``segments``.
    """
    what, found = "prompts", list(prompts)
    if len(prompts) == 1:
        what, found = "lines", [line.strip() for line in prompts[0].splitlines() if line.strip()] or [""]
    if len(found) not in (1, segments):
        raise ValueError(
            f"prompts has {len(found)} {what}, but {segments + 1} images make {segments} "
            f"segment{'s' * (segments > 1)}. "
            "Write one line for each segment, or a single line for all."
        )
    return found * segments if len(found) == 1 else found
