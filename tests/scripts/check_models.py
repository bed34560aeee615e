"""Checks gulliver on every ONNX network below some folders against ONNX Runtime. For each network:

a) `inspect --json --normalised` must end well; a panic is a failure on any input.
b) The normalised network must compute what the original does: three random inputs (and real images, where given), every output
   within 1e-4 of its range (1e-2 with 16-bit weights), integers equal, NaN in the same places.
c) Two plans made of inspect's options, all INT8 and a mix of bits, channels and ranks, must compress to a model that ONNX's
   checker accepts and that gives outputs of the same shapes, finite where the original's are. How far they are is only reported.

Networks that ONNX Runtime cannot run skip b and c, and may be refused. Where weights are ConstantOfShape nodes (exported topologies),
the file as it is is only inspected, and a copy with random weights takes all the checks. Where the sizes that inspect assumed for open
dimensions do not run, others are tried. Every network has a process of its own, every command 300 s.

    python3 -m venv v && v/bin/pip install onnx onnxruntime numpy
    v/bin/python tests/scripts/check_models.py FOLDER... [--gulliver target/release/gulliver] [--only GLOB] [--skip GLOB]
        [--real JSON] [--data NPZ] [--jobs 1] [--json OUT]

Globs are for paths below the folder. --real: {"STEM": {"scale": 1, "mean": [0], "std": [1], "nchw": true, "data": "F.npz"}, …};
images are (stored · scale − mean) / std, stored channels last in `x_test`, `images`, `x` or `data` of the npz; --data is the npz where
"data" is left out.
Exit code 1 if anything failed.
"""

import argparse, fnmatch, json, os, re, shutil, signal, subprocess, sys, tempfile, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
from network import difference, other_sizes, outputs, ports, random_inputs, real_inputs, session, with_weights

SECONDS = 300  # for one command
SAMPLES = 6  # for calibration; the normalised network is compared on the first three
TOLERANCE, HALF_TOLERANCE = 1e-4, 1e-2  # of an output's range; where the network itself rounds to 16 bits
COUNTING = {"NonMaxSuppression", "NonZero", "Unique", "Compress"}  # the values decide how much comes out


class Failure(Exception):
    """A check that did not hold, in words."""


# ---- gulliver

