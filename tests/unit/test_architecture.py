"""CONTRIBUTING's map, arrows and words are the tree's: which files there are, who imports what, in which words."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
HOST_MODULES = {
    "comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "latent_preview", "node_helpers", "server",
}  # fmt: skip
NO_TORCH = ("contract", "client", "cli", "gateway", "quality", "bootstrap")


@cache
def tracked():
    listed = subprocess.run(["git", "ls-files"], cwd=REPO, capture_output=True, text=True, check=True)
    return [Path(line) for line in listed.stdout.splitlines()]


def files(folder=""):
    """Return the Python files of the repository or of one folder in it, with those further below."""
    return [path for path in tracked() if path.suffix == ".py" and path.is_relative_to(folder)]


def section(heading):
    """Return the text of a section of CONTRIBUTING.md."""
    text = (REPO / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.M | re.S)[1]


def blocks(heading):
    """Return the code blocks of a section, each as a list of lines."""
    return [block.splitlines() for block in re.findall(r"^```\n(.*?)^```$", section(heading), re.M | re.S)]


def the_map():
    """Return path -> description; an indented line goes on with the one before."""
    entries = {}
    for line in blocks("Where things are")[0]:
        if not line.startswith(" "):
            path, _, line = line.partition(" ")
            entries[path] = ""
        entries[path] += " " + line.strip()
    return entries


def the_arrows():
    """Return room -> the rooms that its files may import; a room is a folder, or a module at the root."""
    pairs = [line.split("→") for line in blocks("Who may import what")[0]]
    return {room.strip(): {other.strip() for other in others.split(",")} - {""} for room, others in pairs}


MAP, ARROWS = the_map(), the_arrows()


def imports(path):
    """Yield each import of a file as the path it would have in the repository, and whether it is relative."""
    for node in ast.walk(ast.parse((REPO / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name.replace(".", "/"), False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = "/".join(path.parts[: len(path.parts) - node.level]) if node.level else ""
            module = "/".join(part for part in (start, (node.module or "").replace(".", "/")) if part)
            for alias in node.names:
                yield "/".join(part for part in (module, alias.name) if part), node.level > 0


def room(path):
    """Return the room that a path lies in: the one with the longest name."""
    rooms = [name for name in ARROWS if path == name or path.startswith(name + "/")]
    return max(rooms, key=len, default=path.split("/")[0])


def test_the_map_names_all_that_is_at_the_top():
    unlisted = {"LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "pyproject.toml", "requirements.txt"}
    top = {path.parts[0] + "/" if len(path.parts) > 1 else path.name for path in tracked()}
    top = {name for name in top if not name.startswith(".")} - unlisted
    assert {path for path in MAP if path.count("/") == path.endswith("/")} == top


def modules(folder):
    return {path.stem for path in files(folder) if path.parent == Path(folder) and not path.name.startswith("_")}


@pytest.mark.parametrize("folder", [path for path in MAP if path.endswith("/") and path != "tests/" and modules(path)])
def test_the_map_names_each_file_of_a_room(folder):
    """What follows the last colon are the modules, with remarks in brackets."""
    named = re.sub(r"\(.*?\)", "", MAP[folder]).rpartition(": ")[2]
    assert {name.strip() for name in named.split(",")} == modules(folder)


@pytest.mark.parametrize("name", ARROWS)
def test_a_room_imports_what_its_arrows_say(name):
    module = Path(name + ".py")
    own = [module] if module in tracked() else [path for path in files(name) if room(path.as_posix()) == name]
    assert own
    imported = set()
    for path in own:
        for target, relative in imports(path):
            if relative:
                imported.add(room(target))
                assert room(target) in ARROWS[name] | {name}, f"{path} imports {target}"
            else:
                assert target.split("/")[0] not in {*ARROWS, "wan_flf2v"}, f"{path} imports {target} absolutely"
    assert ARROWS[name] <= imported, "nothing needs this arrow"


def test_every_folder_with_code_has_its_arrows():
    outside = {"tests", "run.py", "setup.py", "__init__.py", "__main__.py"}
    assert {path.parts[0].removesuffix(".py") for path in files() if path.parts[0] not in outside} == {
        name.split("/")[0] for name in ARROWS
    }


def test_only_these_files_import_comfyui():
    (patterns,) = blocks("Who may import what")[1:]
    allowed = {path for pattern in " ".join(patterns).split() for path in REPO.glob(pattern)}
    for path in files():
        if path.parts[0] != "tests" and HOST_MODULES & {
            target.split("/")[0] for target, far in imports(path) if not far
        }:
            assert REPO / path in allowed, path


@pytest.mark.parametrize("folder", NO_TORCH)
def test_what_speaks_http_imports_no_torch(folder):
    assert [path for path in files(folder) if "torch" in {target.split("/")[0] for target, _ in imports(path)}] == []


def test_jobs_know_no_http_request():
    """A job is the same whichever server took its request; only their client of ComfyUI speaks HTTP."""
    for path in files("gateway/jobs"):
        for target, relative in imports(path):
            assert relative or target.split("/")[0] not in ("aiohttp", "http"), f"{path} imports {target}"
            assert room(target) != "gateway/http" and target.split("/")[:2] != ["gateway", "serve"], path


def test_run_py_needs_only_the_standard_library():
    for path in [Path("run.py"), *files("bootstrap")]:
        for target, relative in imports(path):
            top = target.split("/")[0]
            known = top in sys.stdlib_module_names or top in ("_winapi", "bootstrap")
            assert relative or known, f"{path} imports {target}"


def product_texts():
    """Yield path and text of the product's Python files, and of what its users read."""
    for path in tracked():
        if path.parts[0] != "tests" and (path.suffix == ".py" or path.name in ("README.md", "CHANGELOG.md")):
            yield path, (REPO / path).read_text(encoding="utf-8")


def test_the_code_needs_each_word_of_the_list():
    code = " ".join(text for path, text in product_texts() if path.suffix == ".py").lower()
    words = [word.lower() for word in re.findall(r"\*\*(.+?)\*\*", section("Words"))]
    assert len(words) > 40
    assert [word for word in words if not re.search(rf"\b{word}s?\b", code)] == []


def test_nobody_writes_the_words_to_do_without():
    words = re.split(r",\s+", section("Words").rpartition("does without: ")[2].partition(" (")[0])
    assert (words[0], words[-1]) == ("of its own", "answer")
    of_words = "|".join(words).replace(" ", r"\s+")
    banned = re.compile(rf"(?<![a-z])({of_words})(s|ed|ing)?(?![a-z])")
    found = []
    for path, text in product_texts():
        split = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", text).lower()  # the words in names like ThisOne
        found += [(path, match[0]) for match in banned.finditer(split)]
    assert found == []


@pytest.mark.parametrize("module", ["", ".contract.workflow", ".cli.run", ".cli.report"])
def test_importing_brings_neither_torch_nor_comfyui(module, tmp_path):
    unwanted = {"torch", "comfy", "nodes", "server", "av", "numpy"}
    code = f"import sys, wan_flf2v{module}; print(sorted({unwanted} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
