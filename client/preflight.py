"""Has a graph checked by the pack on the server before it is queued."""

from __future__ import annotations

import logging

from ..contract.workflow import Graph
from .comfy import ComfyClient
from .errors import PreflightError, ServerAnswerError

_log = logging.getLogger(__name__)


async def check_graph(client: ComfyClient, graph: Graph) -> list[str]:
    """Return the warnings, none if the server's pack is older than this check.

    Raises ``PreflightError``, a line per problem, if the graph cannot give the video, and ``ServerUnreachableError``.
    A check that itself fails on the server stops nobody.
    """
    try:
        findings = await client.preflight(graph)
    except ServerAnswerError as error:
        _log.warning("the check before queueing failed: %s", error)
        return []
    if findings is None:
        return []
    if findings.errors:
        raise PreflightError("\n".join(findings.errors))
    return list(findings.warnings)
