"""Models as JSON, and contracts from the schemas that APIs show."""

import json
import re
import sys
from dataclasses import replace

import pytest
from wan_flf2v.client.hosted_api import contract_from_schema
from wan_flf2v.contract.added import from_data, to_data
from wan_flf2v.contract.parameters import DEMO, HOSTED, KEYFRAMES, ModelContract, Parameter, seed_in
from wan_flf2v.contract.validation import ContractError, allowed, parse_assignment, validate
from wan_flf2v.gateway.http.schemas import json_schema, page_schema

SWITCH = Parameter("9_on", "On", "boolean", False)
OPEN = Parameter("9_least", "Least", "integer", 0, minimum=0)
MODEL = ModelContract("m", "m", "", (SWITCH, OPEN), graph={"9": {"class_type": "A", "inputs": {"on": False}}})


@pytest.mark.parametrize("model", [HOSTED, DEMO, KEYFRAMES, MODEL], ids=lambda model: model.model_id)
def test_a_model_goes_through_json(model):
    back = from_data(json.loads(json.dumps(to_data(model))))
    assert back == model
    assert hash(back) == hash(model)
    assert (back.graph, back.loaders) == (model.graph, dict(model.loaders))


def test_a_contract_is_made_from_a_schema():
    shown = page_schema(replace(DEMO, graph={}))
    contract = contract_from_schema(DEMO.model_id, json.loads(json.dumps(shown)))
    for one in contract.parameters:
        own = DEMO.parameter(one.key)
        facts = ("title", "type", "default", "description", "enum", "minimum", "maximum", "required", "is_image")
        assert [getattr(one, name) for name in facts] == [getattr(own, name) for name in facts]
    assert contract_from_schema("other", {"properties": {"loras": {"type": "array"}}}).parameters == ()


def test_switches_and_open_ranges():
    assert [allowed(one) for one in MODEL.parameters] == ["true or false", "an integer of 0 or more"]
    assert allowed(replace(OPEN, minimum=None)) == "an integer"
    assert validate(MODEL, {"9_on": True, "9_least": 10**18}) == {"9_on": True, "9_least": 10**18}
    assert parse_assignment(MODEL, "9_on=True") == ("9_on", True)
    for text in ("9_on=yes", "9_on=1"):
        with pytest.raises(ContractError, match="9_on must be true or false, got"):
            parse_assignment(MODEL, text)
    for value, nearest in ((10**400, 2**64 - 1), (1e999, 2**64 - 1), (-1e999, 0)):
        with pytest.raises(ContractError, match=f"9_least must be an integer of 0 or more, got .* is {nearest}."):
            validate(MODEL, {"9_least": value})
    with pytest.raises(ContractError, match=r"9_least must be an integer of 0 or more, got -1. .* nearest .* is 0."):
        validate(MODEL, {"9_least": -1})
    properties = json_schema(MODEL)["properties"]
    assert properties["9_on"]["type"] == "boolean"
    assert properties["9_least"]["minimum"] == 0
    assert "maximum" not in properties["9_least"]


@pytest.mark.parametrize(
    ("value", "nearest"), [(10**400, sys.float_info.max), (-1e999, -sys.float_info.max), (float("nan"), None)]
)
def test_a_number_without_a_range_is_finite(value, nearest):
    model = replace(MODEL, parameters=(Parameter("9_scale", "Scale", "float", 1.0),))
    advice = "The default is 1.0." if nearest is None else f"the nearest allowed one is {nearest}."
    with pytest.raises(ContractError, match=f"9_scale must be a number, got .* {re.escape(advice)}"):
        validate(model, {"9_scale": value})


def test_long_lists_of_choices_are_cut():
    many = Parameter("1_lora", "LoRA", "string", "0", enum=tuple(map(str, range(100))))
    assert allowed(many).endswith('"59" and 40 more, which the model\'s schema lists')


def test_the_seed_is_found_by_its_name():
    assert seed_in({"57_seed_count": 2, "57_noise_seed": 7}) == 7
    assert seed_in({"3_seed": 8}) == 8
    assert seed_in({"57_steps": 4}) is None
