"""``python -m wan_flf2v``: the same as the command ``wan-flf2v``."""

from .client.cli import main

main()
