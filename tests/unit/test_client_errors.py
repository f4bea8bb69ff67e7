"""ComfyUI's refusals and failures in words. The data is what 0.30.0 and 0.18.2 send."""

import pytest
from wan_flf2v.client.errors import OutOfMemoryError, RunInterruptedError, explain_failure, explain_rejection

GRAPH = {
    "37": {"class_type": "UNETLoader", "inputs": {}, "_meta": {"title": "High-noise expert"}},
    "57": {"class_type": "WanFLF2VSampler", "inputs": {}, "_meta": {"title": "Sampler"}},
    "71": {"class_type": "WanFLF2VResolution", "inputs": {}, "_meta": {"title": "Resolution"}},
    "7": {"class_type": "SomeLoader", "inputs": {}},
    "8": {"class_type": "DiffusionModelLoaderKJ", "inputs": {}},
    "9": {"class_type": "CLIPVisionLoader", "inputs": {}},
}


def rejected(node_id, *errors):
    return str(explain_rejection(GRAPH, {"type": "prompt_outputs_failed_validation"}, {node_id: {"errors": errors}}))


def not_in_list(name, value, config):
    info = {"input_name": name, "received_value": value, "input_config": config}
    return {"type": "value_not_in_list", "message": "Value not in list", "details": "", "extra_info": info}


def failed(kind, text):
    data = {"node_id": "57", "exception_type": kind, "exception_message": text}
    return explain_failure(GRAPH, data)


def test_missing_model_file_names_the_folder_and_what_is_there():
    needs = 'Node 37 "High-noise expert" needs the model file "x.safetensors", which this ComfyUI does not have. '
    put = "Put it in ComfyUI's models/diffusion_models folder and run again."
    assert rejected("37", not_in_list("unet_name", "x.safetensors", [[], {}])) == needs + put
    assert rejected("37", not_in_list("unet_name", "x.safetensors", None)) == needs + put
    files = [f"{number}.safetensors" for number in range(9)]
    there = " Files that are there: " + ", ".join(files[:8]) + ", …."
    assert rejected("37", not_in_list("unet_name", "x.safetensors", [files, {}])) == needs + put + there
    kj = rejected("8", not_in_list("model_name", "x.safetensors", [[], {}]))
    assert kj.endswith("Put it in ComfyUI's models/diffusion_models folder and run again.")
    unknown = rejected("7", not_in_list("model_name", "x.safetensors", [[], {}]))
    assert "ComfyUI's models/diffusion_models or models/upscale_models folder" in unknown
    assert "models/clip_vision folder" in rejected("9", not_in_list("clip_name", "x", ["COMBO", {"options": ["y"]}]))


def test_another_value_that_is_not_in_the_list():
    text = rejected("57", not_in_list("handover", "late", ["COMBO", {"options": ["boundary", "half"]}]))
    assert text == 'Node 57 "Sampler": handover is "late", which is not one of: boundary, half.'


def test_a_nodes_own_reason_is_said_once_for_all_inputs_it_concerns():
    errors = [
        {"type": "custom_validation_failed", "message": "", "details": f"{name} - width is 541: use 540 or 542."}
        for name in ("width", "height")
    ]
    assert rejected("71", *errors) == 'Node 71 "Resolution": width is 541: use 540 or 542.'


def test_other_problems_keep_comfyuis_words():
    error = {"type": "return_type_mismatch", "message": "Return type mismatch between linked nodes", "details": "model"}
    assert rejected("57", error) == 'Node 57 "Sampler": Return type mismatch between linked nodes: model'
    error = {"type": "invalid_prompt_id", "message": "prompt_id must be a valid UUID", "details": "write it lowercase"}
    text = "ComfyUI refused the workflow: prompt_id must be a valid UUID: write it lowercase."
    assert str(explain_rejection(GRAPH, error, {})) == text
    assert str(explain_rejection(GRAPH, "broken", None)) == "ComfyUI refused the workflow: broken."


def test_missing_nodes_say_which_pack():
    def text(node_id, class_type):
        info = {"node_id": node_id, "class_type": class_type}
        return str(explain_rejection(GRAPH, {"type": "missing_node_type", "extra_info": info}, {}))

    assert text("57", "WanFLF2VSampler") == (
        'The type of node 57 "Sampler", WanFLF2VSampler, is unknown to this ComfyUI. Install the wan-flf2v node pack '
        "in its custom_nodes folder (or update it) and restart ComfyUI."
    )
    assert text("37", "Other").endswith("Install the node pack that brings it, or update ComfyUI, and restart it.")
    assert text("37", None) == "Node 37 of the workflow has no class_type: the workflow is damaged. Export it again."


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("torch.OutOfMemoryError", "CUDA out of memory. Tried to allocate 20 GiB.\n\nThis error means…"),
        ("MemoryError", ""),
        ("RuntimeError", "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        ("RuntimeError", "[enforce fail at alloc_cpu.cpp:100] data. DefaultCPUAllocator: not enough memory"),
        ("torch.AcceleratorError", "CUDA error: out of memory"),
    ],
)
def test_memory_that_ran_out_is_recognised(kind, text):
    error = failed(kind, text)
    assert isinstance(error, OutOfMemoryError)
    reason = text.partition("\n")[0] or kind
    assert str(error) == (
        'ComfyUI ran out of memory at node 57 "Sampler". Choose a smaller size or fewer frames, or close other '
        f"programs that use the memory, and run again. ({reason})"
    )


def test_a_failure_and_an_interruption():
    error = failed("ValueError", "the shifts differ: 5.0 and 8.0\n")
    assert not isinstance(error, OutOfMemoryError)
    assert (str(error), error.node_id) == (
        'Node 57 "Sampler" failed: the shifts differ: 5.0 and 8.0 (ValueError)',
        "57",
    )
    error = explain_failure(GRAPH, {"node_id": "57", "node_type": "WanFLF2VSampler", "executed": []})
    assert isinstance(error, RunInterruptedError)
    assert str(error) == 'The run was stopped on the server at node 57 "Sampler". Run it again.'
