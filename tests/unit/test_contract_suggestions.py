"""What is suggested for an unknown key, label or model: what a person would guess, and nothing where they could not."""

import pytest
from wan_flf2v.contract.parameters import HOSTED
from wan_flf2v.contract.suggestions import near
from wan_flf2v.contract.validation import ContractError, validate

REQUIRED = {"6_text": "a dog", "68_image": "a.png", "62_image": "b.png"}
START, END, BOTH = ["68_image"], ["62_image"], ["68_image", "62_image"]
KEYS = {
    # by title or by another API's name
    "prompt": ["6_text"], "text": ["6_text"], "Prompt": ["6_text"], "promt": ["6_text"],
    "start_image": START, "startImage": START, "first_frame": START, "start_image_url": START, "first-frame": START,
    "end_image": END, "endImage": END, "last_image": END, "end_image_url": END, "tail_image": END, "lastFrame": END,
    "image": BOTH, "images": BOTH, "image1": BOTH,
    "resolution": ["71_widthx71_height"], "width": ["71_widthx71_height"], "size": ["71_widthx71_height"],
    "aspect_ratio": ["71_widthx71_height"], "71_width": ["71_widthx71_height"],
    "frames": ["67_length"], "num_frames": ["67_length"], "length": ["67_length"], "lenght": ["67_length"],
    "number_of_frames": ["67_length"], "frame": ["67_length"],
    "fps": ["73_frame_rate"], "frame_rate": ["73_frame_rate"], "framerate": ["73_frame_rate"],
    "frames_per_second": ["73_frame_rate"], "73_fps": ["73_frame_rate"],
    "seed": ["57_noise_seed"], "57_seed": ["57_noise_seed"], "noise_seed": ["57_noise_seed"],
    "steps": ["57_steps"], "num_inference_steps": ["57_steps"], "57_Steps": ["57_steps"], "step": ["57_steps"],
    "cfg": ["57_cfg"], "guidance_scale": ["57_cfg"], "guidance": ["57_cfg"], "cfg_scale": ["57_cfg"],
    "shift": ["54_shift"], "54_shft": ["54_shift"], "flow_shift": ["54_shift"],
    # by the key, with another number or letter
    "62_text": ["6_text"], "6_image": BOTH, "68_images": START, "62_imag": END, "67_lenght": ["67_length"],
    # what nothing here is near to
    "foo": [], "x": [], "": [], "57": [], "57_": [], "negative_prompt": [], "duration": [], "seconds": [], "lora": [],
    "sampler": [], "scheduler": [], "model": [], "strength": [], "quality": [], "webhook": [], "callback_url": [],
    "video": [], "audio": [], "mode": [], "n": [], "user": [], "next": [], "test": [], "id": [], "语": [], "57_foo": [],
    "start_step": [], "end_at_step": [], "crf": [], "format": [], "x" * 5000: [],
}  # fmt: skip


@pytest.mark.parametrize(("given", "keys"), KEYS.items(), ids=lambda value: str(value)[:30])
def test_an_unknown_key_is_met_with_what_is_near_or_nothing(given, keys):
    with pytest.raises(ContractError) as info:
        validate(HOSTED, {**REQUIRED, given: 1})
    meant = " or ".join(f"{key} ({HOSTED.parameter(key).title})" for key in keys)
    expected = (
        f"is not a parameter. Did you mean {meant}? All of them: " if keys else "is not a parameter. All of them: "
    )
    assert expected in str(info.value)


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ("720x720", 'Did you mean "720x720 (1:1)"?'),
        ("1280X720", 'Did you mean "1280x720 (16:9)"?'),
        ("720 x 1280 (9:16)", 'Did you mean "720x1280 (9:16)"?'),
        ("721x720 (1:1)", 'Did you mean "720x720 (1:1)"?'),
        ("foo", 'The default is "720x720 (1:1)".'),
        ("720p", 'The default is "720x720 (1:1)".'),
        ("", 'The default is "720x720 (1:1)".'),
    ],
)
def test_an_unknown_label_too(given, advice):
    with pytest.raises(ContractError) as info:
        validate(HOSTED, {**REQUIRED, "71_widthx71_height": given})
    assert str(info.value).endswith(advice)


def test_no_names_no_suggestion():
    assert near("a", {}) == []
    assert near("a", {"b": ()}) == []
