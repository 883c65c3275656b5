"""What every process of the service is started with."""

import os
import subprocess
from pathlib import Path


def environment() -> dict[str, str]:
    """Return variables with which a child finds this package and uses one thread a request."""
    search_path = [str(Path(__file__).parents[2])]
    if os.environ.get("PYTHONPATH"):
        search_path.append(os.environ["PYTHONPATH"])
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(search_path),
        "PYTHONUTF8": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def own_process_group() -> dict[str, int | bool]:
    """Return what keeps a Ctrl-C, or a notebook's stop button, away from a child.

    Returns:
        Arguments of `subprocess.Popen`.
    """
    if os.name == "nt":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}
