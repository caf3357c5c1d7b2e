"""Where kernels and running machines are kept: outside of the checkout, and kept between runs."""

import os
from pathlib import Path


def cache() -> Path:
    """``$MRM_CACHE``, or ``mrm`` in the user's cache folder; made if it is not there."""
    given = os.environ.get("MRM_CACHE")
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mrm"
    folder = Path(given).absolute() if given else usual
    folder.mkdir(parents=True, exist_ok=True)
    return folder
