"""Trace a network and write it as ONNX or as PyTorch's own pt2; files are whole or absent."""

import io
import logging
import operator
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch.export import Dim, ExportedProgram

from nlseg.errors import UserError
from nlseg.export.facts import as_texts
from nlseg.export.network import ExportedNetwork
from nlseg.files import write_file

Format = Literal["onnx", "pt2"]
OPSET = 20
FACTS_FILE = "nlseg.json"
SMALLEST = 40
"""Smallest height and width in px; below, a map of a stage could be one position wide."""
_AXES: dict[str, dict[int, str]] = {
    "NCHW": {0: "batch", 2: "height", 3: "width"},
    "NHWC": {0: "batch", 1: "height", 2: "width"},
}
_EXAMPLE = 64  # px; no size is kept, but 0 and 1 would be


def trace(network: ExportedNetwork) -> ExportedProgram:
    """Return the network as a graph whose batch, height and width are free.

    Raises:
        UserError: It holds something that cannot be traced.
    """
    side = max(_EXAMPLE, *(network.crop or (0, 0))) + 16
    shape, dtype, layout = (2, network.channels, side, side + 8), torch.float32, "NCHW"
    if network.choices.with_preprocessing:
        shape, dtype, layout = (2, side, side + 8, network.channels), torch.uint8, "NHWC"
    least = {"batch": 1, "height": SMALLEST, "width": SMALLEST}
    free = {axis: Dim(name, min=least[name]) for axis, name in _AXES[layout].items()}
    try:
        with torch.no_grad(), _quiet():
            return torch.export.export(
                network.eval(),
                (torch.zeros(shape, dtype=dtype),),
                dynamic_shapes={"images": free},
                strict=False,
            )
    except Exception as error:  # of torch.export: any
        raise UserError(
            f"torch.export: the network cannot be traced: {_first_line(error)}; a class of yours "
            "that decides by values or sizes has to be written with tensors"
        ) from error


def write_pt2(program: ExportedProgram, facts: Mapping[str, Any], file: Path) -> None:
    """Write a file for ``torch.export.load``; its facts are the extra file ``nlseg.json``."""
    import json

    _add_in_pairs(program)
    buffer = io.BytesIO()
    with _quiet():
        torch.export.save(program, buffer, extra_files={FACTS_FILE: json.dumps(facts)})
    file.parent.mkdir(parents=True, exist_ok=True)
    write_file(file, buffer.getbuffer())


def _add_in_pairs(program: ExportedProgram) -> None:
    """Write sums of sizes as additions of two, as files know no ``sym_sum``."""
    for module in program.graph_module.modules():
        if not isinstance(module, torch.fx.GraphModule):
            continue
        for node in [n for n in module.graph.nodes if n.target is torch.sym_sum]:
            first, *rest = node.args[0]
            with module.graph.inserting_before(node):
                for part in rest:
                    first = module.graph.call_function(operator.add, (first, part))
                    first.meta = dict(node.meta)
            node.replace_all_uses_with(first)
            module.graph.erase_node(node)
        module.recompile()


def write_onnx(program: ExportedProgram, facts: Mapping[str, Any], file: Path) -> None:
    """Write an ONNX file; its facts are JSON values in the metadata of the model.

    Raises:
        UserError: ONNX is not installed, or has no operator for something in the graph.
    """
    try:
        import onnxscript  # noqa: F401 - torch.onnx.export needs it
    except ImportError:
        raise UserError("--format onnx: needs onnx; pip install 'nlseg[export]'") from None
    try:
        with torch.no_grad(), _quiet():
            made: Any = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=facts["opset"],
                input_names=["images"],
                output_names=[facts["output"]],
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise UserError(f"torch.onnx.export: {_last_line(error)}") from error
    proto = made.model_proto
    for name, text in as_texts(facts).items():
        proto.metadata_props.add(key=name, value=text)
    _name_sizes(proto.graph, _AXES[facts["layout"]])
    own = sorted({node.domain for node in _nodes(proto) if "nlseg" in node.domain})
    assert not own, f"the file has operators of {own}"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_file(file, proto.SerializeToString())


def _name_sizes(graph: Any, axes: Mapping[int, str]) -> None:
    """Give the free sizes of input and output the names that people read."""
    dims = graph.input[0].type.tensor_type.shape.dim
    names = {dims[axis].dim_param: name for axis, name in axes.items()}
    for each in (*graph.input, *graph.output):
        for dim in each.type.tensor_type.shape.dim:
            if dim.dim_param in names:
                dim.dim_param = names[dim.dim_param]


def _nodes(proto: Any) -> Iterator[Any]:
    for function in proto.functions:
        yield from function.node
    yield from proto.graph.node


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what the exporters say about themselves."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), repr(error))


def _last_line(error: Exception) -> str:
    """Return the line that names the operator: it comes last but for a hint."""
    lines = [line.strip() for line in str(error).splitlines() if "Error" in line]
    return lines[0] if lines else _first_line(error)
