#!/usr/bin/env python3
"""What gulliver's quantization costs in accuracy, for each network and method, without a search.

    python quantization.py [--test NPZ] [--network JSON]... [--json OUT] > table.md

For each network and configuration it writes a plan, runs `gulliver compress` and `gulliver evaluate` with the float network as the
reference, and prints top-1 (or the agreement), the drop in points with its 95 % interval, and the seconds of `compress`. The precisions
are int8 on every layer that can take it, and w4a8 and int4 (4-bit weights and activations) on those that can take it, the others and
the first and last layer in int8. Methods are the defaults; nearest (round: nearest, balance: none, with gulliver's scales and corrected
biases); plain (as nearest, with scales from the largest weight and biases as they are: round-to-nearest as it is commonly meant); and
reconstruct. --method picks some. A precision that no layer of a network can take is passed over, and what gulliver refuses stands in the
table as failed, with the reason on stderr. Needs numpy and onnxruntime, and a built gulliver.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))

import networks
from networks import Network

PRECISIONS = ["int8", "w4a8", "int4"]
NEAREST = {"round": "nearest", "balance": "none"}
# Keys of the plan, and of `compress --quantize`.
METHODS: dict[str, tuple[dict[str, str], str]] = {
    "default": ({}, "{}"),
    "nearest": (NEAREST, "{}"),
    "plain": (NEAREST, "{weights: min_max, bias_correction: false}"),
    "reconstruct": ({"round": "reconstruct"}, "{}"),
}


def plan_of(options: dict[str, list[str]], precision: str, method: dict[str, str]) -> str | None:
    """A plan that gives every layer the precision or else int8; none where no layer can take it."""
    takers = [name for name, offered in options.items() if precision in offered]
    if not takers:
        return None
    int8 = [name for name, offered in options.items() if "int8" in offered]
    rules = [networks.rule(int8, precision="int8", **method)] if int8 else []
    if precision != "int8":
        rules.append(networks.rule(takers, precision=precision, **method))
        rules += [networks.rule(["first", "last"], precision="int8", **method)] if int8 else []
    return networks.plan(rules)


def measure(arguments: argparse.Namespace, network: Network, plan: str, quantize: str, folder: Path) -> dict[str, Any]:
    """Compresses and evaluates a network; the score as `gulliver evaluate` prints it, with the seconds and bytes of `compress`."""
    path, out = folder / "plan.yaml", folder / "compressed.onnx"
    path.write_text(plan)
    gulliver, prepared = str(arguments.gulliver), network.gulliver_input()
    compress = [gulliver, "compress", str(network.model), str(path), "--data", str(network.calibration), *prepared, "--out", str(out)]
    compress += ["--samples", str(arguments.calibration), "--quantize", quantize]
    started = time.perf_counter()
    sizes = networks.gulliver_json(compress)
    seconds = time.perf_counter() - started
    evaluate = [gulliver, "evaluate", str(out), "--data", str(network.test), *prepared, "--reference", str(network.model)]
    evaluate += ["--metric", network.metric, *(["--samples", str(network.samples)] if network.samples else [])]
    return networks.gulliver_json(evaluate) | {"seconds": seconds, "bytes": sizes["bytes"], "float_bytes": sizes["float_bytes"]}


def row(one: dict[str, Any]) -> list[str]:
    """A line of the table."""
    if "failed" in one:
        return [one["network"], one["precision"], one["method"], "failed", "", "", ""]
    low, high = one["drop_low"], one["drop_high"]
    interval = f" ({100 * low:+.2f} to {100 * high:+.2f})" if low is not None and high is not None else ""
    float_score = 100 * (one["accuracy"] + one["drop"])
    cells = [one["network"], one["precision"], one["method"], f"{float_score:.2f} %", f"{100 * one['accuracy']:.2f} %"]
    return [*cells, f"{100 * one['drop']:+.2f}{interval}", f"{one['seconds']:.1f}"]


def main() -> None:
    """Runs the configurations that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    networks.add_arguments(parser)
    parser.add_argument("--calibration", type=int, default=512, metavar="N", help="calibration images (default 512)")
    parser.add_argument("--method", action="append", choices=METHODS, help="measure only this method (may be repeated)")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
    methods = arguments.method or list(METHODS)
    measured: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for network in networks.chosen(arguments):
            options = networks.precisions(arguments.gulliver, network)
            for precision in PRECISIONS:
                for method in methods:
                    keys, quantize = METHODS[method]
                    plan = plan_of(options, precision, keys)
                    if plan is None:
                        print(f"{network.name}: no layer can take {precision}", file=sys.stderr)
                        continue
                    said = {"network": network.name, "precision": precision, "method": method}
                    try:
                        found = measure(arguments, network, plan, quantize, Path(scratch))
                    except networks.Failed as reason:
                        found = {"failed": str(reason), "plan": plan}
                    measured.append(said | found)
                    print(f"{', '.join(row(measured[-1]))} {found.get('failed', '')}", file=sys.stderr)
                    if arguments.json:
                        arguments.json.write_text(json.dumps({"threads": arguments.threads, "measured": measured}, indent=1) + "\n")
    titles = ["network", "precision", "method", "float", "accuracy", "drop in points (95 %)", "seconds"]
    print(networks.markdown(titles, [row(one) for one in measured]))
    sys.exit(any("failed" in one for one in measured))


if __name__ == "__main__":
    main()
