"""A run that begins at the hand-over: what is run again, what is not, and that the result is the whole run's."""

import re

import pytest
import torch
from support.demo_graphs import set_inputs
from support.expert_graphs import (
    add_guided,
    add_mask,
    dump_latent,
    patch,
    relative_difference,
    sampler_graph,
    write_lora,
)
from support.in_comfyui import run_cases
from support.segment_graphs import segments_graph
from support.shown import Shown
from wan_flf2v.client.errors import RunFailedError, RunInterruptedError

FIRST_LOW = 2
NOTHING = {}


@pytest.fixture
def host(comfy_server):
    return comfy_server


def base_graph(**inputs):
    return sampler_graph(**{"n57_steps": 4, "n57_handover": "step", "n57_handover_step": FIRST_LOW, **inputs})


def forwards(host, graph, after="57", and_after="57"):
    """Run a graph and return how often the high-noise model ran.

    All of its nodes are in every prompt, since ComfyUI keeps what the last prompt had.
    """
    watch = {"class_type": "WanFLF2VMeasureWatch", "inputs": {"model": ["37", 0], "label": "high"}}
    inputs = {"name": "notes", "after": [after, 0], "and_after": [and_after, 0]}
    host.run({**graph, "watch": watch, "notes": {"class_type": "WanFLF2VMeasureWriteNotes", "inputs": inputs}})
    return forwards_of("high", host.state("notes"))


def forwards_of(model, noted):
    return sum(note.get("event") == "forward" and note["model"] == model for note in noted)


def reused(host, graph):
    """Run node 57 and, beside it, the same with ``resume`` off; returns whether the first reused all or nothing."""
    graph = dict(graph)
    graph["58"] = {"class_type": "WanFLF2VSampler", "inputs": {**graph["57"]["inputs"], "resume": False}}
    dump_latent(graph, "58", "stock")
    made, whole = forwards(host, graph, and_after="58"), graph["57"]["inputs"]["handover_step"]
    assert relative_difference(host) == 0, "resumed or not, the result is the whole run's"
    assert made in (whole, 2 * whole)
    return made == whole


def lora(host, graph, expert, strength=1.0):
    return patch(graph, expert, "LoraLoaderModelOnly", lora_name=write_lora(host), strength_model=strength)


def wrap(graph, expert, factor=0.9):
    return patch(graph, expert, "WanFLF2VTestWrap", kind="predict_noise", factor=factor)


def change(graph, expert, factor):
    graph["changed"] = {"class_type": "WanFLF2VTestChangeModel", "inputs": {"model": ["54", 0], "factor": factor}}
    graph["57"]["inputs"][f"model_{expert}_noise"] = ["changed", 0]


def change_text(graph, added):
    inputs = {"conditioning": ["67", 0], "added": added}
    graph["changed_text"] = {"class_type": "WanFLF2VTestChangeConditioning", "inputs": inputs}
    graph["57"]["inputs"]["positive"] = ["changed_text", 0]


def keyframes(graph, low=1.0):
    inputs = {"images": ["68", 0], "frames": "4", "strength": 1.0, "strength_low_noise": low}
    graph["key"] = {"class_type": "WanFLF2VKeyframes", "inputs": inputs}
    graph["67"]["inputs"]["keyframes"] = ["key", 0]


def sigmas(graph, values):
    graph["sigmas"] = {"class_type": "ManualSigmas", "inputs": {"sigmas": values}}
    graph["57"]["inputs"]["sigmas"] = ["sigmas", 0]


