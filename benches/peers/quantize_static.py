#!/usr/bin/env python3
"""Compare `gulliver compress` at uniform INT8 with ONNX Runtime's quantize_static.

    python quantize_static.py [--test NPZ] [--network JSON]... [--json OUT] > table.md

Both get the same float network and the same 512 calibration images, and their models are scored by the same code on the same test
images. The peer runs at its defaults and at the best of a grid of settings, the best by accuracy on the very test images, which is
kinder to it than a user could be; both after its quant_pre_process. Its model is scored as ONNX Runtime runs it and in float arithmetic
(session.disable_quant_qdq), and the better of the two counts. The grid runs on --search test images, and the --finalists best of it and
the defaults on all.

Seconds and megabytes are of one quantization, from the float file to the written one, in a process of its own on --threads cores; the
fastest and the leanest of --rounds, where the peer has a run with each of --batches: small ones take less memory, large ones less
time. Gulliver's seconds are those of the whole process; the peer's are without its imports and without reading the images.
Needs numpy, onnx and onnxruntime, and a built gulliver.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import networks
import numpy as np
from networks import Network, answers, session
from peer import Setting, first_grid, second_grid

HERE = Path(__file__).resolve().parent


class Bench:
    """The options of a run and a folder for what it writes."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.arguments, self.folder = arguments, folder
        self.threads: int = arguments.threads

    def measured(self, command: list[str]) -> dict[str, float]:
        """Seconds, of the clock and of the cores, and megabytes of a command, which must end well."""
        launcher = [sys.executable, "-I", str(HERE / "measure.py"), str(self.threads)]
        done = subprocess.run([*launcher, *command], stdout=subprocess.PIPE, stderr=None if self.arguments.verbose else subprocess.PIPE, text=True)
        took = json.loads(done.stdout.splitlines()[-1])
        if took.pop("code") != 0:
            raise RuntimeError(f"{' '.join(command)}\n{(done.stderr or '')[-2000:]}")
        return took

    def peer(self, task: str, network: Network | None = None, **job: Any) -> tuple[Any, dict[str, float]]:
        """What the peer's process answers to a job, and what it took."""
        path, result = self.folder / "job.json", self.folder / "result.json"
        result.unlink(missing_ok=True)
        job = {"batch": self.arguments.batches[0]} | job | {"task": task, "threads": self.threads, "out": str(self.folder), "result": str(result)}
        job |= {"network": network.to_json(), "images_calibration": self.arguments.calibration} if network else {}
        path.write_text(json.dumps(job))
        took = self.measured([sys.executable, str(HERE / "peer.py"), str(path)])
        return json.loads(result.read_text()) if result.exists() else None, took

    def peer_quantizes(self, network: Network, setting: Setting, rounds: int) -> dict[str, float]:
        """Writes quantized.onnx; seconds of the quantization and of the process, and megabytes. Without rounds it runs once."""
        batches = self.arguments.batches * rounds if rounds else self.arguments.batches[:1]
        runs = [self.peer("quantize", network, setting=setting.to_json(), batch=batch) for batch in batches]
        return {
            "seconds": min(result["seconds"] for result, _ in runs),
            "process_seconds": min(took["seconds"] for _, took in runs),
            "cpu_seconds": min(took["cpu_seconds"] for _, took in runs),
            "megabytes": min(took["megabytes"] for _, took in runs),
        }

    def gulliver_quantizes(self, network: Network, rounds: int) -> dict[str, float]:
        """Writes gulliver.onnx, every layer that can take it in INT8; seconds and megabytes of the process."""
        gulliver = self.arguments.gulliver
        layers = [name for name, options in networks.precisions(gulliver, network).items() if "int8" in options]
        plan = self.folder / "plan.yaml"
        plan.write_text(networks.plan([networks.rule(layers, precision="int8")]))
        command = [str(gulliver), "compress", str(network.model), str(plan), "--data", str(network.calibration), *network.gulliver_input()]
        command += ["--samples", str(self.arguments.calibration), "--out", str(self.folder / "gulliver.onnx"), "--json"]
        runs = [self.measured(command) for _ in range(rounds)]
        return {key: min(run[key] for run in runs) for key in ("seconds", "cpu_seconds", "megabytes")}


class Judge:
    """Scores models of one network on its test images."""

    def __init__(self, network: Network, threads: int) -> None:
        self.network, self.threads = network, threads
        self.images, labels = network.test_images()
        of_float = answers(network, self.images, session(network.model, threads))
        if network.metric == "top1" and labels is None:
            raise SystemExit(f"error: {network.test} has no labels; with the metric agreement none are needed")
        self.truth = of_float if network.metric == "agreement" or labels is None else labels
        self.float_right = of_float == self.truth

    def right(self, model: Path, float_arithmetic: bool = False) -> np.ndarray:
        """Which images a model gets right."""
        return answers(self.network, self.images, session(model, self.threads, float_arithmetic)) == self.truth

    def better(self, model: Path) -> tuple[np.ndarray, dict[str, float]]:
        """Of a model with QDQ pairs, the better of its two ways to run; and the accuracy of both."""
        ways = {"integer": self.right(model), "float_arithmetic": self.right(model, float_arithmetic=True)}
        return max(ways.values(), key=np.mean), {name: float(right.mean()) for name, right in ways.items()}


