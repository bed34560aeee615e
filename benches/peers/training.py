"""One training step of a network in PyTorch eager: milliseconds and peak memory, float and fake-quantized.

Beside `cargo bench --bench training`, on the same machine in the same run:

    pip install torch onnx numpy
    python benches/peers/training.py MODEL.onnx [--batch 64] [--threads 2] [--steps 20] [--qat]

The network is run node by node as its ONNX file has it, BatchNorm in evaluation mode as in the file. With `--qat` weights of Conv and Gemm and the values that they read
go through torch.ao's FakeQuantize with moving average observers (8 bits, weights per channel), PyTorch's own way of eager QAT. A line of JSON on stdout.
"""

import argparse
import json
import os
import resource
import time

import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import nn
from torch.ao.quantization import (
    FakeQuantize,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
)


class Network(nn.Module):
    """An ONNX graph of the operators that classifiers have."""

    def __init__(self, path, qat):
        super().__init__()
        model = onnx.load(path)
        self.nodes = list(model.graph.node)
        self.input = model.graph.input[0].name
        self.output = model.graph.output[0].name
        self.weights = nn.ParameterDict()
        self.constants = {}
        self.quantizers = nn.ModuleDict()
        for tensor in model.graph.initializer:
            value = torch.tensor(numpy_helper.to_array(tensor).copy())
            if value.dtype == torch.float32 and value.ndim > 0:
                self.weights[self.key(tensor.name)] = nn.Parameter(value)
            else:
                self.constants[tensor.name] = value
        for i, node in enumerate(self.nodes if qat else []):
            if node.op_type in ("Conv", "Gemm"):
                self.quantizers[f"{i}/x".replace("/", "_")] = FakeQuantize(
                    MovingAverageMinMaxObserver, quant_min=0, quant_max=255, dtype=torch.quint8
                )
                self.quantizers[f"{i}/w".replace("/", "_")] = FakeQuantize(
                    MovingAveragePerChannelMinMaxObserver,
                    quant_min=-128,
                    quant_max=127,
                    dtype=torch.qint8,
                    qscheme=torch.per_channel_symmetric,
                    ch_axis=0,
                )

    @staticmethod
    def key(name):
        return name.replace(".", "_").replace("/", "_")

    def forward(self, x):
        values = {self.input: x}

        def get(name):
            if not name:
                return None
            if name in values:
                return values[name]
            key = self.key(name)
            return self.weights[key] if key in self.weights else self.constants[name]

        for i, node in enumerate(self.nodes):
            a = {x.name: onnx.helper.get_attribute_value(x) for x in node.attribute}
            args = [get(n) for n in node.input]
            op = node.op_type
            if op in ("Conv", "Gemm") and self.quantizers:
                args[0] = self.quantizers[f"{i}_x"](args[0])
                args[1] = self.quantizers[f"{i}_w"](args[1])
            if op == "Conv":
                pads = a.get("pads", [0] * 4)
                assert pads[:2] == pads[2:]
                bias = args[2] if len(args) > 2 else None
                y = F.conv2d(args[0], args[1], bias, a.get("strides", 1), pads[:2], a.get("dilations", 1), a.get("group", 1))
            elif op == "Gemm":
                y = F.linear(args[0], args[1] if a.get("transB") else args[1].t(), args[2])
            elif op == "Relu":
                y = F.relu(args[0])
            elif op == "Clip":
                y = F.hardtanh(args[0], float(args[1]), float(args[2]))
            elif op == "BatchNormalization":
                mean, var = args[3].detach(), args[4].detach()
                y = F.batch_norm(args[0], mean, var, args[1], args[2], training=False, eps=a.get("epsilon", 1e-5))
            elif op == "MaxPool":
                y = F.max_pool2d(args[0], a["kernel_shape"], a["strides"])
            elif op == "GlobalAveragePool":
                y = args[0].mean((2, 3), keepdim=True)
            elif op == "Flatten":
                y = args[0].flatten(1)
            elif op == "Add":
                y = args[0] + args[1]
            elif op == "Constant":
                y = torch.tensor(numpy_helper.to_array(a["value"]))
            else:
                raise SystemExit(f"no {op} here")
            values[node.output[0]] = y
        return values[self.output]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--qat", action="store_true")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    network = Network(a.model, a.qat)
    optimiser = torch.optim.SGD(network.parameters(), 1e-6, momentum=0.9)
    images = torch.rand(a.batch, 3, 32, 32) * 2 - 1
    labels = torch.arange(a.batch) % 10
    times = []
    for _ in range(a.steps + 3):
        start = time.perf_counter()
        optimiser.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimiser.step()
        times.append(1e3 * (time.perf_counter() - start))
    times = sorted(times[3:])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(
        json.dumps(
            {
                "model": os.path.splitext(os.path.basename(a.model))[0],
                "batch": a.batch,
                "threads": a.threads,
                "qat": a.qat,
                "ms_least": round(times[0], 1),
                "ms_median": round(times[len(times) // 2], 1),
                "peak_mb": peak,
                "imports_mb": before,
            }
        )
    )


if __name__ == "__main__":
    main()
