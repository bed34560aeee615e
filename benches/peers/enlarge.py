#!/usr/bin/env python3
"""Enlarge stored images, for a network of larger inputs that has no data of its own.

    python enlarge.py MODEL.onnx CALIBRATION.npz TEST.npz FOLDER [--side 224] [--samples 500]

makes, in FOLDER, calibration and test images of side x side from those of the two npz files (all calibration images; of the test images
so many, evenly spread), and FOLDER/MODEL.json, which describes the network for the benches (--network) with the metric `agreement`
(the class the float model gives counts as right) and the preprocessing of EfficientNet-Lite, (rgb - 127) / 128.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from fetch_mnist import resize
from networks import spread, stored


def main() -> None:
    """Writes the files that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "calibration", "test", "folder"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--samples", type=int, default=500)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    name = arguments.model.stem
    for part, count in (("calibration", None), ("test", arguments.samples)):
        images, _ = stored(getattr(arguments, part))
        enlarged = resize(images[spread(len(images), count)], arguments.side)
        np.savez(arguments.folder / f"{name}-{part}.npz", images=enlarged)
        print(f"{part}: {len(enlarged)} images of {arguments.side} x {arguments.side}")
    described = {
        "name": name,
        "model": str(arguments.model.resolve()),
        "input": {"mean": [127, 127, 127], "std": [128, 128, 128]},
        "calibration": f"{name}-calibration.npz",
        "test": f"{name}-test.npz",
        "metric": "agreement",
        "stride": 32,
    }
    (arguments.folder / f"{name}.json").write_text(json.dumps(described, indent=1) + "\n")


if __name__ == "__main__":
    main()
