"""Where data sets and large encoders are looked for. Loads nothing but the standard library."""

import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """Return the folder in which data sets are looked for and kept.

    Returns:
        The folder that the environment variable ``REPLEARN_DATA`` names. Without one, `replearn` in
        the cache folder of the platform. It need not exist.
    """
    chosen = os.environ.get("REPLEARN_DATA")
    if chosen:
        return Path(chosen).expanduser()
    of_platform = {"win32": "~/AppData/Local", "darwin": "~/Library/Caches"}
    caches = os.environ.get("XDG_CACHE_HOME") or of_platform.get(sys.platform, "~/.cache")
    return (Path(caches) / "replearn").expanduser()
