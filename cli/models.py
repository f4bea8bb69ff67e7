"""``wan-flf2v models``: which model files a ComfyUI on this machine has and lacks, and the download of those."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ..client import hub
from ..client.hub import HubError
from ..contract.downloads import VARIANTS, ModelFile
from .model_folders import ModelFolders, find_comfyui
from .progress_bar import ProgressRenderer
from .shared import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, UsageError, err, fail, out, say


class Choice(str, Enum):
    """The variants, as the command line takes them."""

    FP8 = "fp8"
    FP16 = "fp16"
    LIGHTNING = "lightning"
    GGUF = "gguf"


_models = typer.Typer(
    help="The model files that ComfyUI loads: what is missing, and its download. `model` is about the API's models.",
    no_args_is_help=True,
)
_ComfyUI = Annotated[
    Path | None,
    typer.Option(
        "--comfyui",
        metavar="DIR",
        envvar="COMFYUI_PATH",
        help="ComfyUI's folder (default: the one that this pack or the current folder lies in).",
    ),
]
_Variants = Annotated[list[Choice] | None, typer.Option("--variant", help="Which files; repeatable (default: fp8).")]


def add_commands(app: typer.Typer) -> None:
    """Add ``models`` to the command line."""
    app.add_typer(_models, name="models")


@_models.command("list")
def list_models(
    variants: Annotated[
        list[Choice] | None, typer.Option("--variant", help="Which files; repeatable (default: all).")
    ] = None,
    comfyui: _ComfyUI = None,
) -> None:
    """List the files of each variant, their sizes, and which are missing. Asks no server."""
    try:
        root = find_comfyui(comfyui)
        folders = ModelFolders(root) if root else None
    except UsageError as error:
        fail(str(error), EXIT_USAGE)
    for choice in dict.fromkeys(variants or Choice):
        variant = VARIANTS[choice.value]
        rows = [(_state(folders, file), file) for file in variant.files]
        missing = [file for state, file in rows if state == "missing"]
        rest = f"{len(missing)} of {len(rows)} missing, {_size(sum(file.size for file in missing))}"
        total = _size(sum(file.size for file in variant.files))
        _print(f"{choice.value}: {total if folders is None else rest if missing else 'complete'}")
        for state, file in rows:
            _print(f"  {state:9} {_size(file.size):>8}  {file.folder}/{file.name}")
    if folders is None:
        say("No ComfyUI was found here. Name its folder with --comfyui to see what it has.")
    else:
        say(f"ComfyUI is in {folders.root}.")


@_models.command()
def check(variants: _Variants = None, comfyui: _ComfyUI = None) -> None:
    """Read every file and compare its size and SHA-256. Exit code 1 if one is missing or damaged."""
    try:
        folders = _folders(comfyui)
        bad = sum(not _check(folders, file) for file in _files(variants))
    except UsageError as error:
        fail(str(error), EXIT_USAGE)
    except OSError as error:
        fail(str(error), EXIT_FAILED)
    except KeyboardInterrupt:
        fail("Stopped.", EXIT_INTERRUPTED)
    if bad:
        raise typer.Exit(EXIT_FAILED)


@_models.command()
def download(variants: _Variants = None, comfyui: _ComfyUI = None) -> None:
    """Download what is missing into ComfyUI's folders. Ctrl-C stops it; the same command goes on where it was."""
    try:
        folders = _folders(comfyui)
        missing = [file for file in _files(variants) if not _is_there(folders, file)]
        asked = [hub.ask_hub(file) for file in missing]
        _check_disk(folders, asked)
        for place, file in enumerate(asked, 1):
            say(f"{place} of {len(asked)}: {file.name}, {_size(file.size)}, to {folders.target(file.folder)}")
            with ProgressRenderer(err) as bar:
                size = file.size

                def show(done: int, bar: ProgressRenderer = bar, size: int = size) -> None:
                    bar.show("checking", done / size, "Checking the SHA-256")

                path = hub.download(file, folders.target(file.folder), show)
            _print(str(path))
    except UsageError as error:
        fail(str(error), EXIT_USAGE)
    except (HubError, OSError) as error:
        fail(str(error), EXIT_FAILED)
    except KeyboardInterrupt:
        fail("Stopped. Run the same command to go on.", EXIT_INTERRUPTED)
    for name in dict.fromkeys(choice.value for choice in variants or [Choice.FP8]):
        say(f"{name} is complete: press R in ComfyUI, then {VARIANTS[name].use}.")


def _files(variants: Iterable[Choice] | None) -> tuple[ModelFile, ...]:
    chosen = variants or [Choice.FP8]
    return tuple(dict.fromkeys(file for choice in chosen for file in VARIANTS[choice.value].files))


def _folders(comfyui: Path | None) -> ModelFolders:
    root = find_comfyui(comfyui)
    if root is None:
        raise UsageError("No ComfyUI was found here. Name its folder with --comfyui, or run this in it.")
    return ModelFolders(root)


def _state(folders: ModelFolders | None, file: ModelFile) -> str:
    """Say in a word how a file is, by its size; nothing if no ComfyUI is known."""
    if folders is None:
        return ""
    path = folders.find(file.folder, file.name)
    if path is None:
        return "missing"
    return "cut short" if file.sha256 and path.stat().st_size < file.size else "there"


def _print(line: str) -> None:
    out.print(line, markup=False, highlight=False, soft_wrap=True)


def _is_there(folders: ModelFolders, file: ModelFile) -> bool:
    """Return whether a file needs no download; ``UsageError`` if another of its size has its name."""
    path = folders.find(file.folder, file.name)
    if path is None:
        return False
    if file.sha256 and path.stat().st_size != file.size:
        raise UsageError(
            f"{path} has {path.stat().st_size:,} bytes, not {file.size:,}: an unfinished download, or another file. "
            "Delete it or move it away, and run this again."
        )
    say(f"{file.name} is there: {path}")
    return True


def _check(folders: ModelFolders, file: ModelFile) -> bool:
    """Say whether a file is there and right."""
    path = folders.find(file.folder, file.name)
    if path is None:
        say(f"missing  {file.name}, {_size(file.size)}", "red")
        return False
    try:
        known = file if file.sha256 else hub.ask_hub(file)
    except HubError as error:
        say(f"unknown  {path}: {error}", "yellow")
        return True
    with ProgressRenderer(err) as bar:
        fault = hub.find_fault(
            known, path, lambda done: bar.show(file.name, done / known.size, f"Checking {file.name}")
        )
    say(f"damaged  {path}: {fault}. Delete it and download it again." if fault else f"right    {path}")
    return fault is None


def _check_disk(folders: ModelFolders, files: Iterable[ModelFile]) -> None:
    """Raise ``UsageError`` unless every disk has room for what comes to it."""
    needed: dict[int, int] = defaultdict(int)
    places: dict[int, Path] = {}
    for file in files:
        target = folders.target(file.folder)
        place = next(folder for folder in (target, *target.parents) if folder.exists())
        disk = place.stat().st_dev
        places.setdefault(disk, place)
        needed[disk] += max(file.size - hub.unfinished(file, target), 0)
    for disk, place in places.items():
        free = shutil.disk_usage(place).free
        if free < needed[disk]:
            raise UsageError(
                f"{place} has {_size(free)} free, but {_size(needed[disk])} are to be downloaded. Make room, choose a "
                "smaller --variant, or name another disk in ComfyUI's extra_model_paths.yaml."
            )


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
