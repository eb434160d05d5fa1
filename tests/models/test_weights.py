import pickle
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from segmentation_models_pytorch.encoders import get_encoder

from rsseg.errors import ModelError
from rsseg.models.backbones import build_backbone


def state_of(name="resnet18"):
    return timm.create_model(name, features_only=True).state_dict()


def save(state, path: Path) -> str:
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return str(path)


def loaded(backbone, state):
    return all(torch.equal(a, b) for a, b in zip(backbone.state_dict().values(), state.values(), strict=True))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
@pytest.mark.parametrize("prefix", ["", "encoder.", "model.backbone."])
def test_a_local_file_under_any_prefix(tmp_path, suffix, prefix):
    state = state_of()
    file = {prefix + key: tensor for key, tensor in state.items()} | {"decoder.conv1.weight": torch.zeros(1)}
    if not prefix:
        del file["decoder.conv1.weight"]
    assert loaded(build_backbone("resnet18", save(file, tmp_path / f"w{suffix}")), state)


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_a_nested_state_dict(tmp_path, key):
    state = state_of()
    assert loaded(build_backbone("resnet18", save({key: state, "epoch": 3}, tmp_path / "w.pth")), state)


@pytest.mark.parametrize("name", ["pvt_v2_b0", "convnextv2_atto", "resnet18"])
def test_timm_s_own_names_and_its_classifier(tmp_path, name):
    state = timm.create_model(name).state_dict()
    backbone = build_backbone(name, save(state, tmp_path / "w.pth"))
    own = list(backbone.state_dict().values())
    assert all(torch.equal(a, b) for a, b in zip(own, state.values(), strict=False))


def test_mit_with_segformer_s_head(tmp_path):
    library = get_encoder("mit_b0").eval()
    file = {f"backbone.{key}": tensor for key, tensor in library.state_dict().items()}
    path = save(file | {"backbone.head.weight": torch.zeros(2)}, tmp_path / "w.pth")
    backbone, image = build_backbone("mit_b0", path).eval(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        pairs = zip(backbone(image), library(image)[-4:], strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)


def test_files_that_do_not_fit(tmp_path):
    state = state_of()
    state["layer1.0.conv1.weight"] = torch.zeros(1, 2, 3, 3)
    state["layer5.0.conv1.weight"] = torch.zeros(1)
    for key in [key for key in state if key.startswith("layer4")]:
        del state[key]
    with pytest.raises(ModelError) as error:
        build_backbone("resnet18", save(state, tmp_path / "w.safetensors"))
    message = str(error.value)
    assert "\n" not in message
    assert "missing: layer4.0.conv1.weight, layer4.0.bn1.weight, layer4.0.bn1.bias and 22 more" in message
    assert "not in the backbone: layer5.0.conv1.weight" in message
    assert "other shapes: layer1.0.conv1.weight (1, 2, 3, 3), expected (64, 64, 3, 3)" in message


class Trap:
    def __reduce__(self):
        return Path.touch, (Path("sprung"),)


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Trap()}, tmp_path / "w.pth")
    (tmp_path / "v.pt").write_bytes(pickle.dumps(Trap()))
    for name in ("w.pth", "v.pt"):
        with pytest.raises(ModelError, match="only tensors are read, never pickled objects"):
            build_backbone("resnet18", str(tmp_path / name))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_torchscript_is_refused_with_what_to_run(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"TorchScript archive can run code; .* torch.save\(torch.jit.load"):
        build_backbone("resnet18", str(tmp_path / "w.pt"))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.pth", None, "no such file"),
        ("w.safetensors", b"nonsense", "not a safetensors file"),
        ("w.pth", b"nonsense", "only tensors are read"),
        ("w.pth", [1, 2], "no tensors by name"),
        ("w.pth", {"a": 1}, "no tensors by name"),
        ("w.pth", {"a": torch.zeros(1)}, "missing: conv1.weight, bn1.weight, bn1.bias and"),
    ],
)
def test_files_that_hold_something_else(tmp_path, name, content, words):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(ModelError, match=words):
        build_backbone("resnet18", str(path))
