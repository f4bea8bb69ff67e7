"""The archive that ``comfy node pack`` makes for the registry, by its rules: what git tracks without .comfyignore's."""

import shutil
import subprocess

from pathspec import GitIgnoreSpec
from wan_flf2v.bootstrap.paths import REPO


def tracked_files():
    """Return the paths that git tracks and that are there."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPO, capture_output=True, text=True, check=True)
    return [path for path in listed.stdout.split("\0") if path and (REPO / path).is_file()]


def archive_files():
    """Return the paths of the archive's files, sorted."""
    patterns = [line for line in (REPO / ".comfyignore").read_text().splitlines() if line and line[0] != "#"]
    ignored = GitIgnoreSpec.from_lines(patterns)
    return sorted(path for path in tracked_files() if not ignored.match_file(path))


def copy_files(paths, folder):
    """Copy files of the repository below ``folder`` and return it."""
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPO / path, folder / path)
    return folder


if __name__ == "__main__":
    print("\n".join(archive_files()))
