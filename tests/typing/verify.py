"""Is the type of every public name known in full? ``pyright --verifytypes``, for what ``beanpool.__all__`` has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import beanpool

PYRIGHT = (sys.executable, "-m", "pyright", "--pythonpath", sys.executable)


def main() -> int:
    """Print the names whose types are not known; returns how many they are."""
    told = subprocess.run(
        [*PYRIGHT, "--verifytypes", "beanpool", "--ignoreexternal", "--outputjson"],
        capture_output=True,
        text=True,
        check=False,
        # It looks for a package in no other way.
        env={**os.environ, "PYTHONPATH": str(Path(beanpool.__file__).parents[1])},
    )
    symbols = json.loads(told.stdout)["typeCompleteness"]["symbols"]
    known = {
        symbol["name"].removeprefix("beanpool.")
        for symbol in symbols
        if symbol["isTypeKnown"] and not symbol["isTypeAmbiguous"]
    }
    unknown = sorted(set(beanpool.__all__) - known)
    print(f"the types of {len(beanpool.__all__) - len(unknown)} of {len(beanpool.__all__)} public names are known")
    for name in unknown:
        print(f"beanpool.{name}: its type, or that of something in it, is not")
    return len(unknown)


if __name__ == "__main__":
    sys.exit(main())
