"""What counts as a fault: the numbers that a user may change, with their ranges and their meaning."""

from __future__ import annotations

from dataclasses import Field, dataclass, field, fields
from typing import Any


def _number(default: float, least: float, most: float, step: float, meaning: str) -> Any:
    return field(default=default, metadata={"least": least, "most": most, "step": step, "meaning": meaning})


@dataclass(frozen=True)
class Thresholds:
    """The numbers; ``check`` refuses those outside their ranges."""

    psnr: float = _number(
        22.0, 0, 100, 0.5, "Least PSNR in dB of the first and the last frame against their images; below it fails."
    )
    ssim: float = _number(
        0.7, -1, 1, 0.01, "Least SSIM (structure, 1 is equal) of the first and the last frame; below it fails."
    )
    delta_e: float = _number(
        6.0, 0, 100, 0.5, "Greatest mean CIEDE2000 of the first and the last frame; above it fails. 1 is just visible."
    )
    flash: float = _number(
        0.02,
        0.005,
        1,
        0.005,
        "Least jump of the mean brightness that is a flash if it comes back; 0.02 is 2 % of white.",
    )
    flash_frames: int = _number(3, 1, 5, 1, "Most frames that a flash lasts; what stays longer is a scene.")
    freeze_frames: int = _number(
        4, 2, 1000, 1, "From how many repeated frames in a row on it is a freeze; fewer are duplicates."
    )
    drift: float = _number(
        0.05, 0.005, 1, 0.005, "Least change of a colour in linear light that is a drift; 0.05 is 5 %."
    )
    seam: float = _number(
        1.5, 0.1, 100, 0.1, "Most jump where segments meet: 1 is what 95 % of the steps of the two segments stay below."
    )

    def check(self) -> None:
        """Raise ``ValueError`` for a number outside its range; the message names it and the range."""
        for one in numbers():
            value = getattr(self, one.name)
            least, most = one.metadata["least"], one.metadata["most"]
            if not least <= value <= most:
                raise ValueError(
                    f"{one.name} is {value:g}, but must be from {least:g} to {most:g}. The default is {one.default:g}."
                )


def numbers() -> tuple[Field[Any], ...]:
    """Return the numbers: name, default, and in ``metadata`` least, most, step and meaning."""
    return fields(Thresholds)