def distinct(grid: list[tuple[Setting, dict[str, Any]]]) -> list[tuple[Setting, dict[str, Any]]]:
    """The settings that worked, without those that only store the same in another way than a better one."""
    seen, kept = set(), []
    for setting, outcome in grid:
        key = (setting.calibration_key(), setting.per_channel, setting.scope)
        if "accuracy" in outcome and key not in seen:
            seen.add(key)
            kept.append((setting, outcome))
    return kept


def search(bench: Bench, network: Network) -> list[tuple[Setting, dict[str, Any]]]:
    """The settings of the grid with their accuracy on some test images, the best first."""

    def tried(settings: list[Setting]) -> list[tuple[Setting, dict[str, Any]]]:
        found, _ = bench.peer("search", network, settings=[setting.to_json() for setting in settings], images=bench.arguments.search)
        return list(zip(settings, found, strict=True))

    def in_order(results: list[tuple[Setting, dict[str, Any]]]) -> list[tuple[Setting, dict[str, Any]]]:
        return sorted(results, key=lambda pair: -pair[1].get("accuracy", -1))

    first = in_order(tried(first_grid()))
    second = tried(second_grid([setting for setting, _ in first[: bench.arguments.finalists]]))
    return in_order(first + second)


def compare(bench: Bench, network: Network) -> dict[str, Any]:
    """All figures of one network."""
    judge, rounds = Judge(network, bench.threads), bench.arguments.rounds
    drop = lambda right: 100 * float(judge.float_right.mean() - right.mean())  # noqa: E731
    sides: dict[str, Any] = {}
    answered: dict[str, np.ndarray] = {}

    took = bench.peer_quantizes(network, Setting(), rounds)
    answered["default"], ways = judge.better(bench.folder / "quantized.onnx")
    sides["default"] = took | {"setting": str(Setting()), "accuracies": ways}

    grid = search(bench, network)
    best, best_mean = None, -1.0
    for setting, outcome in distinct(grid)[: bench.arguments.finalists]:
        bench.peer_quantizes(network, setting, 0)
        right, ways = judge.better(bench.folder / "quantized.onnx")
        outcome["all"] = ways
        if right.mean() > best_mean:
            best, best_mean, answered["best"] = setting, right.mean(), right
    if best is None or answered["default"].mean() > best_mean:
        best, answered["best"] = Setting(), answered["default"]
    took = bench.peer_quantizes(network, best, rounds)
    _, ways = judge.better(bench.folder / "quantized.onnx")
    sides["best"] = took | {"setting": str(best), "accuracies": ways}

    sides["gulliver"] = bench.gulliver_quantizes(network, rounds)
    answered["gulliver"] = judge.right(bench.folder / "gulliver.onnx")
    for side, right in answered.items():
        sides[side] |= {"accuracy": float(right.mean()), "drop": drop(right)}
    ahead = networks.paired_interval(answered["gulliver"], answered["best"])
    return {
        "network": network.name,
        "metric": network.metric,
        "test_images": len(judge.images),
        "float": float(judge.float_right.mean()),
        **sides,
        "ahead_of_best": dict(zip(("points", "low", "high"), ahead, strict=True)),
        "grid": [setting.to_json() | {"said": str(setting)} | outcome for setting, outcome in grid],
    }


def table(results: list[dict[str, Any]]) -> str:
    """The figures as Markdown."""

    def cell(side: dict[str, Any]) -> str:
        return f"{side['drop']:+.2f}; {side['seconds']:.2f} s; {side['megabytes']:.0f} MB"

    rows = []
    for one in results:
        ahead = one["ahead_of_best"]
        best = f"{cell(one['best'])} ({one['best']['setting']})"
        between = f"{ahead['points']:+.2f} ({ahead['low']:+.2f} to {ahead['high']:+.2f})"
        name = f"{one['network']} ({one['metric']}, {one['test_images']:,} images)"
        rows.append([name, f"{100 * one['float']:.2f} %", cell(one["default"]), best, cell(one["gulliver"]), between])
    titles = ["network", "float", "peer, defaults", "peer, best (settings)", "gulliver, INT8", "gulliver before peer's best, points (95 %)"]
    return networks.markdown(titles, rows)


def main() -> None:
    """Runs the comparison that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    networks.add_arguments(parser)
    parser.add_argument("--calibration", type=int, default=512, metavar="N", help="calibration images (default 512)")
    batches = "calibration images the peer gets at once (default 16 and 1)"
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 1], metavar="N", help=batches)
    parser.add_argument("--search", type=int, default=2000, metavar="N", help="test images for the peer's grid (default 2000)")
    parser.add_argument("--finalists", type=int, default=6, metavar="N", help="settings that go on to all test images (default 6)")
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="runs of which the fastest and the leanest count (default 2)")
    parser.add_argument("--verbose", action="store_true", help="show what the processes say")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(arguments, Path(scratch))
        _, importing = bench.peer("import")
        results = []
        for network in networks.chosen(arguments):
            print(f"{network.name} ...", file=sys.stderr)
            results.append(compare(bench, network))
            if arguments.json:
                arguments.json.write_text(json.dumps({"threads": arguments.threads, "peer_import": importing, "networks": results}, indent=1) + "\n")
    print("Drop in points against float; seconds; peak memory.\n")
    print(table(results))
    before = f"{importing['seconds']:.1f} s and {importing['megabytes']:.0f} MB"
    print(f"\nThe peer's process takes {before} before it does anything; its MB include that, its seconds do not.")


if __name__ == "__main__":
    main()
