"""The settings of the API: name, default and meaning of each, read from a JSON file and ``WAN_FLF2V_*`` variables."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

MEBIBYTE = 1 << 20
COMFYUI = "http://127.0.0.1:8188"


class ConfigError(ValueError):
    """A setting cannot be used; the text says which one and where it was given."""


@dataclass(frozen=True)
class NatsAccess:
    """How NATS is reached: its address, and the files of a user and of certificates, as ``Settings`` has them."""

    url: str = field(repr=False)
    credentials: Path | None = None
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


class Settings(BaseSettings):
    """Settings of one API process. Sizes are bytes, times are seconds."""

    model_config = SettingsConfigDict(env_prefix="WAN_FLF2V_", frozen=True)

    data: Path
    """The folder of results/, inputs/, signing.key, store.sqlite3 and dispatcher.lock. Comes from ``--data`` only."""
    nats_url: str | None = None
    """The address of NATS, nats://HOST:PORT[/NAME], if the store is on its JetStream and not in the data folder's file.

    An empty text is none. Several servers are separated by commas. NAME is the fleet's, where several share the
    servers. Each gateway of a fleet has a data folder for itself. ComfyUI's own API, mounted there, does not read this.
    """
    nats_credentials: Path | None = None
    """The file with the JWT and the key of NATS's user, as ``nsc`` writes it (``.creds``)."""
    nats_ca: Path | None = None
    """The certificate authority that must have signed NATS's certificate (PEM). By default the system's."""
    nats_certificate: Path | None = None
    """The certificate that is shown to NATS (PEM)."""
    nats_key: Path | None = None
    """The key of that certificate (PEM), if it is not in the same file."""
    comfyui_url: str | tuple[str, ...] | None = None
    """The address of ComfyUI, or of several. A name with several IP addresses is several.

    By default http://127.0.0.1:8188; with ``nats_url`` none, as workers connect to NATS themselves.
    """
    nats_monitor_url: str | tuple[str, ...] = ()
    """The monitoring port of NATS, http://HOST:8222, or those of several servers: what ``sync_interval`` is."""
    comfyui_verify_tls: bool = True
    """Whether ComfyUI's certificate is checked. On the loopback address it never is."""
    comfyui_tokens: tuple[SecretStr, ...] = ()
    """Bearer tokens for reverse proxies in front of ComfyUI: one for all addresses, or one for each in their order."""
    worker_lost_after_s: float = 120.0
    """How long a ComfyUI may be silent, with others there, until its request runs on another one."""
    max_wait_s: float = 3600.0
    """How long no request of a token may start, though one waits, until the next one comes before all others."""
    base_url: str | None = None
    """The API's address as clients see it, without /v1. By default it is taken from each request."""
    trusted_proxies: tuple[str, ...] = ()
    """The addresses of reverse proxies whose X-Forwarded-* headers count."""
    auth: bool = True
    """Whether a request needs a token."""
    mount: bool = True
    """Whether ComfyUI's server has the API too. ``wan-flf2v serve`` does not read this."""
    demo: bool = False
    """Whether the demo's tiny model is offered."""
    allow_private_urls: bool = False
    """Whether images are fetched from, and webhooks are sent to, addresses that are not public."""
    max_body_bytes: int = 64 * MEBIBYTE
    """The largest body of a request."""
    max_image_bytes: int = 50 * MEBIBYTE
    """The largest image file."""
    max_image_pixels: int = 89_478_485
    """The most pixels of an image. The default is Pillow's limit against decompression bombs."""
    fetch_timeout_s: float = 30.0
    """How long the fetch of an image, or the call of a webhook, may take."""
    queue_limit: int = 100
    """How many requests of one token may wait."""
    rate_per_minute: int = 6000
    """How many requests a minute one token may make to one process of the API."""
    uploads_max_bytes: int = 2 << 30
    """How much one token may keep uploaded at a time."""
    result_ttl_s: float = 7 * 86400.0
    """How long results and uploads are kept."""
    results_max_bytes: int = 20 << 30
    """How much space all results may take. The oldest are deleted first."""
    url_ttl_s: float = 86400.0
    """How long the address of a result file works."""
    webhook_retry_s: float = 86400.0
    """How long a webhook is tried again."""
    cors_origins: tuple[str, ...] = ()
    """The origins whose pages may call the API (CORS)."""

    @property
    def comfyui_urls(self) -> tuple[str, ...]:
        """The addresses of all ComfyUIs, each once."""
        if self.comfyui_url is None:
            return () if self.nats_url else (COMFYUI,)
        return _each(self.comfyui_url)

    @property
    def nats_monitor_urls(self) -> tuple[str, ...]:
        """The monitoring ports of NATS, each once."""
        return _each(self.nats_monitor_url)

    @property
    def nats(self) -> NatsAccess | None:
        """How NATS is reached; ``None`` if the store is in the data folder's file."""
        if not self.nats_url:
            return None
        return NatsAccess(self.nats_url, self.nats_credentials, self.nats_ca, self.nats_certificate, self.nats_key)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *_: Any,
        **others: Any,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)  # read_settings puts the variables over the file


def _each(given: str | tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((given,) if isinstance(given, str) else given))


class _Environment(EnvSettingsSource):
    def decode_complex_value(self, field_name: str, field: Any, value: Any) -> Any:
        return [part.strip() for part in value.split(",") if part.strip()]


def read_settings(data: Path, file: Path | None, **changes: Any) -> Settings:
    """Return the settings: ``changes`` win over ``WAN_FLF2V_<NAME>`` variables, which win over the file.

    ``file`` is a JSON object whose keys are the names of settings. A list in a variable is separated by commas.
    Raises ``ConfigError`` for an unknown key or a value of the wrong type.
    """
    in_file = _read_file(file) if file is not None else {}
    known = [name for name in Settings.model_fields if name != "data"]
    if unknown := set(in_file) - set(known):
        raise ConfigError(f"{file}: there is no setting {', '.join(sorted(unknown))}. There are: {', '.join(known)}.")
    try:
        return Settings(**{**in_file, **_Environment(Settings)(), **changes, "data": data})
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
