"""Every refusal of the contract, with its exact message."""

import math

import pytest
from wan_flf2v.contract.parameters import DEMO, HOSTED, KEYFRAMES, SEGMENTS
from wan_flf2v.contract.validation import ContractError, parse_assignment, validate

REQUIRED = {"6_text": "a dog", "68_image": "a.png", "62_image": "b.png"}
KEYS = (
    "6_text, 68_image, 62_image, 71_widthx71_height, 67_length, 73_frame_rate, 57_noise_seed, 57_steps, 57_cfg, "
    "54_shift"
)
NEAREST = "Values are never changed for you; the nearest allowed one is"
LABELS = ", ".join(f'"{label}"' for label in HOSTED.parameter("71_widthx71_height").enum)
MAX_SEED = 18446744073709551615
STEPS, CFG, SEED = "an integer from 6 to 20", "a number from 0.6 to 4", f"an integer from 0 to {MAX_SEED}"
FOUR_IMAGES = {f"{node_id}_image": "a.png" for node_id in (68, 63, 64, 62)}
PUPPY, END = "Puppy, playing, happy, barking, joyful", "Runcomfy_Example_1259_2.png"


def refused(values, model=HOSTED):
    with pytest.raises(ContractError) as info:
        validate(model, {**REQUIRED, **values})
    return [(error.loc, error.type, error.msg) for error in info.value.errors]


def test_defaults_complete_a_request_in_the_models_order():
    assert list(validate(HOSTED, REQUIRED).items()) == [
        *(("6_text", "a dog"), ("68_image", "a.png"), ("62_image", "b.png")),
        *(("71_widthx71_height", "720x720 (1:1)"), ("67_length", 81), ("73_frame_rate", 16)),
        *(("57_noise_seed", 96860978), ("57_steps", 20), ("57_cfg", 4), ("54_shift", 8)),
    ]
    assert validate(DEMO, REQUIRED)["67_length"] == 33


def test_the_page_says_which_parameters_must_be_given():
    with pytest.raises(ContractError) as info:
        validate(HOSTED, {"57_steps": 6})
    assert [(error.loc, error.type, error.msg) for error in info.value.errors] == [
        (("6_text",), "missing", "6_text (Prompt) is missing. Give a text."),
        (("68_image",), "missing", "68_image (Start Image) is missing. Give the name of an image."),
        (("62_image",), "missing", "62_image (End Image) is missing. Give the name of an image."),
    ]
    assert str(info.value).splitlines() == [error.msg for error in info.value.errors]


@pytest.mark.parametrize(
    ("key", "given", "taken"),
    [
        ("57_steps", 6, 6),
        ("57_steps", 20, 20),
        ("57_steps", 12.0, 12),
        ("67_length", 141.0, 141),
        ("57_cfg", 0.6, 0.6),
        ("57_cfg", 1, 1.0),
        ("54_shift", 15, 15.0),
        ("57_noise_seed", 0, 0),
        ("57_noise_seed", MAX_SEED, MAX_SEED),
        ("6_text", "", ""),
        ("6_text", "강아지\n\tplays", "강아지\n\tplays"),
    ],
)
def test_values_at_the_edge_are_taken(key, given, taken):
    value = validate(HOSTED, {**REQUIRED, key: given})[key]
    assert (value, type(value)) == (taken, type(taken))


