"""Where node 73's files go: ComfyUI's folders, free names in them, what a killed ComfyUI left."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import folder_paths

from ..video import names
from ..video.geometry import SIZE_MAX


def remove_leftovers() -> None:
    """Remove what a ComfyUI that was killed left half written."""
    names.remove_leftovers(notes())


def notes() -> Path:
    """Return the folder where each unfinished file is noted."""
    return Path(folder_paths.get_user_directory()) / "wan_flf2v" / "unfinished"


@contextlib.contextmanager
def reserved_place(
    prefix: str, size: tuple[int, int], suffix: str, in_output: bool = True
) -> Iterator[tuple[Path, str]]:
    """Reserve the next free name of a prefix as ``names.reserved`` does; give its path and its subfolder.

    Folders are made if they are not there.

    Raises:
        OSError: there can be no file; the message says where.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder, name, counter, subfolder = _free_place(prefix, *size, in_output)
            path = stack.enter_context(names.reserved(folder, name, counter, suffix, notes()))
        except OSError as error:
            raise OSError(error.errno, _closed(prefix, str(error))) from error
        yield path, subfolder


def _free_place(prefix: str, width: int, height: int, in_output: bool = True) -> tuple[Path, str, int, str]:
    """Return the folder (made if it is not there), the name in it, the first free counter, and the subfolder."""
    root = folder_paths.get_output_directory() if in_output else folder_paths.get_temp_directory()
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, root, width, height)
    return Path(folder), name, counter, subfolder


def _closed(prefix: str, reason: str) -> str:
    return (
        f"filename_prefix is {prefix!r}, but no file can be made there: {reason}. Let the user that runs ComfyUI write "
        "there, use another name, or start ComfyUI with another --output-directory."
    )


def _find_places(prefix: str, suffix: str) -> list[Path]:
    """Return what a file of this prefix and its folders are called, and the file in them, without making a folder.

    Raises as ComfyUI does for a place outside its output folder. A name is looked at directly in that folder, which is
    there: in a folder that is not, no system says that a name is too long.
    """
    parts = Path(os.path.normpath(prefix)).parts
    if not parts or parts[0] == os.pardir or Path(prefix).anchor:
        _free_place(prefix, SIZE_MAX, SIZE_MAX)
    output = Path(folder_paths.get_output_directory())
    *folders, name = (
        _free_place(part, SIZE_MAX, SIZE_MAX)[1] for part in parts or (prefix,)
    )  # ComfyUI fills in %date%
    names_alone = [*(output / folder for folder in folders), names.numbered(output, name, 1, suffix)]
    return [*names_alone, names.numbered(output.joinpath(*folders), name, 1, suffix)]


def name_error(prefix: str | None, suffix: str, in_output: bool = True) -> str:
    """Say why no file can be called after ``prefix``; empty if one can, or if ``prefix`` is None.

    With ``in_output`` it also says whether the file's folder, or the nearest that is there, cannot be written: a file
    without a name is made in it, for on Windows no right that can be asked for tells.
    """
    if prefix is None:
        return ""
    try:
        places = _find_places(prefix, suffix)
        for path in places:
            with contextlib.suppress(FileNotFoundError):
                path.lstat()
    except Exception as error:  # noqa: BLE001 -- ComfyUI's own, for a path outside the output folder, has no class
        reason = getattr(error, "strerror", None) or error
        return (
            f"filename_prefix is {prefix!r}, but there can be no such file in the output folder: {reason}. Use another "
            f"name; most systems allow 255 bytes, of which the counter and {suffix or '_'} take {len(suffix) + 7}."
        )
    if not in_output:
        return ""
    folder = next(folder for folder in places[-1].parents if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return _closed(prefix, f"{folder}: {error.strerror}")