# What is edited between two runs: an edit of the graph for the first run, and one for the second.
HITS = {
    "cfg_low_noise": (NOTHING, lambda host, graph: set_inputs(graph, n57_cfg_low_noise=2.0)),
    "a LoRA": (NOTHING, lambda host, graph: lora(host, graph, "low")),
    "a LoRA's strength": (
        lambda host, graph: lora(host, graph, "low", 0.5),
        lambda host, graph: lora(host, graph, "low", -1.0),
    ),
    "a wrapper": (NOTHING, lambda host, graph: wrap(graph, "low")),
    "how the weights are loaded": (
        NOTHING,
        lambda host, graph: set_inputs(graph, n56_weight_dtype="fp8_e4m3fn"),
    ),
    "a gate that closes in it alone": (
        lambda host, graph: set_inputs(graph, n57_handover_step=1),
        lambda host, graph: set_inputs(graph, n57_handover_step=1, n57_cfg_gate=0.5),
    ),
    "a keyframe's low-noise strength": (
        lambda host, graph: keyframes(graph),
        lambda host, graph: keyframes(graph, low=0.5),
    ),
    "a wrapper without a state on the high-noise model": (
        lambda host, graph: patch(graph, "high", "WanFLF2VTestWrapper", kind="no state"),
        lambda host, graph: wrap(patch(graph, "high", "WanFLF2VTestWrapper", kind="no state"), "low"),
    ),
    "sigmas after the hand-over": (
        lambda host, graph: sigmas(graph, "1, 0.97, 0.9, 0.8, 0"),
        lambda host, graph: sigmas(graph, "1, 0.97, 0.9, 0.7, 0.4, 0"),
    ),
}
MISSES = {
    "the shift": (NOTHING, lambda host, graph: set_inputs(graph, n54_shift=5.0)),
    "a LoRA": (NOTHING, lambda host, graph: lora(host, graph, "high")),
    "a wrapper's number": (lambda host, graph: wrap(graph, "high"), lambda host, graph: wrap(graph, "high", 0.8)),
    "how the weights are loaded": (
        NOTHING,
        lambda host, graph: set_inputs(graph, n37_weight_dtype="fp8_e4m3fn"),
    ),
    "a model changed in place": (
        lambda host, graph: change(graph, "high", 1.0),
        lambda host, graph: change(graph, "high", 0.5),
    ),
    "a text changed in place": (
        lambda host, graph: change_text(graph, 0.0),
        lambda host, graph: change_text(graph, 0.5),
    ),
    "the positive text": (NOTHING, lambda host, graph: set_inputs(graph, n6_text="another text")),
    "the end image": (NOTHING, lambda host, graph: set_inputs(graph, n62_image="start.jpg")),
    "a keyframe's high-noise strength": (
        lambda host, graph: keyframes(graph),
        lambda host, graph: set_inputs(keyframes(graph) or graph, nkey_strength=0.5),
    ),
    "the mask": (NOTHING, lambda host, graph: add_mask(graph)),
    "the length": (NOTHING, lambda host, graph: set_inputs(graph, n67_length=13)),
    "cfg": (NOTHING, lambda host, graph: set_inputs(graph, n57_cfg=3.0, n57_cfg_low_noise=4.0)),
    "a gate that closes in it": (NOTHING, lambda host, graph: set_inputs(graph, n57_cfg_gate=0.5)),
    "the seed": (NOTHING, lambda host, graph: set_inputs(graph, n57_noise_seed=1)),
    "the sampler": (NOTHING, lambda host, graph: set_inputs(graph, n57_sampler_name="dpmpp_2m")),
    "the hand-over": (NOTHING, lambda host, graph: set_inputs(graph, n57_handover_step=1)),
    "denoise": (NOTHING, lambda host, graph: set_inputs(graph, n57_denoise=0.6)),
}


def edited(host, edit):
    graph = base_graph()
    if edit:
        edit(host, graph)
    return graph


@pytest.mark.parametrize("name", HITS)
def test_an_edit_of_the_low_noise_phase_alone_is_a_hit(host, name):
    before, after = HITS[name]
    forwards(host, edited(host, before))
    first = host.tensors("ours")["samples"]
    assert reused(host, edited(host, after))
    assert not torch.equal(host.tensors("ours")["samples"], first), "an edit without effect proves nothing"


