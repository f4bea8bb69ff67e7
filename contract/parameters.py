"""The hosted API's request parameters, as data.

Keys, titles, descriptions, defaults and ranges are those of the public page of the hosted model
``community/wan-2-2/first-last-frame``. A key is ``{node id}_{input name}`` of the workflow; one of them,
``71_widthx71_height``, names two inputs. JSON Schema, command-line options and validation are made from this data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

Value: TypeAlias = str | int | float
ParameterType: TypeAlias = Literal["string", "integer", "float"]

MAX_SEED = 2**64 - 1  # ComfyUI's own limit of noise_seed (comfy_extras/nodes_custom_sampler.py, nodes.py)

_SIZE_LABEL = re.compile(r"(\d+)x(\d+)( |$)")


def parse_size(label: str) -> tuple[int, int]:
    """Return width and height in pixels of a label such as ``"720x1280 (9:16)"``; ``ValueError`` for any other text."""
    match = _SIZE_LABEL.match(label)
    if match is None:
        raise ValueError(f'"{label}" is not a size such as "720x1280 (9:16)".')
    return int(match[1]), int(match[2])


@dataclass(frozen=True)
class NodeInput:
    """One input of one node of the workflow."""

    node_id: str
    name: str


@dataclass(frozen=True)
class Parameter:
    """One request parameter.

    ``type`` is the page's word; its ``float`` is JSON Schema's ``number``. ``minimum`` and ``maximum`` are inclusive.
    ``node_range`` is what the node itself takes where the page gives no range: it is checked, but not part of the
    page's schema. A parameter with two ``inputs`` has labels such as ``"720x1280 (9:16)"`` that fill both.
    """

    key: str
    inputs: tuple[NodeInput, ...]
    title: str
    type: ParameterType
    default: Value
    description: str = ""
    enum: tuple[Value, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    node_range: tuple[int, int] | None = None
    required: bool = False
    is_image: bool = False

    @property
    def range(self) -> tuple[float | None, float | None]:
        """Lowest and highest value that is accepted, ``None`` where there is no limit."""
        return self.node_range or (self.minimum, self.maximum)


@dataclass(frozen=True)
class ModelContract:
    """One model as the API offers it: its id, its parameters and the bundled API workflow they fill.

    ``loaders`` are nodes that take the place of the workflow's own: node id → its ``class_type`` and ``inputs``.
    """

    model_id: str
    display_name: str
    workflow: str
    parameters: tuple[Parameter, ...]
    loaders: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, compare=False)

    def parameter(self, key: str) -> Parameter:
        """Return the parameter called ``key``; ``KeyError`` if there is none."""
        for parameter in self.parameters:
            if parameter.key == key:
                return parameter
        raise KeyError(key)


PROMPT = Parameter(
    key="6_text",
    inputs=(NodeInput("6", "text"),),
    title="Prompt",
    type="string",
    default="Puppy, playing, happy, barking, joyful",
    required=True,
)
START_IMAGE = Parameter(
    key="68_image",
    inputs=(NodeInput("68", "image"),),
    title="Start Image",
    type="string",
    default="Runcomfy_Example_1259_1.png",
    required=True,
    is_image=True,
)
END_IMAGE = Parameter(
    key="62_image",
    inputs=(NodeInput("62", "image"),),
    title="End Image",
    type="string",
    default="Runcomfy_Example_1259_2.png",
    required=True,
    is_image=True,
)
RESOLUTIONS: dict[str, tuple[int, int]] = {
    label: parse_size(label)
    for label in (
        "480x480 (1:1)",
        "720x720 (1:1)",
        "480x720 (2:3)",
        "720x480 (3:2)",
        "540x960 (9:16)",
        "576x1024 (9:16)",
        "720x1280 (9:16)",
        "960x540 (16:9)",
        "1024x576 (16:9)",
        "1280x720 (16:9)",
    )
}  # label -> width and height in pixels
RESOLUTION = Parameter(
    key="71_widthx71_height",
    inputs=(NodeInput("71", "width"), NodeInput("71", "height")),
    title="Resolution (W:H)",
    type="string",
    default="720x720 (1:1)",
    enum=tuple(RESOLUTIONS),
)
LENGTH = Parameter(
    key="67_length",
    inputs=(NodeInput("67", "length"),),
    title="Number of Frames",
    type="integer",
    default=81,
    enum=(81, 141),
)
FRAME_RATE = Parameter(
    key="73_frame_rate",
    inputs=(NodeInput("73", "frame_rate"),),
    title="Frames Per Second",
    type="integer",
    default=16,
    minimum=12,
    maximum=24,
)
SEED = Parameter(
    key="57_noise_seed",
    inputs=(NodeInput("57", "noise_seed"),),
    title="Seed",
    type="integer",
    default=96860978,
    node_range=(0, MAX_SEED),
)
STEPS = Parameter(
    key="57_steps",
    inputs=(NodeInput("57", "steps"),),
    title="Steps",
    description="Number of denoising iterations; more steps refine detail and stability but take longer.",
    type="integer",
    default=20,
    minimum=6,
    maximum=20,
)
CFG = Parameter(
    key="57_cfg",
    inputs=(NodeInput("57", "cfg"),),
    title="Guidance Scale",
    description="Controls how strongly the output adheres to the prompt versus allowing creative variation.",
    type="float",
    default=4,
    minimum=0.6,
    maximum=4,
)
SHIFT = Parameter(
    key="54_shift",
    inputs=(NodeInput("54", "shift"),),
    title="Shift",
    description=(
        "Offsets the diffusion sampling schedule, trading stability for stronger motion/style as the value increases."
    ),
    type="float",
    default=8,
    minimum=1,
    maximum=15,
)

HOSTED = ModelContract(
    model_id="community/wan-2-2/first-last-frame",
    display_name="Wan 2.2 FLF2V",
    workflow="wan22_flf2v",
    parameters=(PROMPT, START_IMAGE, END_IMAGE, RESOLUTION, LENGTH, FRAME_RATE, SEED, STEPS, CFG, SHIFT),
)

# The demo's tiny models make a video in seconds on a CPU: the same keys at sizes that fit them.
DEMO = ModelContract(
    model_id="demo/tiny-wan/first-last-frame",
    display_name="Wan 2.2 FLF2V (tiny demo models)",
    workflow="wan22_flf2v",
    parameters=(
        PROMPT,
        START_IMAGE,
        END_IMAGE,
        replace(RESOLUTION, enum=("128x128 (1:1)", "96x128 (3:4)", "128x96 (4:3)"), default="128x128 (1:1)"),
        replace(LENGTH, enum=(17, 33), default=33),
        FRAME_RATE,
        SEED,
        replace(STEPS, minimum=1, default=6),
        CFG,
        SHIFT,
    ),
    loaders={
        "37": {"inputs": {"unet_name": "tiny_wan_high_noise.safetensors", "weight_dtype": "default"}},
        "56": {"inputs": {"unet_name": "tiny_wan_low_noise.safetensors", "weight_dtype": "default"}},
        "39": {"inputs": {"vae_name": "tiny_wan_vae.safetensors"}},
        "38": {"class_type": "WanFLF2VDemoCLIPLoader", "inputs": {"clip_name": "tiny_umt5.safetensors"}},
    },
)

MODELS: dict[str, ModelContract] = {model.model_id: model for model in (HOSTED, DEMO)}
