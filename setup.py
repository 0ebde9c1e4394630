"""Build nlseg: dependencies from ``requirements/``, and the published configs into the wheel."""

import os
import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
# what is in the extra "all"
USED = ("optional", "hub", "completion", "geo", "demo", "export", "timm")
EXTRAS = (*USED, "tests", "docs")


class BuildWithConfigs(build_py):
    """Copies ``configs/`` to ``nlseg/configs/`` of the wheel; a checkout uses its own."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "nlseg" / "configs"
            ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
            shutil.copytree(HERE / "configs", target, ignore=ignored, dirs_exist_ok=True)


def requirements(name: str) -> list[str]:
    """Read ``requirements/<name>.txt`` without comments."""
    lines = (HERE / "requirements" / f"{name}.txt").read_text().splitlines()
    return [line.split("#")[0].strip() for line in lines if line.split("#")[0].strip()]


def runtime() -> list[str]:
    """List what is needed to run; ``NLSEG_MMENGINE`` names another distribution of mmengine."""
    engine = os.environ.get("NLSEG_MMENGINE", "mmengine")
    needed = requirements("runtime")
    return [
        re.sub(r"^mmengine\b.*", engine, line) if engine != "mmengine" else line for line in needed
    ]


version = re.search(r'__version__ = "(.+)"', (HERE / "nlseg" / "__init__.py").read_text())
if version is None:
    raise RuntimeError("nlseg/__init__.py: no __version__ found")

setup(
    version=version.group(1),
    packages=find_packages(include=["nlseg", "nlseg.*"]),
    package_data={"nlseg": ["py.typed", "*/*.html"]},
    install_requires=runtime(),
    extras_require={
        **{name: requirements(name) for name in EXTRAS},
        "all": [line for name in USED for line in requirements(name)],
    },
    cmdclass={"build_py": BuildWithConfigs},
)
