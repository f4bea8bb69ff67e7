"""Settings from a JSON file and from the environment, for the gateway and the mount alike."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from .settings import Settings

ENVIRONMENT_PREFIX = "WAN_FLF2V_"
_NOT_SETTINGS = ("data",)


class ConfigError(ValueError):
    """A setting cannot be used; the text says which and where it was given."""


def read_settings(data: Path, file: Path | None, **changes: Any) -> Settings:
    """Return the settings of a data folder: the file's, under ``WAN_FLF2V_<NAME>`` variables, under ``changes``.

    ``file`` is a JSON object whose keys are the fields of ``Settings``; lists in the environment are separated by
    commas. Raises ``ConfigError`` for a key that is unknown or a value of another type.
    """
    given = _read_file(file) if file is not None else {}
    for name in Settings.__dataclass_fields__:
        text = os.environ.get(ENVIRONMENT_PREFIX + name.upper())
        if text is not None and name not in _NOT_SETTINGS:
            is_list = name in ("trusted_proxies", "cors_origins")
            given[name] = [part.strip() for part in text.split(",") if part.strip()] if is_list else text
    unknown = set(given) - set(Settings.__dataclass_fields__) | set(given) & set(_NOT_SETTINGS)
    if unknown:
        known = ", ".join(name for name in Settings.__dataclass_fields__ if name not in _NOT_SETTINGS)
        raise ConfigError(f"{file}: there is no setting {', '.join(sorted(unknown))}. There are: {known}.")
    try:
        return TypeAdapter(Settings).validate_python({**given, **changes, "data": data})
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors())
        raise ConfigError(f"Settings ({file or 'environment'}): {'; '.join(problems)}") from error


def _read_file(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigError(f"{file} is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{file} must hold a JSON object.")
    return content
