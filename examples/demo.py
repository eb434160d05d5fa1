"""The whole path on simulated scenes: simulate, train, evaluate every subset, map a scene.

Run: python examples/demo.py FOLDER
"""

import shutil
import sys
import time
from pathlib import Path

from rsseg import cli


def main(folder: Path) -> None:
    """Runs the four commands that a user would type."""
    started = time.monotonic()
    for made in ("city", "run", "maps"):
        shutil.rmtree(folder / made, ignore_errors=True)
    model = folder / "run" / "best.safetensors"
    commands = [
        f"simulate {folder}/city --modalities rgb,nir,dsm",
        f"train quickstart data.root={folder}/city --out {folder}/run",
        f"evaluate {model} --out {folder}/run/scores",
        f"predict {model} {folder}/city --scene test_000 --out {folder}/maps",
        f"predict {model} {folder}/city --scene test_000 --without rgb --out {folder}/maps/without_rgb",
    ]
    for command in commands:
        print(f"\n$ rsseg {command}", flush=True)
        code = cli.run(command.split())
        if code:
            sys.exit(code)
    print(f"\nDone in {time.monotonic() - started:.0f} s.  The scenes are simulated, and so are the scores.")
    print(f"  map:    {folder}/maps/test_000_classes.tif   (open it in QGIS)")
    print(f"  scores: {folder}/run/scores/scores.csv")
    print(f"  model:  {model}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
