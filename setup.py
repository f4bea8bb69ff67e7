"""Leaves what serves the repository alone out of the wheel, since its root is the package. See pyproject.toml."""

from setuptools import setup
from setuptools.command.build_py import build_py

STRAY = {("wan_flf2v", "run"), ("wan_flf2v", "setup")}


class BuildPy(build_py):
    """Copies the package's modules."""

    def find_package_modules(self, package, package_dir):
        """Return (package, module, file) of each module that belongs to the wheel."""
        return [found for found in super().find_package_modules(package, package_dir) if found[:2] not in STRAY]


setup(cmdclass={"build_py": BuildPy})
