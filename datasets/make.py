#!/usr/bin/env python3
"""Make cifar10-calibration.npz and cifar10-test.npz again, from all of CIFAR-10.

    python fetch_cifar10.py FULL
    python make.py FULL [FOLDER]

FULL holds cifar10-full-train.npz and cifar10-full-test.npz; the two files go to FOLDER, by default the one of this script. Which
images they hold, and in which order, is in cifar10-rows.json: positions in the full sets. Needs numpy.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy

from fetch_cifar10 import write_npz

HERE = Path(__file__).resolve().parent
PARTS = {"calibration": "train", "test": "test"}


def main(full, folder=HERE):
    rows = json.loads((HERE / "cifar10-rows.json").read_text())
    for part, origin in PARTS.items():
        with numpy.load(Path(full) / f"cifar10-full-{origin}.npz") as data:
            images, labels = data["images"][rows[part]], data["labels"][rows[part]]
        path = Path(folder) / f"cifar10-{part}.npz"
        write_npz(path, images.tobytes(), labels.tolist())
        counts = numpy.bincount(labels, minlength=10).tolist()
        print(f"{path.name}: {len(labels)} images, a class {counts}, SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(*sys.argv[1:])
