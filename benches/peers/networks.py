"""The networks that the benches run on: their data, their scores, and gulliver's view of them.

A network is described by JSON, one map or a list of maps in a file, with paths relative to the file:

    {"name": "mnist", "model": "mnist_cnn.onnx", "input": {"scale": "1/255", "mean": [0.1307], "std": [0.3081]},
     "calibration": "mnist-calibration.npz", "test": "mnist-test.npz", "metric": "top1", "samples": 10000, "stride": 0}

The npz files have `images` (N x height x width x channels, as stored) and, for top1, `labels`; the network sees
(stored * scale - mean) / std, channels first. `metric` is top1 (default) or agreement (with the float model, no labels needed);
`samples` (default all) takes so many test images, evenly spread; `stride` makes the peer's histograms so many images at a time,
for networks whose activations of all images together do not fit into memory (default 0: all together).
"""

import argparse
import json
import math
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

REPOSITORY = Path(__file__).resolve().parents[2]
DATASETS = REPOSITORY / "datasets"
CIFAR_INPUT = {"scale": "1/255", "mean": [0.4914, 0.4822, 0.4465], "std": [0.2470, 0.2435, 0.2616]}
BATCH = 64


@dataclass(frozen=True)
class Network:
    """A float network with the data it is calibrated and scored on."""

    name: str
    model: Path
    calibration: Path
    test: Path
    input: dict[str, Any] = field(default_factory=dict)
    metric: str = "top1"
    samples: int | None = None
    stride: int = 0

    @classmethod
    def from_json(cls, described: dict[str, Any], folder: Path) -> "Network":
        """A network as described, its paths relative to `folder`."""
        paths = {key: (folder / described[key]).resolve() for key in ("model", "calibration", "test")}
        return cls(**{**described, **paths})

    def to_json(self) -> dict[str, Any]:
        """The description again, with whole paths."""
        return {key: str(value) if isinstance(value, Path) else value for key, value in vars(self).items()}

    def gulliver_input(self) -> list[str]:
        """The preprocessing as options of `gulliver compress` and `gulliver evaluate`."""
        return ["--input", json.dumps(self.input)] if self.input else []

    def prepare(self, images: np.ndarray) -> np.ndarray:
        """Stored images as the network wants them: floats, N x channels x height x width."""
        channels = images.shape[-1]
        scale = np.float32(Fraction(str(self.input.get("scale", 1))))
        mean = np.asarray(self.input.get("mean", [0] * channels), np.float32)
        std = np.asarray(self.input.get("std", [1] * channels), np.float32)
        floats = (images.astype(np.float32) * scale - mean) / std
        return np.ascontiguousarray(floats.transpose(0, 3, 1, 2))

    def calibration_images(self, count: int) -> np.ndarray:
        """`count` calibration images as stored, evenly spread."""
        images, _ = stored(self.calibration)
        return images[spread(len(images), count)]

    def test_images(self) -> tuple[np.ndarray, np.ndarray | None]:
        """The test images as stored and their labels."""
        images, labels = stored(self.test)
        rows = spread(len(images), self.samples)
        return images[rows], None if labels is None else labels[rows]


def stored(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """`images` and, where there are any, `labels` of an npz file."""
    with np.load(path) as data:
        return data["images"], data["labels"] if "labels" in data else None


def spread(total: int, count: int | None) -> np.ndarray:
    """Positions of `count` of `total` samples, evenly spread; all where `count` is none or larger."""
    return np.arange(total) if count is None or count >= total else np.arange(count) * total // count


def own_networks(test: Path | None) -> list[Network]:
    """The networks of datasets/, on all images of `test` or else on the 2,000 that are there."""
    inputs = {"cifar10-vgg": {}, "cifar10-resnet20": CIFAR_INPUT, "cifar10-mobilenetv2": CIFAR_INPUT}
    calibration, images = DATASETS / "cifar10-calibration.npz", test or DATASETS / "cifar10-test.npz"
    return [Network(name, DATASETS / f"{name}.onnx", calibration, images, given) for name, given in inputs.items()]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say which networks to run and with what."""
    parser.add_argument("--test", type=Path, metavar="NPZ", help="test images for the networks of datasets/ (default: its 2,000)")
    parser.add_argument("--network", type=Path, action="append", default=[], metavar="JSON", help="more networks; see networks.py")
    parser.add_argument("--only", action="append", metavar="NAME", help="run only this network (may be repeated)")
    parser.add_argument("--gulliver", type=Path, default=REPOSITORY / "target/release/gulliver", metavar="BINARY")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write all that was measured as JSON")


def chosen(arguments: argparse.Namespace) -> list[Network]:
    """The networks that the options ask for."""
    networks = own_networks(arguments.test)
    for path in arguments.network:
        described = json.loads(path.read_text())
        networks += [Network.from_json(one, path.parent) for one in (described if isinstance(described, list) else [described])]
    unknown = set(arguments.only or []) - {network.name for network in networks}
    if unknown:
        raise SystemExit(f"error: no network is called {', '.join(sorted(unknown))}")
    return [network for network in networks if not arguments.only or network.name in arguments.only]


# ---- scores


def session(model: Path, threads: int, float_arithmetic: bool = False) -> ort.InferenceSession:
    """A session of a model; with `float_arithmetic` its QDQ pairs stay what they say, and nothing runs in integer kernels."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # scoring shares the machine
    if float_arithmetic:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def answers(network: Network, images: np.ndarray, running: ort.InferenceSession) -> np.ndarray:
    """The class that a model gives each image."""

    def batches() -> Iterator[np.ndarray]:
        for start in range(0, len(images), BATCH):
            (output, *_) = running.run(None, {running.get_inputs()[0].name: network.prepare(images[start : start + BATCH])})
            yield output.reshape(len(output), -1).argmax(axis=1)

    return np.concatenate(list(batches()))


def paired_interval(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float]:
    """How many points more of `first` than of `second` are right, with its 95 % interval (Bonett and Price 2012)."""
    n, gained, lost = len(first), int((first & ~second).sum()), int((~first & second).sum())
    p, q = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = 1.959964 * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    return 100 * (gained - lost) / n, 100 * (p - q - half), 100 * (p - q + half)


# ---- gulliver


class Failed(Exception):
    """A command of gulliver that did not end well, with its complaint."""


def gulliver_json(command: list[str]) -> Any:
    """What a command of gulliver printed with --json."""
    done = subprocess.run([*command, "--json"], capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"{' '.join(command)}\n{done.stderr.strip() or done.stdout.strip()}")
    return json.loads(done.stdout)


def precisions(gulliver: Path, network: Network) -> dict[str, list[str]]:
    """The precisions that each layer of a network can take, by the layer's name."""
    inspected = gulliver_json([str(gulliver), "inspect", str(network.model)])
    return {layer["name"]: layer["options"]["precision"] for layer in inspected["layers"]}


def rule(layers: list[str], **treatment: Any) -> str:
    """A line of a plan; YAML takes JSON as it is."""
    return f"  - {json.dumps({'layers': layers, **treatment})}"


def plan(rules: list[str]) -> str:
    """A plan file of these lines."""
    return "\n".join(["treatments:", *rules, ""])


def markdown(titles: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; the first column is text, the others are set to the right."""
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
