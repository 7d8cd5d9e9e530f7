"""Packaging: what beam-embed needs, what it may bring along, and the command it installs."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r'^VERSION = "([^"]+)"', (HERE / "beam_pipeline/version.py").read_text(), re.M).group(1)

# Every bound is the range that the tests have passed on. Vectors are promised to be exactly Keras's, so a new
# minor version of Keras, TensorFlow or Pillow comes in only after the fidelity tests have run against it.
REQUIREMENTS = [
    "apache-beam>=2.77,<2.78",
    "tensorflow>=2.21,<2.22",
    "keras>=3.15,<3.16",
    "numpy>=2.4,<2.5",
    "pillow>=12.3,<12.4",
    "pyarrow>=25,<26",
    "fsspec[http]>=2026.9,<2027",
    "h5py>=3.14,<4",
    "rich>=15,<16",
]
CLOUD = "2026.9"  # the cloud file systems follow fsspec's own version
EXTRAS = {
    "gcp": [f"gcsfs>={CLOUD},<2027", "apache-beam[gcp]>=2.77,<2.78"],
    "aws": [f"s3fs>={CLOUD},<2027", "apache-beam[aws]>=2.77,<2.78"],
    "azure": ["adlfs>=2026.5,<2027", "apache-beam[azure]>=2.77,<2.78"],
    "heif": ["pillow-heif>=1.4,<2"],
    "test": [
        "pytest>=9,<10",
        "hypothesis>=6.170,<7",
        "ruff>=0.17.6,<0.18",
        "mypy>=2.4,<2.5",
        "jsonschema>=4.26,<5",
        "types-jsonschema>=4.26,<5",
        "duckdb>=2,<3",
        "polars>=2.1,<3",
        "pandas>=3.1,<4",
    ],
}

setup(
    name="beam-embed",
    version=VERSION,
    description="Batch image embeddings with pretrained Keras models, on Apache Beam",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["beam_pipeline", "beam_pipeline.*"]),
    package_data={"beam_pipeline": ["py.typed"]},
    python_requires=">=3.11,<3.14",
    install_requires=REQUIREMENTS,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["beam-embed=beam_pipeline.cli.main:main"]},
)