@pytest.mark.parametrize("name", MISSES)
def test_an_edit_of_what_the_high_noise_phase_sees_is_a_miss(host, name):
    before, after = MISSES[name]
    forwards(host, edited(host, before))
    assert not reused(host, edited(host, after))


@pytest.mark.parametrize("kind", ["object", "module", "import", "generator"])
def test_a_patch_with_a_state_is_a_miss(host, kind):
    """Its state has moved, or cannot be seen; a whole run would have another result now, so nothing is compared."""
    graph = patch(base_graph(), "high", "WanFLF2VTestWrapper", kind=kind)
    forwards(host, graph)
    assert forwards(host, set_inputs(graph, n57_cfg_low_noise=2.0)) == FIRST_LOW


def test_an_earlier_text_is_a_hit_again(host):
    """Conditioning is told by its content; the MODEL is the same object as long as it stays in the prompt."""
    first = base_graph(n57_noise_seed=5)
    forwards(host, first)
    forwards(host, set_inputs(base_graph(n57_noise_seed=5), n6_text="another text"))
    assert reused(host, set_inputs(first, n57_cfg_low_noise=2.0))


def test_another_seed_runs_alone(host):
    graph = base_graph(n57_noise_seed=6, n57_seed_count=2)
    forwards(host, graph)
    assert forwards(host, set_inputs(graph, n57_seed_count=3, n57_cfg_low_noise=2.0)) == FIRST_LOW
    resumed = host.tensors("ours")["samples"]
    assert forwards(host, set_inputs(graph, n57_resume=False)) == 3 * FIRST_LOW
    assert torch.equal(resumed, host.tensors("ours")["samples"])


def test_a_run_that_failed_in_the_low_noise_phase_goes_on_from_the_hand_over(host):
    graph = patch(base_graph(n57_noise_seed=20), "low", "WanFLF2VTestWrapper", kind="failing")
    with pytest.raises(RunFailedError, match="failed as asked"):
        forwards(host, graph)
    assert forwards(host, base_graph(n57_noise_seed=20)) == FIRST_LOW, "the failed run's, which wrote no notes"


def with_prelude(**inputs):
    """Return 2 prelude steps, 1 with high and 2 with low noise; the first three run on one model's weights."""
    settings = {"steps": 4, "cfg": 1.0, "prelude_steps": 2, "model_prelude": ["37", 0], **inputs}
    return sampler_graph(**{f"n57_{name}": value for name, value in settings.items()})


def prelude_lora(host, graph):
    inputs = {"lora_name": write_lora(host), "strength_model": 1.0, "model": ["37", 0]}
    graph["prelude"] = {"class_type": "LoraLoaderModelOnly", "inputs": inputs}
    graph["57"]["inputs"]["model_prelude"] = ["prelude", 0]


# What is edited after a run with a prelude, and how many of its 2 prelude steps and 1 high-noise step are run again.
PRELUDE_EDITS = {
    "cfg of the low-noise phase": (lambda host, graph: set_inputs(graph, n57_cfg_low_noise=2.0), 0),
    "cfg": (lambda host, graph: set_inputs(graph, n57_cfg=2.0, n57_cfg_low_noise=1.0), 1),
    "a LoRA of the high-noise phase": (lambda host, graph: lora(host, graph, "high"), 1),
    "cfg of the prelude": (lambda host, graph: set_inputs(graph, n57_prelude_cfg=2.0), 3),
    "a LoRA of the prelude": (prelude_lora, 3),
    "the prelude's sigmas": (lambda host, graph: set_inputs(graph, n57_prelude_schedule=19), 3),
    "the positive text": (lambda host, graph: set_inputs(graph, n6_text="another text"), 3),
    "the sampler": (lambda host, graph: set_inputs(graph, n57_sampler_name="heun"), 2 * 2 + 1),
    "the seed": (lambda host, graph: set_inputs(graph, n57_noise_seed=1), 3),
}


