"""What the tests say of those that this machine cannot run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
WITHOUT_A_BROWSER = """
import pytest
from wan_flf2v.bootstrap import browser as machine

machine.PLACES = ()


@pytest.mark.parametrize("renderer", ["classic", "nodes 2.0"])
def test_the_editor(browser, renderer):
    raise AssertionError


def test_the_page(browser):
    raise AssertionError
"""


def test_without_a_browser_each_of_its_tests_is_named_with_the_reason(tmp_path):
    shutil.copy(TESTS / "browser" / "conftest.py", tmp_path)
    (tmp_path / "test_browser.py").write_text(WITHOUT_A_BROWSER)
    settings = ["-c", TESTS.parent / "pyproject.toml", "-o", f"pythonpath={TESTS}", "-p", "no:cacheprovider"]
    command = [sys.executable, "-I", "-m", "pytest", "-q", *settings, tmp_path]
    env = {**os.environ, "PATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path, check=True)
    names = ("test_the_editor[classic]", "test_the_editor[nodes 2.0]", "test_the_page")
    lines = [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
    assert len(lines) == len(names)
    for name, line in zip(names, lines, strict=True):
        assert f"::{name} - Skipped: NOT RUN: there is no Chromium, Chrome or Edge" in line
