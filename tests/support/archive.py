"""The archive that ``comfy node pack`` makes for the registry, by its rules: what git tracks without .comfyignore's."""

import shutil
import subprocess

from pathspec import GitIgnoreSpec
from wan_flf2v.bootstrap.paths import REPO


def archive_files():
    """Return the paths of the archive's files, sorted."""
    patterns = [line for line in (REPO / ".comfyignore").read_text().splitlines() if line and line[0] != "#"]
    ignored = GitIgnoreSpec.from_lines(patterns)
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPO, capture_output=True, text=True, check=True)
    tracked = filter(None, listed.stdout.split("\0"))
    return sorted(path for path in tracked if not ignored.match_file(path))


def unpack_archive(folder):
    """Put the archive's files below ``folder``, as the registry's clients do, and return it."""
    for path in archive_files():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPO / path, folder / path)
    return folder


if __name__ == "__main__":
    print("\n".join(archive_files()))