@pytest.mark.parametrize(
    ("key", "value", "kind", "message"),
    [
        ("57_steps", 5, "greater_than_equal", f"must be {STEPS}, got 5. {NEAREST} 6."),
        ("57_steps", 21, "less_than_equal", f"must be {STEPS}, got 21. {NEAREST} 20."),
        ("57_steps", 6.5, "int_type", f"must be {STEPS}, got 6.5. {NEAREST} 6."),
        ("57_steps", True, "int_type", f"must be {STEPS}, got true (a boolean). The default is 20."),
        ("57_steps", "12", "int_type", f'must be {STEPS}, got "12" (a text). The default is 20.'),
        ("57_steps", None, "int_type", f"must be {STEPS}, got null. The default is 20."),
        ("57_steps", [8], "int_type", f"must be {STEPS}, got [8] (a list). The default is 20."),
        ("57_steps", {"a": 1}, "int_type", f'must be {STEPS}, got {{"a": 1}} (an object). The default is 20.'),
        ("73_frame_rate", 11, "greater_than_equal", f"must be an integer from 12 to 24, got 11. {NEAREST} 12."),
        ("67_length", 80, "literal_error", f"must be one of 81, 141, got 80. {NEAREST} 81."),
        ("67_length", 1000, "literal_error", f"must be one of 81, 141, got 1000. {NEAREST} 141."),
        ("67_length", True, "int_type", "must be one of 81, 141, got true (a boolean). The default is 81."),
        ("57_cfg", 0.59, "greater_than_equal", f"must be {CFG}, got 0.59. {NEAREST} 0.6."),
        ("57_cfg", 4.01, "less_than_equal", f"must be {CFG}, got 4.01. {NEAREST} 4."),
        ("57_cfg", math.nan, "finite_number", f"must be {CFG}, got NaN. The default is 4."),
        ("57_cfg", math.inf, "finite_number", f"must be {CFG}, got Infinity. {NEAREST} 4."),
        ("57_cfg", False, "float_type", f"must be {CFG}, got false (a boolean). The default is 4."),
        ("54_shift", "5", "float_type", 'must be a number from 1 to 15, got "5" (a text). The default is 8.'),
        ("57_noise_seed", -1, "greater_than_equal", f"must be {SEED}, got -1. {NEAREST} 0."),
        ("57_noise_seed", 2**64, "less_than_equal", f"must be {SEED}, got 18446744073709551616. {NEAREST} {MAX_SEED}."),
        (
            "71_widthx71_height",
            "720x720",
            "literal_error",
            f'must be one of {LABELS}, got "720x720". Did you mean "720x720 (1:1)"?',
        ),
        ("6_text", 3, "string_type", f'must be a text, got 3. The default is "{PUPPY}".'),
        ("6_text", "a\0b", "control_character", 'must not hold control characters, got "a\\u0000b". Remove them.'),
        ("68_image", "a\nb", "control_character", 'must not hold control characters, got "a\\nb". Remove them.'),
        ("62_image", " ", "empty", f'must be the name of an image, got " ". The default is "{END}".'),
    ],
)
def test_a_bad_value_is_refused_with_a_message_that_helps(key, value, kind, message):
    assert refused({key: value}) == [((key,), kind, f"{key} {message}")]


@pytest.mark.parametrize("model", [HOSTED, DEMO], ids=lambda model: model.model_id)
@pytest.mark.parametrize("key", [parameter.key for parameter in HOSTED.parameters])
@pytest.mark.parametrize("value", [10**400, -(10**400)], ids=["high", "low"])
def test_an_integer_of_400_digits_is_refused_like_any_other(model, key, value):
    """Such an integer fits no float; for every parameter, whatever its type."""
    ((loc, _, message),) = refused({key: value}, model)
    assert loc == (key,)
    parameter = model.parameter(key)
    if parameter.type == "string":
        assert message.endswith(f'The default is "{parameter.default}".')
    else:
        choices = parameter.enum or parameter.range
        assert message.endswith(f"{NEAREST} {max(choices) if value > 0 else min(choices)}.")


@pytest.mark.parametrize(("length", "highest"), [(81, 78), (141, 136)])
def test_a_keyframe_stays_below_the_length(length, highest):
    """Frame 79 of 81 would become 80, which is the end image's."""
    given = {"63_image": "c.png", "67_length": length}
    assert validate(KEYFRAMES, {**REQUIRED, **given, "61_frames": highest})["61_frames"] == highest
    ((loc, kind, _),) = refused({**given, "61_frames": highest + 1}, KEYFRAMES)
    assert (loc, kind) == (("61_frames",), "less_than_equal")
    assert parse_assignment(KEYFRAMES, "61_frames=136") == ("61_frames", 136), "alone it is right"


