"""A model where there is no torch: as an ONNX file, asked for a scene without its near infrared.

Run: python examples/onnx_elsewhere.py FOLDER     (needs: pip install 'rsseg[onnx]' onnxruntime)
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
from small_city import make

import rsseg
from rsseg import cli


def main(folder: Path) -> np.ndarray:
    """Returns the classes (64, 64) of a scene's corner."""
    model, scenes = make(folder)
    file = folder / "model.onnx"
    if cli.run(
        ["export", f"{folder}/run/best.safetensors", "--to", "onnx", "--out", str(file), "--overwrite"]
    ):
        sys.exit("export failed")
    facts, window = model.facts, rsseg.Window(0, 0, 64, 64)
    opened = rsseg.open_scene(next(iter(scenes.of("test"))), facts.modalities, None)
    inputs = {}
    for name, modality in facts.modalities.items():
        pixels, valid = opened.raw(name, window)
        if name == "nir":
            valid = np.zeros_like(valid)  # nothing of it is there: what the pixels hold cannot matter
        inputs[name] = modality.normalised(pixels, valid, facts.statistics[name])[None]
        inputs[f"{name}_valid"] = valid[None]
    (logits,) = onnxruntime.InferenceSession(file).run(None, inputs)
    classes = np.asarray(logits[0].argmax(0))
    for number, name in enumerate(facts.class_map.names):
        print(f"{name:<16} {(classes == number).mean():6.1%}")
    return classes


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "onnx_elsewhere"))
