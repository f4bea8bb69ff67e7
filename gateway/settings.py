"""What an operator can set, for the gateway and for the mount alike."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Settings:
    """Settings of one API process. Sizes are bytes, times are seconds."""

    data: Path  # store.sqlite3, results/, inputs/, files/, signing.key, dispatcher.lock
    comfyui_url: str = "http://127.0.0.1:8188"
    comfyui_verify_tls: bool = True  # False: its certificate is its own, not of a known authority
    base_url: str | None = None  # of this API as clients see it, without /v1; None: from the request
    trusted_proxies: tuple[str, ...] = ()  # addresses whose X-Forwarded-* headers count
    auth: bool = True
    mount: bool = True  # serve the API on ComfyUI's own server too; a gateway does not look at this
    demo: bool = False  # offer the demo's tiny model
    allow_private_urls: bool = False  # fetch images from, and send webhooks to, addresses that are not public
    max_body_bytes: int = 64 * MEBIBYTE
    max_image_bytes: int = 50 * MEBIBYTE
    max_image_pixels: int = 89_478_485  # Pillow's own limit against decompression bombs
    fetch_timeout_s: float = 30.0
    queue_limit: int = 100  # requests of one token that may wait
    rate_per_minute: int = 6000  # requests of one token, to one process of the API
    uploads_max_bytes: int = 2 << 30  # of one token, kept at a time
    result_ttl_s: float = 7 * 86400.0
    results_max_bytes: int = 20 << 30
    url_ttl_s: float = 86400.0
    webhook_retry_s: float = 86400.0
    cors_origins: tuple[str, ...] = field(default=())
