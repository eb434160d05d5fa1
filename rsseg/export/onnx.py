"""A network as an ONNX file, which onnxruntime and many others run without rsseg and without torch.

    <name>         (batch, C, height, width) float32   z-scores of a modality's physical values
    <name>_valid   (batch, height, width) bool         True = usable pixel
    logits         (batch, K, height, width) float32   softmax over K is the probability of each class

Logits and not probabilities: they lose nothing, and those who blend windows take the softmax first.  What the
inputs mean is said in `rsseg.export.program`, whose program this is; the file's metadata hold the same facts.
"""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rsseg import whole
from rsseg.checkpoint import Model
from rsseg.errors import RssegError
from rsseg.export.program import (
    OUTPUT,
    PARITY,
    Batch,
    Traced,
    compare,
    describe,
    examples,
    first_that_works,
    flat,
    hushed,
    names,
    refusal,
    text,
    trace,
)
from rsseg.models.segmenter import Segmenter

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

SUFFIX = ".onnx"

_NEEDED = ("onnx", "onnxscript")
_AXES = ("batch", "height", "width")


def save_onnx(model: Model, path: Path, tile: int | None = None, *, overwrite: bool = False) -> Traced:
    """Writes a network as an ONNX file.

    Args:
        model: network and facts; the network on the CPU.
        path: file to write, `….onnx`.
        tile: height and width, pixels; None takes any, where the network allows it.
        overwrite: replace a file that is there.

    Returns:
        What was traced; its `difference` is onnxruntime's where that is installed.

    Raises:
        ModelError: the network cannot be exported, or the tile does not fit its stride.
        RssegError: onnx is not installed, or the file cannot be written.
    """
    require()
    whole.require_free(path, SUFFIX, overwrite=overwrite)
    names(model.segmenter)
    traced, proto = first_that_works(model, tile, lambda size: _converted(model.segmenter, size))
    for key, value in text(describe(model, traced.tile)).items():
        proto.metadata_props.add(key=f"rsseg.{key}" if key != "rsseg" else key, value=value)
    whole.write(path, proto.SerializeToString())
    return traced


def require() -> None:
    """Checks that what writes ONNX files is installed.

    Raises:
        RssegError: it is not; the message says how to install it.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise RssegError(
            f"ONNX files need {' and '.join(missing)}, not installed here; pip install 'rsseg[onnx]'"
        )


def _converted(segmenter: Segmenter[Any], tile: int | None) -> tuple[Traced, "ModelProto"]:
    traced = trace(segmenter, tile)
    batch = next(examples(segmenter, tile))
    try:
        with hushed():
            made = torch.onnx.export(
                traced.program,
                batch,
                dynamo=True,
                input_names=list(names(segmenter)),
                output_names=[OUTPUT],
                external_data=False,
                verbose=False,
            )
            proto = _plain(made.model_proto)  # type: ignore[union-attr]
            _check(proto)
            difference = max((_tried(segmenter, proto, one) for one in examples(segmenter, tile)), default=0)
    except Exception as error:  # three libraries, each with errors of its own
        raise refusal(segmenter, error, tile) from error
    if not difference <= PARITY:
        raise refusal(segmenter, ValueError(f"its logits differ by {difference:.2g} under onnxruntime"), tile)
    return Traced(traced.program, tile, max(difference, traced.difference)), proto


def _tried(segmenter: Segmenter[Any], proto: "ModelProto", batch: Batch) -> float:
    """Returns the difference under onnxruntime; 0 where that is not installed."""
    if importlib.util.find_spec("onnxruntime") is None:
        return 0.0
    import onnxruntime  # noqa: PLC0415 - optional

    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (logits,) = session.run([OUTPUT], {name: tensor.numpy() for name, tensor in flat(batch).items()})
    return compare(segmenter, batch, torch.from_numpy(logits))


def _plain(proto: "ModelProto") -> "ModelProto":
    """Returns a model whose axes have names, without the exporter's notes: they hold paths."""
    graph = proto.graph
    for entry in (*graph.input, *graph.output):
        _name_axes(entry.type.tensor_type.shape.dim)
    del graph.value_info[:]  # derived shapes, in terms of the axes' old names
    for holder in (proto, graph, *_nodes(graph), *graph.input, *graph.output, *graph.initializer):
        del holder.metadata_props[:]
        holder.doc_string = ""
    proto.doc_string = (__doc__ or "").partition("\n\n")[2]
    return proto


def _nodes(graph: "GraphProto") -> list[Any]:
    inner = [a.g for node in graph.node for a in node.attribute if a.HasField("g")]
    return [*graph.node, *(node for one in inner for node in _nodes(one))]


def _name_axes(axes: Any) -> None:
    """Names the axes of any length; that of bands or classes has a fixed one."""
    for name, axis in zip(_AXES, (axes[0], axes[-2], axes[-1]), strict=True):
        if axis.HasField("dim_param"):
            axis.dim_param = name


def _check(proto: "ModelProto") -> None:
    from onnx import checker  # noqa: PLC0415 - optional

    checker.check_model(proto)
