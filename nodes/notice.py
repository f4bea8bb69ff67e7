"""Notices and warnings for the user: shown under a node, and written to ComfyUI's log."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from server import PromptServer

_LOG = logging.getLogger("wan_flf2v.nodes")


def show_notice(node_id: str | None, text: str, *, warning: bool = False, warnings: Sequence[str] = ()) -> None:
    """Show ``text``, and ``warnings`` below it, under the node while it runs and write them to the log."""
    _LOG.log(logging.WARNING if warning else logging.INFO, "notice node=%s: %s", node_id, text)
    for line in warnings:
        _LOG.warning("notice node=%s: %s", node_id, line)
    show_text(node_id, "\n".join([text, *warnings]))


def show_text(node_id: str | None, text: str) -> None:
    """Show ``text`` under the node; it stays there until the next."""
    if node_id is not None and PromptServer.instance is not None:
        PromptServer.instance.send_progress_text(text, node_id)


def show_reused(node_id: str | None, text: str) -> None:
    """Show in the editor, below the node's schedule, what of the last run was reused; an empty text removes it."""
    if node_id is not None and PromptServer.instance is not None:
        PromptServer.instance.send_sync("wan_flf2v.reused", {"node": node_id, "text": text})
