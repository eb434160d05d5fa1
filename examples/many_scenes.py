"""Many scenes, some without a sensor: a table goes in; maps, a manifest and polygons come out.

Run: python examples/many_scenes.py FOLDER
"""

import sys
from pathlib import Path

import geopandas as gpd
import pandas as pd
from small_city import make

import rsseg
from rsseg import cli


def main(folder: Path) -> pd.DataFrame:
    """Returns what became of each scene, and how many square metres of buildings it has."""
    _, scenes = make(folder, missing={"nir": 0.5})
    table, maps = folder / "scenes.csv", folder / "maps"
    rsseg.write_scenes(scenes, table)
    # killed, the same command goes on where it stopped; --workers 4 shares the scenes among processes
    command = ["predict", f"{folder}/run/best.safetensors", str(table), "--out", str(maps), "--overwrite"]
    if cli.run([*command, "--quiet"]):
        sys.exit("some scenes failed; the manifest says why")
    lines = pd.read_json(maps / "manifest.jsonl", lines=True, dtype=False)
    done = lines[lines["state"] == "done"].drop_duplicates("scene", keep="last").set_index("scene")
    for scene in done.index:
        found = rsseg.vectorize(
            maps / f"{scene}_classes.tif", folder / f"{scene}.gpkg", min_area=4, overwrite=True
        )
        polygons = gpd.read_file(found.path, layer=found.layer)
        done.loc[scene, "buildings_m2"] = polygons.loc[polygons["class"] == "building", "area_m2"].sum()
    return done[["seconds", "buildings_m2"]]


if __name__ == "__main__":
    print(main(Path(sys.argv[1] if len(sys.argv) > 1 else "many_scenes")))
