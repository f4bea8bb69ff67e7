"""Prompts: the sentences around a transition's word, and their text encodings by the demo's text encoder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from ..contract.parameters import DEMO
from ..contract.workflow import graph_for
from ..wan import TEXT_TOKENS
from .transitions import TRANSITIONS

# A model that saw one sentence alone would not know the word in another.
SENTENCES = (
    "{word}",
    "{word}, smooth motion",
    "a {word} from the first picture to the second",
    "{word} between two photographs, high quality",
    "video of a {word}",
    "the picture changes with a {word}, smooth motion, high quality",
)
NEGATIVE = graph_for(DEMO)["7"]["inputs"]["text"]
UNNAMED = ("", "smooth motion, high quality", "two photographs", NEGATIVE)


class Prompts:
    """The encoded prompts: ``named[word]`` and ``unnamed`` are lists of [tokens, 4096], padding left out."""

    def __init__(self, clip: Any) -> None:
        self.named = {
            word: [encode(clip, sentence.format(word=word)) for sentence in SENTENCES] for word in TRANSITIONS
        }
        self.unnamed = [encode(clip, text) for text in UNNAMED]

    def draw(self, word: str, generator: torch.Generator) -> torch.Tensor:
        """Return a prompt that names ``word``; one in ten does not, so that any other prompt gives some transition."""
        choose_from = self.unnamed if float(torch.rand((), generator=generator)) < 0.1 else self.named[word]
        return choose_from[int(torch.randint(len(choose_from), (), generator=generator))]


def demo_clip(comfyui: Path, models: Path) -> Any:
    """Return the demo's text encoder, made below ``models`` if it is not there, as ComfyUI's CLIP object."""
    import comfy.utils

    from ..demo.base import make_models
    from ..demo.pack import load_tiny_umt5

    make_models(comfyui, Path(sys.executable), models, "text_encoders")
    return load_tiny_umt5(comfy.utils.load_torch_file(str(models / "text_encoders/tiny_umt5.safetensors")))


@torch.no_grad()
def encode(clip: Any, text: str) -> torch.Tensor:
    """Return the prompt's encoding without its padding, [tokens, 4096], by ComfyUI's CLIP object."""
    encoded = clip.encode_from_tokens(clip.tokenize(text))[0].float()
    used = int(encoded.abs().amax(-1).gt(0).sum())
    return encoded[:used].clone()


def batch_of(prompts: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return prompts padded to the longest plus one, [batch, tokens, 4096], and the bias of their attention logits.

    All padding tokens are alike, so one of them with the logarithm of their number added to its logit gives the same
    attention as all. The bias is [batch, 1, 1, tokens]; tokens that a shorter prompt lacks get minus infinity.
    """
    longest = max(len(prompt) for prompt in prompts) + 1
    context = torch.zeros(len(prompts), longest, prompts[0].shape[-1])
    bias = torch.full((len(prompts), 1, 1, longest), float("-inf"))
    for row, prompt in enumerate(prompts):
        context[row, : len(prompt)] = prompt
        bias[row, ..., : len(prompt)] = 0.0
        bias[row, ..., len(prompt)] = torch.log(torch.tensor(float(TEXT_TOKENS - len(prompt))))
    return context, bias
