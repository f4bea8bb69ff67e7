"""The official hand-over rule over many schedules, against a reference that shares no code with the product."""

import json

import pytest
from support.demo_graphs import demo_graph, only
from wan_flf2v.benchmarks._rule import CASES, STATED, high_noise_steps


@pytest.mark.parametrize(("case", "stated"), STATED.items())
def test_the_reference_gives_what_the_rule_states(case, stated):
    assert high_noise_steps(*case, "simple") == stated


def test_every_case_hands_over_where_the_rule_says(comfy_server):
    assert len(CASES) >= 200
    cases = [(steps, shift, "euler", scheduler) for steps, shift, scheduler in CASES]
    inputs = {"model": ["37", 0], "cases": json.dumps(cases), "name": "rule"}
    graph = {**only(demo_graph(), "37"), "1": {"class_type": "WanFLF2VMeasureSchedules", "inputs": inputs}}
    comfy_server.run(graph)
    steps = [found["step"] for found in comfy_server.state("rule")]
    wrong = {case: step for case, step in zip(CASES, steps, strict=True) if step != high_noise_steps(*case)}
    assert wrong == {}
    # In timesteps, as the official code has it: a high-noise step's is 900 or more, the next one's is less.
    for found in comfy_server.state("rule"):
        timesteps = [sigma * 1000 for sigma in found["sigmas"][:-1]]
        assert all(timestep >= 899.999 for timestep in timesteps[: found["step"]])
        assert all(timestep < 900 for timestep in timesteps[found["step"] :])
