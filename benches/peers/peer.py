"""ONNX Runtime's static quantization as the peer: its settings, and the process that runs it.

    python measure.py THREADS python peer.py JOB.json

JOB.json is {"task": "import"} (load the peer and end), {"task": "quantize", "setting": ...} (one setting, from the float file to the
quantized one), or {"task": "search", "settings": [...], "images": N} (the accuracy of many settings on N test images; ranges are shared
between settings that calibrate alike). With it `network`, `images_calibration`, `threads`, `batch`, the folder `out`, and for what comes
out `result`, a JSON file.
"""

import itertools
import json
import logging
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

sys.modules["torch"] = None  # type: ignore[assignment]  # where it is installed the peer would load it, and take 500 MB more

import onnxruntime as ort
from networks import Network, answers, session, spread
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

LAYERS = ["Conv", "Gemm", "MatMul"]


@dataclass(frozen=True)
class Setting:
    """Arguments of `quantize_static`; the defaults are its own."""

    method: str = "MinMax"
    """A name of `CalibrationMethod`."""
    calibration: dict[str, Any] = field(default_factory=dict)
    """Extra options that calibration reads."""
    per_channel: bool = False
    activation: str = "QInt8"
    reduce_range: bool = False
    scope: str = "all"
    """What is quantized: `all` operators that can be, the inputs and outputs of `layers`, or only the `inputs` of layers."""
    batch: int | None = None
    """Images a calibration batch; none for the bench's own."""

    def __str__(self) -> str:
        options = [f"{key}={value}" for key, value in self.calibration.items()]
        options += [f"batch={self.batch}"] if self.batch else []
        said = [f"{self.method}{'(' + ', '.join(options) + ')' if options else ''}", self.activation]
        said += ["per channel"] if self.per_channel else ["per tensor"]
        said += ["reduced range"] if self.reduce_range else []
        said += {"all": ["all operators"], "layers": ["Conv and Gemm"], "inputs": ["inputs of Conv and Gemm"]}[self.scope]
        return ", ".join(said)

    def calibration_key(self) -> str:
        """Equal for settings with the same ranges."""
        return json.dumps([self.method, self.calibration, self.batch])

    def to_json(self) -> dict[str, Any]:
        """For a job file; `Setting(**...)` reads it."""
        return asdict(self)


CALIBRATIONS = [
    ("MinMax", {}, None),
    ("MinMax", {"CalibMovingAverage": True}, 1),
    ("Percentile", {}, None),
    ("Percentile", {"CalibTensorRangeSymmetric": False}, None),
    ("Percentile", {"CalibTensorRangeSymmetric": False, "CalibPercentile": 99.99}, None),
    ("Percentile", {"CalibTensorRangeSymmetric": False, "CalibPercentile": 99.9}, None),
    ("Entropy", {}, None),
    ("Distribution", {}, None),
]


def first_grid() -> list[Setting]:
    """Every calibration with everything that changes what is rounded and how finely."""
    choices = itertools.product(CALIBRATIONS, (False, True), ("all", "layers", "inputs"))
    return [Setting(method, options, per_channel, "QUInt8", False, scope, batch) for (method, options, batch), per_channel, scope in choices]


def second_grid(best: list[Setting]) -> list[Setting]:
    """The best of the first with the other ways to store activations and weights."""
    ways = [("QUInt8", True), ("QInt8", False), ("QInt8", True)]
    return [replace(setting, activation=activation, reduce_range=reduced) for setting in best for activation, reduced in ways]


class Reader(CalibrationDataReader):
    """Hands out calibration images in batches; a range of them where the peer asks for strides."""

    def __init__(self, network: Network, images: np.ndarray, port: str, batch: int) -> None:
        self.network, self.images, self.port, self.batch = network, images, port, batch
        self.set_range(0, len(images))

    def __len__(self) -> int:
        return len(self.images)

    def set_range(self, start_index: int, end_index: int) -> None:
        """The images to hand out from here on."""
        self.at, self.end = start_index, end_index

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch, none at the end."""
        if self.at >= self.end:
            return None
        start, self.at = self.at, min(self.at + self.batch, self.end)
        return {self.port: self.network.prepare(self.images[start : self.at])}


def preprocess(network: Network, out: Path) -> None:
    """What the peer recommends to run first, without its symbolic shapes: they need sympy, and ONNX's own suffice here."""
    quant_pre_process(str(network.model), str(out), skip_symbolic_shape=True)


