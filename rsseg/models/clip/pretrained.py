"""CLIP as open_clip builds it, with the weights of a tag or of a local file that cannot run code."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
from torch import Tensor

from rsseg.errors import ModelError
from rsseg.models.weights import read_state

_ORIGINAL = ("input_resolution", "context_length", "vocab_size")
"""What OpenAI's own files hold beside the weights."""


def build_clip(name: str, weights: str | None, *, texts: bool = True) -> open_clip.CLIP:
    """Returns both towers.

    Args:
        name: of an architecture whose image tower is a plain vision transformer, e.g. "ViT-B-32".
        weights: a tag of open_clip, the path of a local file, or None for random ones.
        texts: whether the text tower will be used; else it is a stub, and `weights` are None.

    Raises:
        ModelError: unknown or other architecture, or weights that cannot be had or do not fit.
    """
    config = _config(name)
    if not texts:
        config["text_cfg"] |= {"layers": 1, "vocab_size": 1}
    clip = open_clip.CLIP(**config)
    if weights is not None:
        _load(clip, _file(name, weights), weights, quick=bool(config.get("quick_gelu")))
    return clip


def _config(name: str) -> dict[str, Any]:
    # other names would be looked for on the network, or taken for folders
    if name not in open_clip.list_models():
        near = difflib.get_close_matches(name, open_clip.list_models(), n=1)
        raise ModelError(
            f"unknown clip {name!r}; {f'did you mean {near[0]}? ' if near else ''}"
            "known: the ViT models of open_clip.list_models(), or null"
        )
    config: dict[str, Any] = open_clip.get_model_config(name)
    vision, text = config["vision_cfg"], config["text_cfg"]
    foreign = (
        "custom_text" in config
        or "multimodal_cfg" in config
        or "timm_model_name" in vision
        or isinstance(vision["layers"], list)
        or {"hf_model_name", "hf_tokenizer_name"} & text.keys()
    )
    if foreign:
        raise ModelError(
            f"clip {name}: not the plain transformers of CLIP; use one such as ViT-B-32 or ViT-L-14"
        )
    return config


def _file(name: str, weights: str) -> Path:
    """Returns where the weights lie on this machine, fetched where they are a tag's."""
    tag = open_clip.get_pretrained_cfg(name, weights)
    if not tag:
        if not Path(weights).is_file():
            tags = ", ".join(open_clip.list_pretrained_tags_by_model(name))
            ways = ["the PATH of a local file", "null", *([f"a tag ({tags})"] if tags else [])]
            raise ModelError(
                f"clip_weights {weights!r}: no such file, and no tag of {name}; give {', or '.join(ways)}"
            )
        return Path(weights)
    if tag.get("quick_gelu") and not open_clip.get_model_config(name).get("quick_gelu"):
        raise _other_activation(name, weights)
    try:
        return Path(open_clip.download_pretrained(tag))
    except Exception as error:  # the libraries raise whatever their download layer does
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"clip_weights {weights} of {name} could not be fetched ({reason[:200]}); "
            "give clip_weights: PATH of a local file or clip_weights: null"
        ) from error


def _load(clip: open_clip.CLIP, path: Path, weights: str, *, quick: bool) -> None:
    """Loads OpenAI's state dict, or one of open_clip: LAION's, RemoteCLIP's, GeoRSCLIP's."""
    state = _plain(read_state(path))
    if not quick and any(key in state for key in _ORIGINAL):
        raise _other_activation("this model", weights)
    state = {key: tensor.float() for key, tensor in state.items() if key not in _ORIGINAL}
    try:
        clip.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"clip_weights {weights}: do not fit this clip ({reason}); give those of the same architecture"
        ) from error


def _plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns tensors under their own names: training on several devices leaves "module." before them."""
    return {key.removeprefix("module."): tensor for key, tensor in state.items()}


def _other_activation(name: str, weights: str) -> ModelError:
    return ModelError(
        f"clip_weights {weights}: trained with QuickGELU, {name} has GELU; "
        "use clip: the same name with -quickgelu"
    )
