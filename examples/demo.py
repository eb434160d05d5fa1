"""The whole path on simulated scenes: simulate, train, evaluate every subset, map a scene.

Run: python examples/demo.py FOLDER
"""

import shlex
import sys
import time
from pathlib import Path

from rsseg import cli


def main(folder: Path) -> None:
    """Runs the four commands that a user would type."""
    started = time.monotonic()
    city, run, maps = (str(folder / name) for name in ("city", "run", "maps"))
    model = f"{run}/best.safetensors"
    commands = [
        ["simulate", city, "--modalities", "rgb,nir,dsm"],
        ["train", "quickstart", f"data.root={city}", "--out", run],
        ["evaluate", model, "--out", f"{run}/scores"],
        ["predict", model, city, "--scene", "test_000", "--out", maps],
        ["predict", model, city, "--scene", "test_000", "--without", "rgb", "--out", f"{maps}/without_rgb"],
    ]
    for command in commands:
        print(f"\n$ rsseg {shlex.join(command)}", flush=True)
        code = cli.run([*command, "--overwrite"])  # of an earlier demo; other files are left alone
        if code:
            sys.exit(code)
    print(f"\nDone in {time.monotonic() - started:.0f} s.  The scenes are simulated, and so are the scores.")
    print(f"  map:    {folder}/maps/test_000_classes.tif   (open it in QGIS)")
    print(f"  scores: {folder}/run/scores/scores.csv")
    print(f"  model:  {model}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
