"""Measures the memory that `gulliver inspect` takes for a network of 2.5 GB, which ONNX can only hold with external data.

A chain of 38 products with 4096×4096 float weights, with residual additions and a LayerNorm, is written to a temporary folder. Prints
the peak of the process's resident memory, the weights' bytes, their ratio and the seconds; exit code 1 if the ratio is 1.2 or more or
inspect fails. The folder (2.6 GB) is always removed; TMPDIR says where it is.

    python3 -m venv v && v/bin/pip install onnx numpy onnxruntime
    v/bin/python tests/scripts/big_model.py [--gulliver target/release/gulliver] [--layers 38] [--limit 1.2]
"""

import argparse, json, os, signal, subprocess, sys, tempfile, time
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, save

WIDTH = 4096
SECONDS = 600


def external(name, dims, offset, length):
    """A float tensor whose data lie in the file `weights.bin`."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "weights.bin"), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def write(folder, layers):
    """Writes the network, a weight at a time; gives its path and the bytes of its weights."""
    nodes, tensors, offset, value = [], [], 0, "x"
    rng = np.random.default_rng(0)
    with (folder / "weights.bin").open("wb") as file:

        def weight(name, dims, scale, shift=0.0):
            nonlocal offset
            data = rng.standard_normal(dims, np.float32)
            data *= np.float32(scale)
            data += np.float32(shift)
            file.write(memoryview(data).cast("B"))
            tensors.append(external(name, dims, offset, data.nbytes))
            offset += data.nbytes
            return name

        for k in range(layers):
            w = weight(f"w{k}", (WIDTH, WIDTH), WIDTH**-0.5)
            if k % 2:  # a product without a bias, and the way around two layers
                nodes.append(helper.make_node("MatMul", [value, w], [f"m{k}"], f"matmul{k}"))
                nodes.append(helper.make_node("Add", [f"m{k}", around], [f"y{k}"], f"add{k}"))
            else:
                around = value
                b = weight(f"b{k}", (WIDTH,), 0.1)
                nodes.append(helper.make_node("Gemm", [value, w, b], [f"g{k}"], f"gemm{k}"))
                nodes.append(helper.make_node("Relu", [f"g{k}"], [f"y{k}"], f"relu{k}"))
            value = f"y{k}"
        norm = [value, weight("gain", (WIDTH,), 0.1, 1.0), weight("shift", (WIDTH,), 0.1)]
        nodes.append(helper.make_node("LayerNormalization", norm, ["y"], "norm", axis=-1))
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", WIDTH]) for name in "xy"]
    graph = helper.make_graph(nodes, "big", ports[:1], ports[1:], tensors)
    path = folder / "big.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path, offset


def measure(command, folder):
    """Runs a command: exit status, peak resident bytes, seconds. Killed after `SECONDS`."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # where ONNX Runtime is
    started = time.monotonic()
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        child = subprocess.Popen(command, stdout=out, stderr=err, env={**os.environ, "PATH": path})
        while True:
            pid, status, usage = os.wait4(child.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() - started > SECONDS:
                child.send_signal(signal.SIGKILL)
            time.sleep(0.05)
    child.returncode = os.waitstatus_to_exitcode(status)
    unit = 1 if sys.platform == "darwin" else 1024
    return child.returncode, usage.ru_maxrss * unit, time.monotonic() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gulliver", default="target/release/gulliver")
    parser.add_argument("--layers", type=int, default=38)
    parser.add_argument("--limit", type=float, default=1.2)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the folder goes
    with tempfile.TemporaryDirectory(prefix="big_model_") as folder:
        folder = Path(folder)
        model, weights = write(folder, options.layers)
        code, peak, seconds = measure([options.gulliver, "inspect", str(model), "--json"], folder)
        ratio = peak / weights
        print(f"peak {peak / 1e9:.2f} GB, weights {weights / 1e9:.2f} GB, ratio {ratio:.2f}, {seconds:.1f} s, exit {code}")
        if code != 0:
            print((folder / "err").read_text(errors="replace").strip(), file=sys.stderr)
            return 1
        print(f"{len(json.loads((folder / 'out').read_text())['layers'])} layers")
    return 1 if ratio >= options.limit else 0


if __name__ == "__main__":
    sys.exit(main())
