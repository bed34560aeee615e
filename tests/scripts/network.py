"""Networks for check_models.py: random inputs that a graph can take, real images, random weights, running, comparing."""

import numpy as np
import onnxruntime as ort
from onnx import helper, numpy_helper

WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
GAINS = {("BatchNormalization", 1), ("BatchNormalization", 4), ("LayerNormalization", 1), ("InstanceNormalization", 1)}
PASSING = {"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Flatten", "DequantizeLinear", "Clip"}


def constants(graph):
    """Name → dimensions of what is constant in a graph."""
    known = {t.name: tuple(t.dims) for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            known |= {node.output[0]: tuple(a.t.dims) for a in node.attribute if a.name == "value"}
        elif node.op_type in PASSING and node.input and node.input[0] in known and node.op_type in {"Identity", "DequantizeLinear", "Cast"}:
            known[node.output[0]] = known[node.input[0]]
    return known


def readers(graph, name):
    """Nodes that read a value, also behind nodes that only pass it on, and the input it is."""
    found, names = [], [name]
    for name in names:  # grows
        for node in graph.node:
            if name in node.input:
                found.append((node, list(node.input).index(name)))
                if node.op_type in PASSING and node.output[0] not in names:
                    names.append(node.output[0])
    return found


def integers_below(graph, name):
    """The length of the shortest table that an integer input looks up; none if it looks up none."""
    known, lengths = constants(graph), []
    for node, at in readers(graph, name):
        if node.op_type == "Gather" and at == 1 and node.input[0] in known:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            lengths.append(known[node.input[0]][axis])
        elif node.op_type == "OneHot" and at == 0:
            depth = [t for t in graph.initializer if t.name == node.input[1]]
            lengths += [int(numpy_helper.to_array(t).item()) for t in depth]
    return min(lengths, default=None)


def other_sizes(inputs, assumed):
    """Name → shape of all inputs: as assumed, else as declared with 1 where a dimension is open; then with common sizes in place of those
    assumed, for networks that fix theirs without saying so."""
    declared = {p.name: [d.dim_value if d.dim_value > 0 else None for d in p.type.tensor_type.shape.dim] for p in inputs}
    yield {name: tuple(assumed.get(name) or [d or 1 for d in dims]) for name, dims in declared.items()}
    for size in (64, 48, 16, 512) if assumed else ():
        inner = lambda name, k, d: d or (size if k and name in assumed and assumed[name][k] > 1 else 1)
        yield {name: tuple(inner(name, k, d) for k, d in enumerate(dims)) for name, dims in declared.items()}


def random_inputs(graph, sizes, rng):
    """Values for all inputs, of those shapes."""
    return {p.name: random_input(graph, p, sizes[p.name], rng) for p in ports(graph)}


def random_input(graph, port, shape, rng):
    """Values that an input can be expected to take, judged by its name, its type and what reads it."""
    kind = np.dtype(helper.tensor_dtype_to_np_dtype(port.type.tensor_type.elem_type))
    name = port.name.lower()
    if "mask" in name:
        return np.ones(shape, kind)
    if name == "sr":
        return np.full(shape, 16000, kind)
    if "type" in name:
        return np.zeros(shape, kind)
    if kind == bool:
        return np.asarray(rng.random(shape) < 0.5)
    if kind.kind in "iu":
        table = integers_below(graph, port.name)
        low, high = (0, table) if table else (np.iinfo(kind).min, np.iinfo(kind).max + 1) if kind.itemsize == 1 else (0, 2)
        return np.asarray(rng.integers(low, high, shape), kind)
    return np.asarray(rng.standard_normal(shape), kind)


def ports(graph):
    """The inputs that are not initializers."""
    constant = {t.name for t in graph.initializer}
    return [i for i in graph.input if i.name not in constant]


def real_inputs(port, real, count):
    """Samples of real images, read and prepared as `real` says (see check_models.py)."""
    file = np.load(real["data"])
    images = next(file[m] for m in ("x_test", "images", "x", "data") if m in file)
    images = images[:: max(1, len(images) // count)][:count].astype(np.float32)
    images = (images * real.get("scale", 1) - np.float32(real.get("mean", [0]))) / np.float32(real.get("std", [1]))
    images = images.transpose(0, 3, 1, 2) if real.get("nchw", True) else images
    return [{port.name: np.ascontiguousarray(image[None], np.float32)} for image in images]


def with_weights(model):
    """Gives weights that are ConstantOfShape nodes random values: He's scale for products, variances around 1. Whether there were any."""
    graph = model.graph
    tensors = {t.name: t for t in graph.initializer}
    tensors |= {n.output[0]: a.t for n in graph.node if n.op_type == "Constant" for a in n.attribute if a.name == "value"}
    fills = [n for n in graph.node if n.op_type == "ConstantOfShape" and n.input[0] in tensors]
    uses = {n.output[0]: readers(graph, n.output[0]) for n in fills}
    weighs = lambda n: "::fill" in n.name + n.output[0] or any(r.op_type in WEIGHTED and at == 1 for r, at in uses[n.output[0]])
    if not any(map(weighs, fills)):
        return False
    rng = np.random.default_rng(0)
    for node, reader in [(n, r) for n in fills for r in graph.node if n.output[0] in r.input]:
        # Exporters merge weights that are equal, and these all were: every reader gets its own again.
        shared, name = node.output[0], f"{node.output[0]}.{reader.output[0]}"
        reader.input[:] = [name if i == shared else i for i in reader.input]
        dims = tuple(int(d) for d in numpy_helper.to_array(tensors[node.input[0]]))
        role = next(((r.op_type, at) for r, at in readers(graph, name) if r.op_type not in PASSING), (None, 0))
        values = rng.standard_normal(dims, np.float32)
        if role[0] in WEIGHTED and role[1] < 2 and len(dims) > 1:
            over = {"Conv": dims[1:], "ConvTranspose": dims[:1] + dims[2:], "MatMul": dims[-2:-1], "Gemm": dims[1:]}[role[0]]
            values *= np.float32(np.sqrt(2 / np.prod(over)))
        elif role in GAINS or role[0] in {"Mul", "Div"}:
            values = rng.uniform(0.8, 1.2, dims).astype(np.float32)
        else:
            values *= np.float32(0.1)
        graph.initializer.append(numpy_helper.from_array(values, name))
    for node in fills:
        graph.node.remove(node)
    return True


# ---- running

def session(path):
    """The network on one thread, its quantized parts computed as they are written."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = 1, 1, 4
    options.add_session_config_entry("session.disable_quant_qdq", "1")  # integers would saturate differently
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def outputs(path, samples):
    """For each sample the outputs as arrays; sequences are laid flat."""
    made = session(path)
    flat = lambda value: [v for inner in value for v in flat(inner)] if isinstance(value, list) else [np.asarray(value)]
    return [[a for value in made.run(None, sample) for a in flat(value)] for sample in samples]


def difference(ours, theirs):
    """The largest difference of an output, as a share of its range; infinite where there is no measuring it."""
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        raise ValueError(f"{ours.dtype}{list(ours.shape)} in place of {theirs.dtype}{list(theirs.shape)}")
    if theirs.dtype.kind not in "fV":
        return 0.0 if np.array_equal(ours, theirs) else np.inf
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    other = (ours != theirs) & ~(np.isnan(ours) & np.isnan(theirs))
    if not other.any():
        return 0.0
    if not (np.isfinite(ours[other]).all() and np.isfinite(theirs[other]).all()):
        return np.inf
    finite = theirs[np.isfinite(theirs)]
    scale = np.ptp(finite) or np.abs(finite).max()
    return np.abs(ours - theirs)[other].max() / scale if scale else np.inf