def test_a_keyframe_behind_the_video_is_told_the_length():
    assert refused({"63_image": "c.png", "61_frames": 100}, KEYFRAMES) == [
        (
            ("61_frames",),
            "less_than_equal",
            "61_frames must be 78 or less where 67_length is 81, got 100. Values are never changed for you: give "
            "another, or a larger 67_length.",
        )
    ]


def test_a_long_value_is_shown_in_part():
    (error,) = refused({"57_steps": "9" * 5000})
    assert error[2] == f'57_steps must be an integer from 6 to 20, got "{"9" * 78}… (a text). The default is 20.'


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [
        ("57_step", "Did you mean 57_steps (Steps)? "),
        ("image", "Did you mean 68_image (Start Image) or 62_image (End Image)? "),
        ("foo", ""),
    ],
)
def test_an_unknown_key_names_what_is_near(key, suggestion):
    message = f'"{key}" is not a parameter. {suggestion}All of them: {KEYS}.'
    assert refused({key: 12}) == [((key,), "extra_forbidden", message)]


def test_of_many_unknown_keys_some_are_listed():
    found = refused({**{f"x{number}": 1 for number in range(500)}, "57_steps": 99})
    assert [error[0][0] for error in found] == ["57_steps", *(f"x{number}" for number in range(21))]
    assert found[-1][2] == '"x20" is not a parameter either; of such keys 480 are not listed. Remove them.'
    assert len(refused({f"x{number}": 1 for number in range(20)})) == 20


def test_all_bad_fields_are_reported_at_once():
    assert [error[0] for error in refused({"57_steps": 99, "67_length": 82, "shift": 5})] == [
        ("67_length",),
        ("57_steps",),
        ("shift",),
    ]


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("57_steps=12", "57_steps", 12),
        (" 57_steps = 12 ", "57_steps", 12),
        ("57_cfg=3.5", "57_cfg", 3.5),
        ("67_length=141", "67_length", 141),
        ("6_text=1 = one", "6_text", "1 = one"),
        ("71_widthx71_height=540x960 (9:16)", "71_widthx71_height", "540x960 (9:16)"),
    ],
)
def test_an_assignment_takes_the_parameters_type(text, key, value):
    parsed = parse_assignment(HOSTED, text)
    assert (parsed, type(parsed[1])) == ((key, value), type(value))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("57_steps=abc", '57_steps must be an integer from 6 to 20, got "abc" (a text). The default is 20.'),
        ("57_steps=", '57_steps must be an integer from 6 to 20, got "" (a text). The default is 20.'),
        ("57_cfg=nan", "57_cfg must be a number from 0.6 to 4, got NaN. The default is 4."),
        ("57_steps", '"57_steps" is not KEY=VALUE. Write it like 54_shift=5.'),
    ],
)
def test_a_bad_assignment_is_refused(text, message):
    with pytest.raises(ContractError) as info:
        parse_assignment(HOSTED, text)
    assert str(info.value) == message


def test_an_assignment_to_an_unknown_key_is_refused():
    with pytest.raises(ContractError, match=r'"54_shft" is not a parameter\. Did you mean 54_shift \(Shift\)\?'):
        parse_assignment(HOSTED, "54_shft=5")


@pytest.mark.parametrize("text", ["one for all", "a\nb\nc", "a\n\n  \nb\r\nc\n"])
def test_a_text_has_one_line_or_as_many_as_there_are_segments(text):
    assert validate(SEGMENTS, {**FOUR_IMAGES, "60_prompts": text})["60_prompts"] == text
    assert parse_assignment(SEGMENTS, f"60_prompts={text}") == ("60_prompts", text)


def test_a_text_with_another_number_of_lines_is_refused():
    with pytest.raises(ContractError) as caught:
        validate(SEGMENTS, {**FOUR_IMAGES, "60_prompts": "a\nb"})
    (error,) = caught.value.errors
    assert (error.loc, error.type) == (("60_prompts",), "line_count")
    assert error.msg == (
        "60_prompts has 2 lines. Give 3 lines, or a single one that is for all; empty lines do not count."
    )
