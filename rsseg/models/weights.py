"""Weights of a backbone: the library's own, or a local file that cannot run code."""

import pickle
import warnings
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from rsseg.errors import ModelError

CLASSIFIER = (
    "head",
    "head_dist",
    "fc",
    "classifier",
    "conv_head",
    "norm_head",
    "last_linear",
    "pre_logits",
    "norm",
)
"""First words of keys behind the pyramid: ignored when the backbone has no such layer."""
NESTED = ("state_dict", "model", "model_state_dict")
"""Keys under which training scripts put the state dict."""


def load_weights(backbone: nn.Module, path: Path) -> None:
    """Loads a local file into a backbone.

    Accepts the backbone's own state dict, also under a prefix ("encoder.", "model.backbone.", …) among other
    keys, and with the names timm uses before it flattens a network ("stages.0" for "stages_0").

    Args:
        backbone: as the library builds it, before any layer is taken out.
        path: .safetensors, .pth or .pt.

    Raises:
        ModelError: unreadable or unsafe file, or keys or shapes that differ.
    """
    own = backbone.state_dict()
    found = _matched(read_state(path), {_plain(key): key for key in own})
    missing = [key for key in own if key not in found and not key.endswith("num_batches_tracked")]
    foreign = [key for key in found if key not in own]
    shapes = [
        f"{key} {tuple(found[key].shape)}, expected {tuple(own[key].shape)}"
        for key in own
        if key in found and found[key].shape != own[key].shape
    ]
    if missing or foreign or shapes:
        parts = [
            _some("missing", missing),
            _some("not in the backbone", foreign),
            _some("other shapes", shapes),
        ]
        raise ModelError(
            f"weights {path} do not fit: {'; '.join(p for p in parts if p)}; give those of this backbone"
        )
    nn.Module.load_state_dict(backbone, found, strict=False)  # SMP's own version takes no `strict`


def read_state(path: Path) -> dict[str, Tensor]:
    """Returns the tensors in a file, by name, without running anything in it.

    Raises:
        ModelError: no such file, not a state dict, or a file that only unpickling or TorchScript could open.
    """
    if not path.is_file():
        raise ModelError(f'weights {path}: no such file; give "imagenet", the PATH of a local file, or null')
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ModelError(f"weights {path}: not a safetensors file ({error})") from error
    return _read_torch(path)


def _read_torch(path: Path) -> dict[str, Tensor]:
    if _is_torchscript(path):
        load = f"torch.jit.load('{path}', map_location='cpu')"
        convert = f"torch.save({load}.state_dict(), '{path.with_suffix('.pth')}')"
        raise ModelError(
            f"weights {path}: a TorchScript archive can run code; where you trust it, run: "
            f'python -c "import torch; {convert}"'
        )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # what cannot be read fails below
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"weights {path}: only tensors are read, never pickled objects ({reason})"
        ) from error
    for key in NESTED:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    tensors = {k: v for k, v in state.items() if isinstance(v, Tensor)} if isinstance(state, Mapping) else {}
    if not tensors:
        raise ModelError(f"weights {path}: no tensors by name; expected a state dict")
    return tensors


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _matched(state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Returns the tensors under the backbone's prefix, by the backbone's names, without a classifier's."""
    prefix = _prefix(state, names)
    inside = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
    return {
        names.get(_plain(key), key): tensor
        for key, tensor in inside.items()
        if _plain(key) in names or key.split(".")[0] not in CLASSIFIER
    }


def _prefix(state: Mapping[str, Tensor], names: Mapping[str, str]) -> str:
    votes: Counter[str] = Counter()
    for key in state:
        words = key.split(".")
        votes.update(
            ".".join([*words[:i], ""]) for i in range(len(words)) if _plain(".".join(words[i:])) in names
        )
    return votes.most_common(1)[0][0] if votes else ""


def _plain(key: str) -> str:
    return key.replace(".", "_")


def _some(what: str, keys: list[str]) -> str:
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return f"{what}: {', '.join(keys[:3])}{more}" if keys else ""
