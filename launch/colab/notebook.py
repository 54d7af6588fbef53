"""What the cells of the notebooks call, in the notebook's own process.

Colab brings a JAX that is older than ours, and a NumPy and CUDA libraries that its PyTorch needs;
its process has loaded some of them. To replace them would break what Colab brings and ask for a
restart. So the package gets a virtual environment, whose Python ``install`` puts first on PATH for
the cells' commands. The notebook's process imports no JAX, nor should it: a TPU belongs to one
process, and the first one on a GPU takes most of its memory.

Standard library only; nothing here is installed anywhere.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
ENVIRONMENT = ROOT / ".venv"
DRIVE = Path("/content/drive")  # where Colab mounts Google Drive
CHECK = """
import sys
from xlsr_jax import runtime, schema
try:
    print(runtime.check_device(sys.argv[1]))
except schema.ConfigError as error:
    sys.exit(str(error))
"""


def install() -> None:
    """Installs the package beside Colab's own, and puts it first on PATH; seconds when done again.

    By uv: Colab's Python lacks what venv needs, and CUDA's libraries come in parallel. The releases
    are those that the project's tests run with.

    Raises:
      RuntimeError: with the last lines of what a failed command said.
    """
    uv = (sys.executable, "-m", "uv", "--quiet")
    jax = {"gpu": "jax[cuda12]", "tpu": "jax[tpu]", "cpu": "jax"}[accelerator()]
    _run(sys.executable, "-m", "pip", "install", "--quiet", "uv")
    _run(*uv, "venv", "--allow-existing", "--python", sys.executable, str(ENVIRONMENT))
    _run(
        *(*uv, "pip", "install", "--python", str(ENVIRONMENT)),
        *("--constraint", str(ROOT / ".ci" / "constraints.txt")),
        *("--editable", str(ROOT), jax),
    )
    first, path = str(ENVIRONMENT / "bin"), os.environ["PATH"]
    if path.split(os.pathsep)[0] != first:
        os.environ["PATH"] = first + os.pathsep + path
    print(f"xlsr_jax with {jax} is in {ENVIRONMENT}")


def accelerator(devices: Path = Path("/dev")) -> str:
    """ "gpu", "tpu" or "cpu": what the system has device files of.

    Not whether there is an nvidia-smi: programs come with the image, devices with the runtime.
    """
    if (devices / "nvidiactl").exists():
        return "gpu"
    # Up to v4 accel0, from v5e vfio/0.
    return "tpu" if [*devices.glob("accel[0-9]*"), *devices.glob("vfio/[0-9]*")] else "cpu"


def mount(*folders: str) -> None:
    """Mounts Google Drive where one of the folders lies there; asks for nothing elsewhere.

    Raises:
      RuntimeError: outside of Colab, naming the folder.
    """
    there = [folder for folder in folders if Path(folder).is_relative_to(DRIVE)]
    if not there:
        return
    try:
        from google.colab import drive
    except ImportError:
        raise RuntimeError(
            f"{there[0]} is on Google Drive, which only Colab mounts; name another folder"
        ) from None
    drive.mount(str(DRIVE))


def check_device(kind: str = "") -> None:
    """Prints what the commands will run on.

    Args:
      kind: "gpu" or "tpu"; "" for either; "cpu" for whatever there is.

    Raises:
      RuntimeError: one sentence, where the machine has no such device or the package is missing.
    """
    print(_run("python", "-c", CHECK, kind, lines=1))


def _run(*command: str, lines: int = 20) -> str:
    """The output of a command; where it fails, its last lines are the error's words."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-lines:])
        raise RuntimeError(said or f"{' '.join(command)} failed")
    return done.stdout.strip()
