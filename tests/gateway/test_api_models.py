"""The model listing, the schemas, and the OpenAPI document."""

import json
from pathlib import Path

import pytest
from wan_flf2v.contract.parameters import DEMO, HOSTED, LOOP, MODELS

ALL = list(MODELS)
PAGE = json.loads((Path(__file__).parent / "page_schemas.json").read_text())


def test_a_model_has_the_pages_schemas_word_for_word(demo_gateway):
    model = demo_gateway.get(f"/v1/models/{HOSTED.model_id}").json
    assert model["model_id"] == "community/wan-2-2/first-last-frame"
    assert model["input_schema"] == PAGE["input_schema"]
    assert model["output_schema"] == PAGE["output_schema"]
    assert list(model["input_schema"]["properties"]) == list(PAGE["input_schema"]["properties"])
    assert model["input_schema"]["properties"]["57_cfg"]["type"] == "float"


def test_the_listing_has_models_and_a_total(demo_gateway):
    answer = demo_gateway.get("/v1/models").json
    assert set(answer) == {"models", "total"}
    assert answer["total"] == len(MODELS)
    assert [model["model_id"] for model in answer["models"]] == ALL
    assert len({model["description"] for model in answer["models"]}) == 4
    for model in answer["models"]:
        assert {"model_id", "display_name", "categories"} <= set(model)
        assert "input_schema" not in model
        assert model["available"], "ComfyUI is down: it may have all files when it is back"
        assert "reason" not in model


@pytest.mark.parametrize(
    ("query", "ids", "total"),
    [
        ("search=TINY", [DEMO.model_id], 1),
        ("search=first-last%20wan", [HOSTED.model_id, DEMO.model_id], 2),
        ("search=LOOP", [LOOP.model_id], 1),
        ("search=flux", [], 0),
        ("category=image-to-video", ALL, len(ALL)),
        ("category=text-to-image", [], 0),
        ("kind=workflow&limit=1", [HOSTED.model_id], len(ALL)),
        ("kind=lora", [], 0),
        ("limit=1&offset=5", [DEMO.model_id], len(ALL)),
        ("offset=6", [], len(ALL)),
    ],
)
def test_the_listing_is_searched_and_paged(demo_gateway, query, ids, total):
    answer = demo_gateway.get(f"/v1/models?{query}").json
    assert [model["model_id"] for model in answer["models"]] == ids
    assert answer["total"] == total


def test_the_categories_are_listed(demo_gateway):
    """The vendor's command line asks for them."""
    assert demo_gateway.get("/v1/models/categories").json == {"categories": ["image-to-video"]}
    assert demo_gateway.get("/v1/models/categories", token=None).status == 401
    assert demo_gateway.post("/v1/models/categories").headers["Allow"] == "GET,HEAD", "it is no model"


@pytest.mark.parametrize("true", ["true", "True", "1"])
def test_the_listing_can_have_the_schemas(demo_gateway, true):
    models = demo_gateway.get(f"/v1/models?include_schema={true}").json["models"]
    assert models[0]["input_schema"] == PAGE["input_schema"]
    assert models[-1]["input_schema"]["properties"]["67_length"]["enum"] == [17, 33]


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "offset=-1", "include_schema=perhaps"])
def test_a_bad_query_is_400(demo_gateway, query):
    answer = demo_gateway.get(f"/v1/models?{query}")
    assert (answer.status, answer.code) == (400, 400001)


def test_the_openapi_document_has_real_json_schema(demo_gateway):
    answer = demo_gateway.get("/v1/openapi.json", token=None)
    document = answer.json
    assert document["openapi"].startswith("3.1")
    post = document["paths"][f"/v1/models/{HOSTED.model_id}"]["post"]
    reference = post["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    schema = document["components"]["schemas"][reference.rsplit("/", 1)[1]]
    types = {key: value["type"] for key, value in schema["properties"].items()}
    assert set(types.values()) == {"string", "integer", "number"}
    assert types["57_cfg"] == types["54_shift"] == "number"
    assert schema["additionalProperties"] is False
    for key, page in PAGE["input_schema"]["properties"].items():
        for name in ("enum", "minimum", "maximum", "default", "title"):
            if name in page:
                assert schema["properties"][key][name] == page[name], (key, name)