def run(gulliver, *arguments):
    """What a command printed as JSON; a failure with its reason if it did not end well."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # the same ONNX Runtime as ours
    command = [gulliver, *map(str, arguments), "--json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS, env={**os.environ, "PATH": path})
    except subprocess.TimeoutExpired:
        raise Failure(f"{arguments[0]}: no answer in {SECONDS} s") from None
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    bug = next((line for line in said if re.search("panicked|internal error", line, re.IGNORECASE)), None)
    if bug or done.returncode == 101:
        raise Failure(f"{arguments[0]}: PANIC {' '.join(said[said.index(bug) :][:2] if bug else said[:1])}")
    try:
        document = json.loads(done.stdout)
    except ValueError:
        document = {}
    if done.returncode != 0:
        words = [document["error"], *document["because"]] if "error" in document else said[:1]
        raise Failure(f"{arguments[0]}: exit {done.returncode}: {': '.join(words)}")
    return document


# ---- the checks

def plans(layers):
    """Lines of the two plans, by name; a plan that would change nothing is left out."""
    int8 = [{"layers": [l["name"]], "precision": "int8"} for l in layers if "int8" in l["options"]["precision"]]
    narrow = {l["group"] for l in layers if 0.75 not in l["options"]["keep"]}
    mixed, splittable = [], 0
    for at, layer in enumerate(layers):
        options, line = layer["options"], {"layers": [layer["name"]]}
        wanted = "int4" if at % 2 and "int4" in options["precision"] else "int8"
        if wanted in options["precision"]:
            line["precision"] = wanted
        if layer["group"] and layer["group"] not in narrow:
            line["keep"] = 0.75
        if options["rank"]:
            splittable += 1
            if splittable % 2:
                line["rank"] = options["rank"][0]  # the first is half of the full rank
        if len(line) > 1:
            mixed.append(line)
    return {name: lines for name, lines in (("int8", int8), ("mixed", mixed)) if lines}


def data_arguments(model, inputs, samples, folder):
    """Writes the samples as gulliver takes them: an npz for one input, raw tensors named by a spec for several."""
    if len(inputs) == 1:
        name = inputs[0].name
        np.savez(folder / "data.npz", images=np.concatenate([np.atleast_1d(s[name]) for s in samples]).astype(np.float32))
        return ["--data", folder / "data.npz"]
    whole = [s[inputs[0].name].shape[:1] for s in samples][0]  # a file is one of a fixed batch
    for at, port in enumerate(inputs):
        (folder / f"input{at}").mkdir(exist_ok=True)
        parts = [p for s in samples for p in (s[port.name] if s[port.name].shape[:1] == whole else [s[port.name]] * (*whole, 1)[0])]
        for k, values in enumerate(parts):
            values.astype(np.float32).tofile(folder / f"input{at}" / f"{k:03}.bin")
    source = {"bins": [str(folder / f"input{at}") for at in range(len(inputs))], "dtype": "float32"}
    spec = {"model": str(model), "data": {"calibration": source, "validation": source}, "metric": "cosine", "device": {"name": "ascend310p3"}}
    (folder / "spec.yaml").write_text(json.dumps(spec))
    return ["--spec", folder / "spec.yaml"]


def check_compressed(gulliver, model, lines, data, shapes, samples, wanted, folder):
    """The relative difference (root mean square) of the compressed model's float outputs."""
    plan, out = folder / "plan.yaml", folder / "out.onnx"
    plan.write_text(json.dumps({"treatments": lines}))
    run(gulliver, "compress", model, plan, *data, "--out", out, *shapes)
    try:
        onnx.checker.check_model(str(out), full_check=True)
    except Exception as error:  # what it raises is not one type
        try:
            onnx.checker.check_model(str(model), full_check=True)
        except Exception:
            pass  # so is the original
        else:
            raise Failure(f"the checker refuses it: {one_line(error)}") from None
    try:
        got = outputs(out, samples)
    except Exception as error:
        raise Failure(f"ONNX Runtime: {one_line(error)}") from None
    counts = any(n.op_type in COUNTING for n in onnx.load(model, load_external_data=False).graph.node)
    off = size = 0.0
    for ours, theirs in ((o, t) for os_, ts in zip(got, wanted) for o, t in zip(os_, ts, strict=True)):
        if ours.shape != theirs.shape and counts:
            continue
        if ours.shape != theirs.shape:
            raise Failure(f"an output is {list(ours.shape)} in place of {list(theirs.shape)}")
        if theirs.dtype.kind == "f":
            finite = np.isfinite(theirs)
            if not np.isfinite(ours[finite]).all():
                raise Failure("an output is not finite")
            off += np.square(ours[finite].astype(np.float64) - theirs[finite]).sum()
            size += np.square(theirs[finite].astype(np.float64)).sum()
    return float(np.sqrt(off / size)) if size else 0.0


def one_line(error):
    return " ".join(str(error).split())[:400] or type(error).__name__


def refusal(gulliver, path):
    """Nothing, if inspect refuses a file that is no ONNX model with exit code 2."""
    try:
        run(gulliver, "inspect", path)
    except Failure as failure:
        return {} if str(failure).startswith("inspect: exit 2:") else {"failures": [str(failure)]}
    return {"failures": ["inspect takes what is not an ONNX file"]}


def check(path, gulliver, real, folder):
    """A line of the table: what was found, `failures` with reasons, `notes`."""
    row = {"failures": [], "notes": []}
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:
        row["notes"].append(f"not an ONNX file: {one_line(error)}")
        return row | refusal(gulliver, path)
    try:
        if with_weights(model):
            run(gulliver, "inspect", path)
            path = folder / "weights.onnx"
            onnx.save(model, path)
        normalised = folder / "normalised.onnx"
        found = run(gulliver, "inspect", path, "--normalised", normalised)
    except Failure as failure:
        kind = "failures"
        try:
            session(path)
        except Exception as error:  # then gulliver may refuse it too
            row["notes"].append(f"not runnable: {one_line(error)}")
            kind = "notes" if "inspect: exit 2:" in str(failure) else kind
        row[kind].append(str(failure))
        return row
    layers, assumed, inputs = found["layers"], found.get("assumed") or {}, ports(model.graph)
    row |= {"layers": len(layers), "prunable": sum(g["why_not"] is None for g in found["groups"]), "skipped": len(found["skipped"])}
    row["notes"] += [f"assumed {name} {dims}" for name, dims in assumed.items()]
    reasons = []
    for sizes in other_sizes(inputs, assumed):
        samples = [random_inputs(model.graph, sizes, np.random.default_rng(seed)) for seed in range(SAMPLES)]
        try:
            wanted = outputs(path, samples)
            break
        except Exception as error:
            reasons.append(one_line(error))
    else:
        row["notes"].append(f"not runnable: {reasons[0]}")
        return row
    if reasons:
        assumed = {name: sizes[name] for name in assumed}
        row["notes"].append(f"runs with {assumed} only")
    shapes = [a for name, dims in assumed.items() for a in ("--shape", f"{name}:{','.join(map(str, dims))}")]
    if reasons:
        layers = run(gulliver, "inspect", path, *shapes)["layers"]
    pictures = real_inputs(inputs[0], real, SAMPLES) if real else []
    wanted_pictures = outputs(path, pictures) if pictures else []
    try:
        pairs = zip(outputs(normalised, samples[:3] + pictures), wanted[:3] + wanted_pictures)
        row["normalised"] = float(max(difference(o, t) for os_, ts in pairs for o, t in zip(os_, ts, strict=True)))
        half = any(t.data_type == onnx.TensorProto.FLOAT16 for t in model.graph.initializer)
        if row["normalised"] > (HALF_TOLERANCE if half else TOLERANCE):
            raise Failure(f"{row['normalised']:.1e} of an output's range away from the original")
    except Exception as error:
        row["failures"].append(f"normalised: {one_line(error)}")
    if pictures:
        samples, wanted = pictures, wanted_pictures
    data = data_arguments(path, inputs, samples, folder)
    for name, lines in plans(layers).items():
        try:
            row[name] = check_compressed(gulliver, path, lines, data, shapes, samples, wanted, folder)
        except Exception as error:
            row["failures"].append(f"{name}: {one_line(error)}")
    return row


