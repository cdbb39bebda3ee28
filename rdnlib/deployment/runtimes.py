"""Runtimes: what executes a network on this machine. Each makes one function of tensors from a module and example inputs.

Eager PyTorch launches layer after layer from Python; TorchInductor compiles them; ONNX Runtime and OpenVINO plan the whole graph,
choose the layout of every tensor and fuse activations into convolutions. The last two run on the CPU here, and are packages of
their own (the extra `rdnlib[runtimes]` brings the first). A runtime of one's own is one more entry of `RUNTIMES`.
"""

import importlib.util
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from rdnlib.errors import ConfigError
from rdnlib.utils.devices import flushing_denormals

Network = Callable[..., Tensor | tuple[Tensor, ...]]


def prepare(network: nn.Module, inputs: Sequence[Tensor], runtime: str = "eager", *, threads: int = 1) -> Network:
    """The network as a function of tensors like `inputs`, whose first dimension, the batch, may have any size.

    threads: of ONNX Runtime and OpenVINO; the others take torch's. Raises ConfigError for a runtime that is unknown or not installed.
    """
    if runtime not in RUNTIMES:
        raise ConfigError(f"runtime must be one of {', '.join(RUNTIMES)}, not {runtime!r}")
    if runtime not in available():
        raise ConfigError(f"runtime {runtime} is not installed: pip install {PACKAGES[runtime]}")
    return RUNTIMES[runtime](network.eval(), tuple(inputs), threads)


def available() -> list[str]:
    """The runtimes that can be used here."""
    return [name for name in RUNTIMES if importlib.util.find_spec(PACKAGES.get(name, "torch"))]


def write_onnx(
    network: nn.Module, inputs: Sequence[Tensor], path: Path, names: Sequence[str], outputs: Sequence[str]
) -> None:
    """Write a module as ONNX with these names of inputs and outputs; dimension 0 of all of them is the batch."""
    with warnings.catch_warnings():
        # torch's newer exporter wants two more packages and minutes instead of seconds for as many small layers as these
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, tuple(inputs), path, dynamo=False, input_names=[*names], output_names=[*outputs],
            dynamic_axes={name: {0: "batch"} for name in (*names, *outputs) if name != "lambda"},
        )  # fmt: skip


def _eager(network: nn.Module, inputs: tuple[Tensor, ...], threads: int) -> Network:
    return network


def _compiled(network: nn.Module, inputs: tuple[Tensor, ...], threads: int) -> Network:
    compiled = torch.compile(network, options={"freezing": True})
    with torch.inference_mode():
        compiled(*inputs)
    return compiled


def _onnxruntime(network: nn.Module, inputs: tuple[Tensor, ...], threads: int) -> Network:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    path = _as_onnx(network, inputs)
    try:
        with flushing_denormals():  # the first session of a process sets that for its thread and leaves it so
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    finally:
        path.unlink()
    names = [each.name for each in session.get_inputs()]

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        return session.run(None, {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)})

    return _like_torch(run)


def _openvino(network: nn.Module, inputs: tuple[Tensor, ...], threads: int) -> Network:
    import openvino

    path = _as_onnx(network, inputs)
    try:
        settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        compiled = openvino.Core().compile_model(openvino.Core().read_model(path), "CPU", settings)
    finally:
        path.unlink()
    request = compiled.create_infer_request()

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(request.infer([tensor.numpy() for tensor in tensors]).values())

    return _like_torch(run)


def _as_onnx(network: nn.Module, inputs: tuple[Tensor, ...]) -> Path:
    """A temporary file; the caller removes it."""
    with torch.no_grad():
        outputs = network(*inputs)
    count = len(outputs) if isinstance(outputs, tuple) else 1
    with tempfile.NamedTemporaryFile(suffix=".onnx", delete=False) as file:
        path = Path(file.name)
    names = [f"input_{number}" for number in range(len(inputs))], [f"output_{number}" for number in range(count)]
    write_onnx(network, [each.contiguous() for each in inputs], path, *names)
    return path


def _like_torch(run: Callable) -> Network:
    """Arrays to tensors; one output alone is not a tuple."""

    def network(*tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
        outputs = tuple(map(torch.from_numpy, run(*(tensor.contiguous() for tensor in tensors))))
        return outputs[0] if len(outputs) == 1 else outputs

    return network


ANY_BATCH = ("onnxruntime", "openvino")  # what they prepare is as fast on batches of another size
RUNTIMES = {"eager": _eager, "compile": _compiled, "onnxruntime": _onnxruntime, "openvino": _openvino}
PACKAGES = {"onnxruntime": "onnxruntime", "openvino": "openvino"}