def quantize(network: Network, setting: Setting, prepared: Path, out: Path, images: np.ndarray, batch: int, cache: Path | None = None) -> None:
    """Quantizes a preprocessed network as the setting says; ranges come from `cache` where it is there, and else go there."""
    port = ort.InferenceSession(str(prepared), providers=["CPUExecutionProvider"]).get_inputs()[0].name
    options = dict(setting.calibration)
    if network.stride and setting.method != "MinMax":
        options["CalibStridedMinMax"] = network.stride
    if setting.scope == "inputs":
        options["OpTypesToExcludeOutputQuantization"] = LAYERS
    quantize_static(
        str(prepared),
        str(out),
        Reader(network, images, port, setting.batch or batch),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=None if setting.scope == "all" else LAYERS,
        per_channel=setting.per_channel,
        reduce_range=setting.reduce_range,
        activation_type=QuantType[setting.activation],
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod[setting.method],
        extra_options=options,
        calibration_cache_path=cache,
    )


def limit_threads(threads: int) -> None:
    """Makes the sessions that the peer opens by itself use so many threads."""
    plain = ort.SessionOptions

    def limited() -> ort.SessionOptions:
        options = plain()
        options.intra_op_num_threads = threads
        return options

    ort.SessionOptions = limited


def search(job: dict[str, Any], network: Network, images: np.ndarray, folder: Path) -> list[dict[str, Any]]:
    """Accuracy of each setting of the job, with integer kernels and in float arithmetic; where it failed the reason."""
    test, labels = network.test_images()
    rows = spread(len(test), job["images"])
    test = test[rows]
    if network.metric == "agreement" or labels is None:
        right = answers(network, test, session(network.model, job["threads"]))
    else:
        right = labels[rows]
    prepared, out, caches = folder / "prepared.onnx", folder / "quantized.onnx", {}
    preprocess(network, prepared)
    # All operators first: the ranges of the others are among theirs.
    given = sorted(enumerate(job["settings"]), key=lambda pair: pair[1]["scope"] != "all")
    found = {}
    for at, described in given:
        setting = Setting(**described)
        cache = caches.setdefault(setting.calibration_key(), folder / f"ranges-{len(caches)}.json")
        try:
            quantize(network, setting, prepared, out, images, job["batch"], cache)
            scores = [(answers(network, test, session(out, job["threads"], plain)) == right).mean() for plain in (False, True)]
            found[at] = {"accuracy": float(max(scores)), "integer": float(scores[0]), "float_arithmetic": float(scores[1])}
        except Exception as reason:  # a setting that the peer refuses is a finding, whatever it raises
            found[at] = {"failed": f"{type(reason).__name__}: {reason}"[:300]}
        print(f"{network.name}: {setting}: {found[at]}", file=sys.stderr)
    return [found[at] for at in range(len(given))]


def main(path: Path) -> None:
    """Does the job and writes its result."""
    job = json.loads(path.read_text())
    if job["task"] == "import":
        return
    logging.disable(logging.WARNING)
    limit_threads(job["threads"])
    network = Network.from_json(job["network"], path.parent)
    images = network.calibration_images(job["images_calibration"])
    with tempfile.TemporaryDirectory(dir=job["out"]) as scratch:
        if job["task"] == "search":
            result: Any = search(job, network, images, Path(scratch))
        else:
            started = time.perf_counter()
            preprocess(network, Path(scratch) / "prepared.onnx")
            out = Path(job["out"]) / "quantized.onnx"
            quantize(network, Setting(**job["setting"]), Path(scratch) / "prepared.onnx", out, images, job["batch"])
            result = {"seconds": time.perf_counter() - started}
    Path(job["result"]).write_text(json.dumps(result))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
