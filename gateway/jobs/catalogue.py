"""The models of an API: the bundled ones, and those that operators added to the store."""

from __future__ import annotations

from collections.abc import Mapping

from ...contract.parameters import ModelContract
from .store import Store


class Catalogue:
    """Looks models up. The store is asked each time, since any process may add and remove some; ``StoreError``."""

    def __init__(self, store: Store, bundled: Mapping[str, ModelContract]) -> None:
        self._store = store
        self._bundled = bundled

    async def all(self) -> dict[str, ModelContract]:
        """Return all models by id, the bundled ones first."""
        added = {model.model_id: model for model in await self._store.models()}
        return {**self._bundled, **added, **self._bundled}  # a later version may bundle a model of the same id

    async def find(self, model_id: str) -> ModelContract | None:
        """Return a model; ``None`` if there is none."""
        return self._bundled.get(model_id) or (await self.all()).get(model_id)
