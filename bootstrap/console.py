"""The set-up's messages on the terminal, its error, and how it runs other tools."""

import subprocess
import sys
from pathlib import Path


class SetupError(RuntimeError):
    """An error that the user can act on; only its message is shown."""


def say(line: str) -> None:
    """Report a stage on standard error; standard output is for the command's results."""
    sys.stderr.write(f"[wan-flf2v] {line}\n")
    sys.stderr.flush()


def run_tool(failure: str, *command: str | Path) -> None:
    """Run a tool with its output on standard error; if it fails, SetupError that starts with ``failure``."""
    words = [str(word) for word in command]
    code = subprocess.run(words, stdout=2, stdin=subprocess.DEVNULL, check=False).returncode
    if code:
        raise SetupError(f"{failure} (exit code {code}, see its output above). The command was: {' '.join(words)}")