@pytest.mark.parametrize("name", PRELUDE_EDITS)
def test_what_comes_before_an_edit_is_reused_with_a_prelude_too(host, name):
    edit, again = PRELUDE_EDITS[name]
    forwards(host, with_prelude())
    first = host.tensors("ours")["samples"]
    graph = with_prelude()
    edit(host, graph)
    assert forwards(host, graph) == again
    resumed = host.tensors("ours")["samples"]
    assert not torch.equal(resumed, first), "an edit without effect proves nothing"
    if again < 2 + 1:
        forwards(host, set_inputs(graph, n57_resume=False))
        assert torch.equal(resumed, host.tensors("ours")["samples"]), "resumed or not, the result is the whole run's"


def test_random_numbers_after_a_prelude_are_those_of_the_whole_run(host):
    """The sampler draws from numpy's generator, which the rest does not seed again."""
    graph = add_guided(with_prelude(), resume=True)
    prelude = {name: value for name, value in graph["57"]["inputs"].items() if "prelude" in name}
    graph["guider"]["inputs"].update(prelude)
    graph["noise"] = {"class_type": "WanFLF2VTestNoise", "inputs": {}}
    graph["sampler"] = {"class_type": "WanFLF2VTestSampler", "inputs": {"kind": "noise numpy"}}
    del graph["57"], graph["dump_ours"]
    forwards(host, graph, "58", "58")
    assert forwards(host, set_inputs(graph, nguider_cfg=2.0, nguider_cfg_low_noise=1.0), "58", "58") == 1
    resumed = host.tensors("stock")["samples"]
    assert forwards(host, set_inputs(graph, nguider_resume=False), "58", "58") == 3
    assert torch.equal(resumed, host.tensors("stock")["samples"])


BEHIND_PRELUDE = {"n57_model_prelude": ["37", 0], "n57_prelude_steps": 2, "n57_handover": "boundary"}
STAGES = {
    # The expert that is interrupted, at which of its calls, settings; calls of both runs together, of either expert.
    "third segment's low noise": ("low", 5, {}, 6, 5 + 2),
    "second segment's high noise": ("high", 3, {}, 3 + 4, 6),
    "third segment's only phase": ("low", 9, {"n57_handover_step": 0}, 0, 9 + 4),
    # Each segment has 2 steps of the prelude and 1 high-noise step, all on one model's weights.
    "third segment's low noise, with a prelude": ("low", 5, BEHIND_PRELUDE, 6 + 3, 5 + 2),
    "second segment's high noise, with a prelude": ("high", 2, BEHIND_PRELUDE, (6 + 2) + 2, 6),
    "second segment's prelude": ("prelude", 3, BEHIND_PRELUDE, 3 + (4 + 3), 6),
}  # fmt: skip


@pytest.mark.parametrize("stage", STAGES)
def test_after_an_interrupt_what_had_finished_is_not_run_again(host, stage):
    """What had not is run whole: of the phase that was interrupted, nothing is left."""
    expert, call, settings, high, low = STAGES[stage]
    graph = segments_graph(4, join=False, n57_steps=4, n57_handover="step", n57_handover_step=2)
    del set_inputs(graph, n57_noise_seed=60 + list(STAGES).index(stage), **settings)["73"]  # nothing is there yet
    patch(graph, expert, "WanFLF2VTestWrapper", kind="interrupting")
    graph["one"] = {"class_type": "RebatchLatents", "inputs": {"latents": ["57", 0], "batch_size": 3}}
    dump_latent(graph, "one", "segments")
    inputs = {"model": ["56", 0], "label": "low"}
    graph["watch_low"] = {"class_type": "WanFLF2VMeasureWatch", "inputs": inputs}
    forwards(host, set_inputs(graph, n57_resume=False), "one", "one")
    whole = host.tensors("segments")["samples"]
    set_inputs(graph, n57_resume=True)
    file = host.base_dir / "output" / "interrupt_at.txt"
    file.write_text(str(call))
    try:
        with pytest.raises(RunInterruptedError):
            forwards(host, graph, "one", "one")
        made = forwards(host, graph, "one", "one"), forwards_of("low", host.state("notes"))
    finally:
        file.unlink()
    assert made == (high, low), "of both runs"
    assert torch.equal(host.tensors("segments")["samples"], whole)