def check_apart(path, options, stem_real):
    """As `check`, in a process of its own with a folder of its own, so that a crash is one network's."""
    started, folder = time.monotonic(), Path(tempfile.mkdtemp(prefix="check_models_"))
    command = [sys.executable, __file__, "--one", str(path), "--gulliver", options.gulliver, "--scratch", str(folder), "--image", json.dumps(stem_real)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=8 * SECONDS)
        row = json.loads(done.stdout) if done.returncode == 0 else None
        row = row or {"failures": [f"the check ended with {done.returncode}: {one_line(done.stderr[-300:])}"], "notes": []}
    except subprocess.TimeoutExpired:
        row = {"failures": [f"the check took more than {8 * SECONDS} s"], "notes": []}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return row | {"seconds": round(time.monotonic() - started, 1)}


def table(rows):
    number = lambda v: "-" if v is None else f"{v:.1e}" if isinstance(v, float) and v else str(v)
    heads = ("model", "layers", "prunable", "skipped", "normalised", "int8", "mixed", "seconds")
    cells = lambda row: [row["model"], *(number(row.get(h)) for h in heads[1:-1]), f"{row['seconds']:.0f}", "FAILED" if row["failures"] else ""]
    lines = [[*heads, ""], *map(cells, rows)]
    widths = [max(len(line[c]) for line in lines) for c in range(len(heads) + 1)]
    return "\n".join("  ".join([line[0].ljust(widths[0]), *(v.rjust(w) for v, w in zip(line[1:], widths[1:]))]).rstrip() for line in lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--gulliver", default="target/release/gulliver")
    parser.add_argument("--only", action="append")
    parser.add_argument("--skip", action="append", default=[])
    parser.add_argument("--real", type=Path)
    parser.add_argument("--data")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", type=Path)
    for hidden in ("--one", "--scratch", "--image"):  # the process of one network
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(check(Path(options.one), options.gulliver, json.loads(options.image), Path(options.scratch))))
        return 0
    fits = lambda name: any(fnmatch.fnmatch(name, g) for g in options.only or ["*"]) and not any(fnmatch.fnmatch(name, g) for g in options.skip)
    named = sorted((str(p.relative_to(f)), p) for f in options.folders for p in f.rglob("*.onnx") if fits(str(p.relative_to(f))))
    real = {stem: {"data": options.data, **how} for stem, how in json.loads(options.real.read_text() if options.real else "{}").items()}

    def one(item):
        row = {"model": item[0]} | check_apart(item[1], options, real.get(item[1].stem))
        print(f"{row['model']}: {'; '.join(row['failures']) or 'ok'}", file=sys.stderr, flush=True)
        return row

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the folders go
    pool = ThreadPoolExecutor(options.jobs)
    try:
        rows = list(pool.map(one, named))
    finally:
        pool.shutdown(cancel_futures=True)
    print(table(rows))
    for kind in ("notes", "failures"):
        print(f"\n{kind}", *(f"{row['model']}: {text}" for row in rows for text in row[kind]), sep="\n  ")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    return 1 if not rows or any(row["failures"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
