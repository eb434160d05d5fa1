"""Strips of probabilities into a sink of your own: here a numpy file that may be larger than memory.

Run: python examples/own_sink.py FOLDER
"""

import sys
from pathlib import Path

import numpy as np
from small_city import make

import rsseg


def main(folder: Path) -> Path:
    """Writes the probability of buildings, 0–1, NaN where nothing is seen, and returns the file."""
    model, scenes = make(folder)
    scene = next(iter(scenes.of("test")))
    building = model.facts.class_map.names.index("building")
    path, sink = folder / f"{scene.id}_building.npy", None
    for strip in rsseg.predict_strips(model, scene):
        if sink is None:
            sink = np.lib.format.open_memmap(path, "w+", np.float32, tuple(strip.grid.shape))
        rows = slice(strip.row, strip.row + len(strip.view.seen))
        sink[rows] = strip.view.probabilities[building].masked_fill(~strip.view.seen, np.nan).cpu()
        share = float((sink[rows] > 0.5).mean())
        print(f"rows {rows.start}-{rows.stop - 1}: {share:.0%} buildings")
    return path


if __name__ == "__main__":
    print(main(Path(sys.argv[1] if len(sys.argv) > 1 else "own_sink")))
