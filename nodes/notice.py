"""Tell the user something that is not an error: on the node, and in the log."""

from __future__ import annotations

import logging

from server import PromptServer


def show_notice(node_id: str | None, text: str, *, warning: bool = False) -> None:
    """Show ``text`` under the node while it runs and write it to the host's log."""
    logging.getLogger("wan_flf2v").log(logging.WARNING if warning else logging.INFO, "node %s: %s", node_id, text)
    show_text(node_id, text)


def show_text(node_id: str | None, text: str) -> None:
    """Show ``text`` under the node; it stays there until the next."""
    if node_id is not None and PromptServer.instance is not None:
        PromptServer.instance.send_progress_text(text, node_id)
