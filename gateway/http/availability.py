"""Which models can run: what each lacks on ComfyUI, looked up there when a submit, the listing or ``/readyz`` asks."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Mapping

from ...client.comfy import ComfyClient
from ...client.errors import ComfyError
from ...client.offers import find_lacking
from ...contract.parameters import ModelContract
from ...contract.workflow import graph_for
from ..settings import Settings

_LOG = logging.getLogger("wan_flf2v.gateway")
_FRESH_S = 3.0  # an answer is not asked for again
_OLD_S = 60.0  # until then, a model that could run is taken to be there while ComfyUI is asked again
_PATIENCE_S = 1.0  # of a submit; a ComfyUI that is loading a model can take long to answer
_LOOK_S = 5.0


class Availability:
    """What ComfyUI said last. Calls at the same time share one look."""

    def __init__(self, settings: Settings, models: Mapping[str, ModelContract]) -> None:
        self._settings = settings
        self._graphs = {model_id: graph_for(model) for model_id, model in models.items()}
        self._lacking: dict[str, list[str]] = {model_id: [] for model_id in models}
        self._problem: str | None = None
        self._known_at = -math.inf
        self._look: asyncio.Task[None] | None = None

    async def lacking(self, model: ModelContract) -> list[str]:
        """Return what ``model`` lacks on ComfyUI; nothing while ComfyUI does not answer, since it may have all then.

        A model that lacked something is looked for again. Waits a second at most.
        """
        age = time.monotonic() - self._known_at
        if age > _FRESH_S:
            look = self._begin_look()
            if age > _OLD_S or self._lacking[model.model_id]:
                await asyncio.wait((look,), timeout=_PATIENCE_S)
        return self._lacking[model.model_id]

    async def problem(self) -> str | None:
        """Return why ComfyUI can run no request now, ``None`` if it can run one."""
        if time.monotonic() - self._known_at > _FRESH_S:
            await asyncio.wait((self._begin_look(),))
        if self._problem is None and all(self._lacking.values()):
            return "No model of this API can run on this ComfyUI; GET /v1/models says what each lacks."
        return self._problem

    def _begin_look(self) -> asyncio.Task[None]:
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._ask())
        return self._look

    async def _ask(self) -> None:
        lacking: dict[str, list[str]] = {model_id: [] for model_id in self._graphs}
        problem = None
        try:
            lacking = await asyncio.wait_for(self._find_lacking(), _LOOK_S)
        except asyncio.TimeoutError:
            problem = f"ComfyUI did not respond within {_LOOK_S:g} s. It may be loading a model, or hang."
        except ComfyError as error:
            problem = str(error)
        except Exception:  # noqa: BLE001 -- what cannot be understood must not pass for readiness
            _LOG.exception("look at ComfyUI failed")
            problem = "ComfyUI's answer could not be understood. The API's log says more."
        self._lacking, self._problem, self._known_at = lacking, problem, time.monotonic()

    async def _find_lacking(self) -> dict[str, list[str]]:
        url, verify_tls = self._settings.comfyui_url, self._settings.comfyui_verify_tls
        async with ComfyClient(url, verify_tls=verify_tls) as client:
            await client.system_stats()
            return {model_id: await find_lacking(client, graph) for model_id, graph in self._graphs.items()}