def test_a_run_that_has_finished_leaves_no_results(host):
    """ComfyUI keeps what the node gave; another node with the same inputs runs its low-noise phases."""
    graph = base_graph(n57_noise_seed=30, n57_seed_count=2)
    graph["58"] = {"class_type": "WanFLF2VSampler", "inputs": {**graph["57"]["inputs"], "boundary": 0.8}}  # not used
    dump_latent(graph, "58", "other")
    texts = dict(Shown(host, graph).texts)
    calls = {", ".join(texts[node].splitlines()[0].split(", ")[:2]) for node in ("57", "58")}
    assert calls == {f"high noise {high} model calls, low noise 4 model calls" for high in (0, 4)}


def test_with_resume_off_nothing_is_kept(host):
    forwards(host, base_graph(n57_noise_seed=50, n57_resume=False))
    assert forwards(host, base_graph(n57_noise_seed=50, n57_cfg_low_noise=2.0)) == FIRST_LOW


def test_with_no_room_nothing_is_kept(new_comfy_server, monkeypatch):
    monkeypatch.setenv("WAN_FLF2V_RESUME_MB", "0")
    with new_comfy_server() as host:
        forwards(host, base_graph())
        assert forwards(host, base_graph(n57_cfg_low_noise=2.0)) == FIRST_LOW


@pytest.mark.parametrize(
    ("size", "segments", "needed"),
    [
        ({"n67_length": 33}, 1, 3),  # a record of 2.5 MB: four latents of 16 channels, 9 frames of 32x32
        ({"n67_length": 5}, 3, 2),  # three of 0.6 MB
    ],
)
def test_what_does_not_fit_is_said_once(new_comfy_server, monkeypatch, size, segments, needed):
    monkeypatch.setenv("WAN_FLF2V_RESUME_MB", "1")
    steps = {"n57_steps": 4, "n57_handover": "step", "n57_handover_step": FIRST_LOW}
    graph = segments_graph(segments + 1, n71_width=256, n71_height=256, **steps, **size)
    del graph["73"]  # to decode takes long
    with new_comfy_server() as host:
        forwards(host, graph)
        said = re.findall("not all that steps give is kept .*", host.log_text())
    assert said == [
        "not all that steps give is kept for a later run needed_mb="
        f"{needed} limit_mb=1: set WAN_FLF2V_RESUME_MB to more"
    ]


@pytest.mark.parametrize("sampler", ["dpmpp_sde", "euler"])
def test_a_record_that_does_not_fit_after_all_is_not_played(host, sampler):
    """Brownian noise depends on the last sigma, which the high-noise model is not told."""
    graph = base_graph(n57_sampler_name=sampler, n54_shift=7.0)  # a MODEL that no test has changed in place
    sigmas(graph, "1, 0.97, 0.9, 0.8, 0.1, 0")
    forwards(host, graph)
    sigmas(graph, "1, 0.97, 0.9, 0.8, 0.4, 0")
    graph["58"] = {"class_type": "WanFLF2VSampler", "inputs": {**graph["57"]["inputs"], "resume": False}}
    dump_latent(graph, "58", "stock")
    whole = FIRST_LOW if sampler == "euler" else 2 * FIRST_LOW
    assert forwards(host, graph, and_after="58") == (whole if sampler == "euler" else 2 * whole)
    assert relative_difference(host) == 0


