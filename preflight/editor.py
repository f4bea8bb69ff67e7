"""What the editor shows on node 57 of a graph that is not queued yet: its schedule, and what preflight finds."""

from __future__ import annotations

from typing import Any

from ..sampling.prelude import STRATEGIES
from ..sampling.schedule import RunSettings
from .checks import Finding, check_sampler
from .plan import plan_steps
from .prompts import Prompt, class_type, has_prelude, linked, node_inputs, number, schedule_shift

_MOST_STEPS = 1000  # a strip of more could not be seen
_NUMBERS = ("steps", "cfg", "handover_step", "boundary", "denoise")
_TEXTS = ("sampler_name", "scheduler", "handover")
# Prompts of versions before the prelude have none of these.
_PRELUDE = {
    "prelude": "steps",
    "prelude_schedule": 20,
    "prelude_steps": 3,
    "prelude_sigma": 0.97,
    "prelude_end": "snap",
}


def view_samplers(prompt: Prompt) -> dict[str, Any]:
    """Return what each node 57 of an API prompt shows, by node id.

    ``steps`` are the run's steps, each with its ``sigma`` and ``expert`` (``"prelude"``, ``"high"`` or
    ``"low"``). There are none where the prompt does not tell them, since sigmas or a setting come from another node.
    ``findings`` are preflight's, errors first: ``error`` (bool), ``text``, and ``node``, the id of the node that it is
    about or null.
    """
    return {node_id: _view(prompt, node_id) for node_id in prompt if class_type(prompt, node_id) == "WanFLF2VSampler"}


def _view(prompt: Prompt, node_id: str) -> dict[str, Any]:
    found = check_sampler(prompt, node_id)
    errors, steps = list(found.errors), ()
    settings = _settings(prompt, node_id)
    if settings is not None:
        try:
            steps, _ = plan_steps(settings)
        except ValueError as error:
            errors.append(Finding(str(error)))
    findings = [(True, finding) for finding in errors] + [(False, finding) for finding in found.warnings]
    return {
        "steps": [{"sigma": step.sigma, "expert": step.expert} for step in steps],
        "findings": [{"error": error, "text": text, "node": text.node_id} for error, text in findings],
    }


def _settings(prompt: Prompt, node_id: str) -> RunSettings | None:
    """Return what makes the node's schedule; ``None`` if the prompt does not tell it, or it is not to be drawn."""
    inputs, shift = node_inputs(prompt, node_id), schedule_shift(prompt, node_id)
    numbers = {name: number(prompt, node_id, name) for name in _NUMBERS}
    texts = {name: inputs.get(name) for name in _TEXTS}
    known = shift is not None and None not in numbers.values() and all(isinstance(text, str) for text in texts.values())
    if not known or linked(inputs.get("sigmas")) is not None or not 1 <= numbers["steps"] <= _MOST_STEPS:
        return None
    prelude = _prelude(prompt, node_id) if has_prelude(prompt, node_id) else {}
    if prelude is None:
        return None
    whole = {name: int(numbers[name]) for name in ("steps", "handover_step")}
    return RunSettings(**{**numbers, **whole}, **texts, shift=shift, **prelude)


def _prelude(prompt: Prompt, node_id: str) -> dict[str, Any] | None:
    """Return the settings of the node's prelude, as ``_settings`` does."""
    inputs, shift = node_inputs(prompt, node_id), schedule_shift(prompt, node_id, "model_prelude")
    told = dict(_PRELUDE)
    for name in inputs.keys() & told.keys():
        told[name] = inputs[name] if isinstance(told[name], str) else number(prompt, node_id, name)
    known = shift is not None and None not in told.values() and isinstance(told["prelude"], str)
    if not known or told["prelude"] not in STRATEGIES or not 1 <= told["prelude_schedule"] <= _MOST_STEPS:
        return None
    whole = {name: int(told[name]) for name in ("prelude_schedule", "prelude_steps")}
    return {**told, **whole, "prelude_shift": shift}
