"""The request parameters of each model, as data: key, title, default, range, longest text, the inputs a key names.

Keys, titles, descriptions, defaults and ranges are those of the public page of the hosted model
``community/wan-2-2/first-last-frame``. A key such as ``57_steps`` names a node and its input in the workflow;
``71_widthx71_height`` names two. JSON Schema, command-line options and validation are made from this data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, TypeAlias

from .downloads import LORAS

Value: TypeAlias = str | int | float
ParameterType: TypeAlias = Literal["string", "integer", "float", "boolean"]
Makes: TypeAlias = Literal["video", "image"]

IMAGE_FORMAT = "image-reference"  # JSON Schema's format of a parameter that takes an image
MAX_PROMPT_CHARACTERS = 20_000  # the text encoder reads 512 tokens; a longer text is no prompt
MAX_SEED = 2**64 - 1  # ComfyUI's own limit of noise_seed (comfy_extras/nodes_custom_sampler.py, nodes.py)

_SEEDS = ("noise_seed", "seed")  # what nodes call it
_BETWEEN_INPUTS = re.compile(r"x(?=\d+_)")  # in 71_widthx71_height
_SIZE_LABEL = re.compile(r"(\d+)x(\d+)( |$)")


def parse_size(label: str) -> tuple[int, int]:
    """Return width and height in pixels of a label such as ``"720x1280 (9:16)"``; ``ValueError`` for any other text."""
    match = _SIZE_LABEL.match(label)
    if match is None:
        raise ValueError(f'"{label}" is not a size such as "720x1280 (9:16)".')
    return int(match[1]), int(match[2])


class NodeInput(NamedTuple):
    """One input of one node of the workflow."""

    node_id: str
    name: str


def inputs_named(key: str) -> tuple[NodeInput, ...]:
    """Return the inputs that a key names: one for ``57_steps``, two for ``71_widthx71_height``."""
    parts = (part.partition("_") for part in _BETWEEN_INPUTS.split(key))
    return tuple(NodeInput(node_id, name) for node_id, _, name in parts)


@dataclass(frozen=True)
class Parameter:
    """One request parameter.

    ``type`` is the page's word; its ``float`` is JSON Schema's ``number``. ``minimum`` and ``maximum`` are inclusive.
    ``node_range`` is what the node itself takes where the page gives no range: it is checked, but not part of the
    page's schema. ``below`` is another parameter's key, and how far below that one's value this one must stay:
    no schema can say it. A text with ``lines`` has one line or so many; empty ones do not count. A key with two inputs
    has labels such as ``"720x1280 (9:16)"`` that fill both. ``aliases`` are names that other APIs have for it: a
    request with one of them is refused and told the key.
    """

    key: str
    title: str
    type: ParameterType
    default: Value
    description: str = ""
    enum: tuple[Value, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    node_range: tuple[int, int] | None = None
    below: tuple[str, int] | None = None
    lines: int | None = None
    required: bool = False
    is_image: bool = False
    aliases: tuple[str, ...] = ()

    @property
    def inputs(self) -> tuple[NodeInput, ...]:
        """The node inputs that the key names: ``57_steps`` is input ``steps`` of node 57."""
        return inputs_named(self.key)

    @property
    def range(self) -> tuple[float | None, float | None]:
        """Lowest and highest accepted value, ``None`` where there is no limit."""
        return self.node_range or (self.minimum, self.maximum)


@dataclass(frozen=True)
class ModelContract:
    """One model as the API offers it: its id, its parameters and the API workflow they fill.

    ``workflow`` is a bundled one, ``loaders`` replaces nodes of it: node id → the ``class_type`` and ``inputs`` to use.
    ``slots`` are nodes that it has bypassed, node id → the inputs that no parameter sets: such a node is in the graph
    where a parameter of it is not 0. A model that an operator added, at ``added_at`` (Unix seconds), has a ``graph`` in
    its place. ``output_node`` is the id of the node that saves what the model ``makes``, a file named after its input
    ``filename_prefix``.
    """

    model_id: str
    display_name: str
    workflow: str
    parameters: tuple[Parameter, ...]
    loaders: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, compare=False)
    slots: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, compare=False)
    description: str = "Two images, the first and the last frame, and a prompt become a video."
    graph: Mapping[str, Mapping[str, Any]] | None = field(default=None, compare=False)
    added_at: float = 0.0
    output_node: str = "73"
    makes: Makes = "video"

    @property
    def category(self) -> str:
        """What goes in and what comes out: ``image-to-video``, ``text-to-image``, …"""
        return f"{'image' if any(parameter.is_image for parameter in self.parameters) else 'text'}-to-{self.makes}"

    def parameter(self, key: str) -> Parameter:
        """Return the parameter called ``key``; ``KeyError`` if there is none."""
        for parameter in self.parameters:
            if parameter.key == key:
                return parameter
        raise KeyError(key)


def seed_in(values: Mapping[str, Value]) -> Value | None:
    """Return the value of the first key that names a seed; ``None`` if there is none."""
    return next((value for key, value in values.items() if inputs_named(key)[0].name in _SEEDS), None)


PROMPT = Parameter(
    key="6_text",
    title="Prompt",
    type="string",
    default="Puppy, playing, happy, barking, joyful",
    required=True,
    aliases=("positive_prompt", "text_prompt"),
)
START_IMAGE = Parameter(
    key="68_image",
    title="Start Image",
    type="string",
    default="Runcomfy_Example_1259_1.png",
    required=True,
    is_image=True,
    aliases=("first_image", "first_frame", "start_frame"),
)
END_IMAGE = Parameter(
    key="62_image",
    title="End Image",
    type="string",
    default="Runcomfy_Example_1259_2.png",
    required=True,
    is_image=True,
    aliases=("last_image", "last_frame", "end_frame", "tail_image"),
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
    title="Resolution (W:H)",
    type="string",
    default="720x720 (1:1)",
    enum=tuple(RESOLUTIONS),
    aliases=("size", "video_size", "aspect_ratio"),
)
LENGTH = Parameter(
    key="67_length",
    title="Number of Frames",
    type="integer",
    default=81,
    enum=(81, 141),
    aliases=("frames", "num_frames", "frame_count"),
)
FRAME_RATE = Parameter(
    key="73_frame_rate",
    title="Frames Per Second",
    type="integer",
    default=16,
    minimum=12,
    maximum=24,
    aliases=("fps",),
)
SEED = Parameter(
    key="57_noise_seed",
    title="Seed",
    type="integer",
    default=96860978,
    node_range=(0, MAX_SEED),
)
STEPS = Parameter(
    key="57_steps",
    title="Steps",
    description="Number of denoising iterations; more steps refine detail and stability but take longer.",
    type="integer",
    default=20,
    minimum=6,
    maximum=20,
    aliases=("num_inference_steps", "sampling_steps"),
)
CFG = Parameter(
    key="57_cfg",
    title="Guidance Scale",
    description="Controls how strongly the output adheres to the prompt versus allowing creative variation.",
    type="float",
    default=4,
    minimum=0.6,
    maximum=4,
    aliases=("guidance", "cfg_scale"),
)
SHIFT = Parameter(
    key="54_shift",
    title="Shift",
    description=(
        "Offsets the diffusion sampling schedule, trading stability for stronger motion/style as the value increases."
    ),
    type="float",
    default=8,
    minimum=1,
    maximum=15,
    aliases=("flow_shift", "sampling_shift"),
)

HOSTED = ModelContract(
    model_id="community/wan-2-2/first-last-frame",
    display_name="Wan 2.2 FLF2V",
    workflow="wan22_flf2v",
    parameters=(PROMPT, START_IMAGE, END_IMAGE, RESOLUTION, LENGTH, FRAME_RATE, SEED, STEPS, CFG, SHIFT),
)

# The other templates, as models. Which files they load, only the operator chooses.
_LORA_STRENGTH = Parameter(
    key="91_strength_model", title="LoRA Strength (High Noise)", type="float", default=1, minimum=0, maximum=2
)
FOUR_STEPS = ModelContract(
    model_id="wan-flf2v/4-steps",
    display_name="Wan 2.2 FLF2V, 4 steps",
    workflow="wan22_flf2v_4_steps_lora",
    parameters=(
        *(PROMPT, START_IMAGE, END_IMAGE, RESOLUTION, LENGTH, FRAME_RATE, SEED),
        replace(STEPS, minimum=4, maximum=8, default=4),  # what the LoRAs were made for
        replace(CFG, default=1),
        replace(SHIFT, default=5),
        _LORA_STRENGTH,
        replace(_LORA_STRENGTH, key="92_strength_model", title="LoRA Strength (Low Noise)"),
        Parameter(
            key="57_prelude",
            title="Prelude",
            description="steps: the base model, without LoRA, makes the first steps, against slow motion.",
            type="string",
            default="none",
            enum=("none", "steps"),
        ),
        Parameter(
            key="57_prelude_steps",
            title="Prelude Steps",
            description="Steps of the prelude, out of 20; without a prelude they have no effect.",
            type="integer",
            default=3,
            minimum=1,
            maximum=6,  # at shift 5, the seventh would end where no step of the high-noise expert is left
        ),
    ),
)
# The workflows of the models below have a place for a 4-step LoRA on each expert.
_HIGH_LORA, _LOW_LORA = LORAS
_SLOTS = {"91": {"lora_name": _HIGH_LORA.name}, "92": {"lora_name": _LOW_LORA.name}}
_SLOT_PARAMETERS = tuple(
    replace(
        _LORA_STRENGTH,
        key=f"{node_id}_strength_model",
        title=f"4-Step LoRA Strength ({expert} Noise)",
        description="0: no LoRA. 1, on both experts, is for 4 to 8 steps, a guidance scale of 1 and a shift of 5; "
        f"{file.name} must be there.",
        default=0,
    )
    for node_id, expert, file in (("91", "High", _HIGH_LORA), ("92", "Low", _LOW_LORA))
)
_AFTER_LENGTH = (FRAME_RATE, SEED, replace(STEPS, minimum=4), CFG, SHIFT, *_SLOT_PARAMETERS)
_STRENGTH = Parameter(
    key="61_strength", title="Keyframe Strength (High Noise)", type="float", default=1, minimum=0, maximum=1
)
KEYFRAMES = ModelContract(
    model_id="wan-flf2v/keyframes",
    display_name="Wan 2.2 FLF2V, keyframes",
    workflow="wan22_flf2v_keyframes",
    description="A video from the start to the end image that passes through one more image on the way.",
    parameters=(
        PROMPT,
        START_IMAGE,
        replace(START_IMAGE, key="63_image", title="Image on the Way", aliases=("middle_image", "keyframe")),
        END_IMAGE,
        Parameter(
            key="61_frames",
            title="Frame of the Image on the Way",
            description="Counted from 0; it becomes the nearest multiple of 4. It must be at least 3 less than the "
            "number of frames, so that it lies before the end image.",
            type="integer",
            default=40,
            minimum=4,
            maximum=136,  # the last before the end of the longest video
            below=("67_length", 3),  # frame 79 of 81 would become 80, which is the end image's
            aliases=("keyframe_index",),
        ),
        _STRENGTH,
        replace(_STRENGTH, key="61_strength_low_noise", title="Keyframe Strength (Low Noise)"),
        *(RESOLUTION, LENGTH, *_AFTER_LENGTH),
    ),
    slots=_SLOTS,
)
SEGMENTS = ModelContract(
    model_id="wan-flf2v/segments",
    display_name="Wan 2.2 FLF2V, several images",
    workflow="wan22_flf2v_several_images",
    description="Four images and a prompt for each of the three segments between them become one video.",
    parameters=(
        Parameter(
            key="60_prompts",
            title="Prompts",
            description="One line for each segment; a single line is for all of them.",
            type="string",
            default="The puppy runs to the beach\nThe puppy jumps into the water\nThe puppy shakes itself dry",
            required=True,
            lines=3,
            aliases=("prompt", "prompts"),
        ),
        *(
            replace(START_IMAGE, key=f"{node_id}_image", title=f"Image {number}", aliases=(f"image_{number}",))
            for number, node_id in enumerate(("68", "63", "64", "62"), 1)
        ),
        RESOLUTION,
        replace(LENGTH, description="Of each segment. A frame that two of them share is there once: 81 makes 241."),
        *_AFTER_LENGTH,
    ),
    slots=_SLOTS,
)
LOOP = ModelContract(
    model_id="wan-flf2v/loop",
    display_name="Wan 2.2 FLF2V, loop",
    workflow="wan22_flf2v_loop",
    description="One image and a prompt become a video that begins again where it ends.",
    parameters=(
        PROMPT,
        replace(START_IMAGE, title="Image", aliases=("start_image", *START_IMAGE.aliases)),
        RESOLUTION,
        replace(LENGTH, description="The last one is the image again, and is left out: 81 makes 80."),
        *_AFTER_LENGTH,
    ),
    slots=_SLOTS,
)

# The demo's tiny models make a video in seconds on a CPU: the same keys at values that fit them. They know the words
# of seven transitions (demo/models/README.md), and were not trained for guidance, so cfg is 1.
DEMO = ModelContract(
    model_id="demo/tiny-wan/first-last-frame",
    display_name="Wan 2.2 FLF2V (tiny demo models)",
    workflow="wan22_flf2v",
    parameters=(
        replace(PROMPT, default="circle"),
        START_IMAGE,
        END_IMAGE,
        replace(RESOLUTION, enum=("128x128 (1:1)", "96x128 (3:4)", "128x96 (4:3)"), default="128x128 (1:1)"),
        replace(LENGTH, enum=(17, 33), default=33),
        FRAME_RATE,
        SEED,
        replace(STEPS, minimum=1, default=6),
        replace(CFG, default=1),
        SHIFT,
    ),
    loaders={
        "37": {"inputs": {"unet_name": "demo_wan22_high_noise.safetensors", "weight_dtype": "default"}},
        "56": {"inputs": {"unet_name": "demo_wan22_low_noise.safetensors", "weight_dtype": "default"}},
        "39": {"inputs": {"vae_name": "demo_wan_vae.safetensors"}},
        "38": {"class_type": "WanFLF2VDemoCLIPLoader", "inputs": {"clip_name": "tiny_umt5.safetensors"}},
    },
)

DEMO_WORKFLOW = "wan22_flf2v_demo"  # what the editor and the command line call the workflow on these models

MODELS: dict[str, ModelContract] = {
    model.model_id: model for model in (HOSTED, FOUR_STEPS, KEYFRAMES, SEGMENTS, LOOP, DEMO)
}