@pytest.mark.parametrize("draw", ["torch", "numpy", "plain"])
def test_the_guider_resumes_where_the_random_states_are_as_they_were(host, draw):
    """The test's noise seeds all generators; RandomNoise seeds PyTorch's alone, so a draw from numpy's is another."""
    for noise in ("WanFLF2VTestNoise", "RandomNoise"):
        graph = add_guided(base_graph(n57_noise_seed=10), resume=True)
        del graph["57"], graph["dump_ours"]
        graph["sampler"] = {
            "class_type": "WanFLF2VTestSampler",
            "inputs": {"kind": draw if draw == "plain" else f"noise {draw}"},
        }
        graph["noise"] = {"class_type": noise, "inputs": {"noise_seed": 10} if noise == "RandomNoise" else {}}
        forwards(host, graph, "58", "58")
        set_inputs(graph, nguider_cfg_low_noise=2.0)
        hit = noise == "WanFLF2VTestNoise" or draw != "numpy"
        assert forwards(host, graph, "58", "58") == (0 if hit else FIRST_LOW)
        if hit:
            resumed = host.tensors("stock")["samples"]
            host.run(set_inputs(graph, nguider_resume=False))
            assert torch.equal(resumed, host.tensors("stock")["samples"])


def test_the_node_says_what_was_reused(host):
    graph = base_graph(n57_noise_seed=11)
    Shown(host, graph)
    shown = Shown(host, set_inputs(graph, n57_cfg_low_noise=2.0))
    last = [text for node, text in shown.texts if node == "57"][-1].splitlines()[0]
    reused_text = "2 steps reused from an earlier run"
    assert re.fullmatch(rf"high noise 0 model calls, low noise 2 model calls, {reused_text}, 0:\d\d in all", last)
    assert [data for kind, data in shown.events if kind == "wan_flf2v.reused"] == [{"node": "57", "text": reused_text}]
    shown = Shown(host, set_inputs(graph, n57_noise_seed=12))
    assert [data["text"] for kind, data in shown.events if kind == "wan_flf2v.reused"] == [""]


def test_the_guider_says_what_was_reused(host):
    graph = add_guided(base_graph(n57_noise_seed=13), resume=True)
    del graph["57"], graph["dump_ours"]
    Shown(host, graph)
    shown = Shown(host, set_inputs(graph, nguider_cfg_low_noise=2.0))
    last = [text for node, text in shown.texts if node == "guider"][-1].splitlines()[0]
    assert last == "high noise 0 model calls, low noise 2 model calls, 2 steps reused from an earlier run"


@pytest.fixture(scope="module")
def cases(comfy_install, tmp_path_factory):
    return run_cases(comfy_install, tmp_path_factory.mktemp("cases"), "resume_cases")


def test_a_fingerprint_tells_each_change(cases):
    for group in ("trusted", "same", "changed", "cannot_tell"):
        assert [name for name, right in cases[f"{group}_cases"].items() if not right] == [], group


def test_the_store_is_bounded(cases):
    assert cases["store_cases"] == {
        "all that fit": ["a", "b"],
        "the oldest goes": ["b", "c"],
        "one above the limit": ["b", "c"],
        "its object is gone": ["c"],
        "a result goes too": ["d", "e"],
        "the limit is 0": [],
        "no number": "the environment variable WAN_FLF2V_RESUME_MB is 'all', but must be a whole number of megabytes, "
        "0 or more (0 keeps nothing). Correct it, or unset it for 1024.",
    }


def test_a_devices_generator_is_put_back(cases):
    assert cases["device_cases"] == {
        f"{kind}: {what}": found
        for kind in ("xpu", "mps")
        for what, found in (("what has drawn", ["device"]), ("put back", 0.0), ("with another's", 1.0))
    }


def test_a_models_buffers_are_released_in_the_hosts_order(cases):
    """Prefetch entries alias the cast buffers, so they go first."""
    assert cases["release_cases"] == {
        "newest": ["prefetch_queues", "cast_buffers", "watermarks"],
        "older": ["cast_buffers", "watermarks"],
        "CPU": [],
    }


def test_experts_sample_in_their_order_whatever_the_runs(cases):
    assert cases["order_cases"] == {
        "one run": ["high", "low"],
        "one expert alone comes first": ["high", "low"],
        "a prelude without high noise": ["prelude", "high", "low"],
    }
