"""Three rounds of the crash bench: the gateway, then ComfyUI, then both are killed under two requests."""

import shutil
from pathlib import Path

import pytest
from wan_flf2v.benchmarks import crash
from wan_flf2v.benchmarks._figures import Options
from wan_flf2v.demo import base


@pytest.mark.timeout(1800)  # six videos, and three starts of ComfyUI: a busy machine takes long
def test_every_accepted_request_ends_once_whatever_is_killed(project_comfyui, demo_models, monkeypatch):
    monkeypatch.setattr(base, "make_models", lambda *_: None)
    monkeypatch.setattr(base, "copy_trained_models", lambda to: shutil.copytree(demo_models, to, dirs_exist_ok=True))
    monkeypatch.setattr(crash, "REQUESTS", 2)
    figures = crash.run(Options(Path(project_comfyui), rounds=3))
    assert {name: figure.value for name, figure in figures.items() if not figure.holds()} == {}
    assert {name: figure.value for name, figure in figures.items()} == {
        "accepted": 6,
        "succeeded": 6,
        "right_end": 6,
        "duplicates": 0,
        "lost": 0,
        "unasked": 0,
        "broken_store": 0,
        "audit_violations": 0,
    }
