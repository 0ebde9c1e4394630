"""Install nlseg: ``pip install .``; the README names the extras and the onedl-mmengine variant."""

import os
import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent


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
    name="nlseg",
    version=version.group(1),
    description="Semantic segmentation with non-local and global-context networks",
    long_description=(HERE / "README.md").read_text() if (HERE / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["nlseg", "nlseg.*"]),
    package_data={"nlseg": ["py.typed"]},
    python_requires=">=3.10",
    install_requires=runtime(),
    extras_require={
        "optional": requirements("optional"),
        "tests": requirements("tests"),
        "docs": requirements("docs"),
    },
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
