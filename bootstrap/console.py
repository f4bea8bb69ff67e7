"""What the set-up says to the person at the terminal, and how it runs the tools it needs."""

import subprocess
import sys
from pathlib import Path


class SetupError(RuntimeError):
    """Something the user can act on; the message is all they need to see."""


def say(line: str) -> None:
    """Report a stage. On standard error, so that standard output stays with the command's own results."""
    sys.stderr.write(f"[wan-flf2v] {line}\n")
    sys.stderr.flush()


def run_tool(failure: str, *command: str | Path) -> None:
    """Run a tool with its output on standard error; SetupError that starts with ``failure`` when it fails."""
    words = [str(word) for word in command]
    code = subprocess.run(words, stdout=2, stdin=subprocess.DEVNULL, check=False).returncode
    if code:
        raise SetupError(f"{failure} (exit code {code}, its reason stands above). The command was: {' '.join(words)}")
