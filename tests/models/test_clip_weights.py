"""clip_weights: files of every origin, and what is said where they cannot be had."""

import json
import zipfile

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from rsseg.checkpoint import Facts, load_model, save_model
from rsseg.classmap import ClassMap, LandClass
from rsseg.errors import ModelError
from rsseg.facts import parse
from rsseg.modality import Modality, Statistics
from rsseg.models import catalogue
from rsseg.models.clip.pretrained import build_clip
from rsseg.recipe import Recipe

TINY = "rsseg-tiny"
QUICK = "rsseg-tiny-quickgelu"


@pytest.fixture(autouse=True)
def tiny(make_model, tmp_path):
    """Makes the tiny CLIP known, and one as OpenAI's: with QuickGELU."""
    make_model("clip_lora")
    path = tmp_path / f"{QUICK}.json"
    path.write_text(json.dumps({**open_clip.get_model_config(TINY), "quick_gelu": True}))
    open_clip.factory._MODEL_CONFIGS[QUICK] = json.loads(path.read_text())


def drawn(name=TINY, seed=11):
    """Returns the state dict of a CLIP with other weights than a new one has."""
    torch.manual_seed(seed)
    return open_clip.CLIP(**open_clip.get_model_config(name)).state_dict()


def openai(state):
    """Returns a state dict as OpenAI's: half precision, and three numbers beside it."""
    numbers = {"input_resolution": 32, "context_length": 24, "vocab_size": 49408}
    return {k: t.half() for k, t in state.items()} | {k: torch.tensor(n) for k, n in numbers.items()}


LAYOUTS = {
    "open_clip": lambda state: state,
    "training": lambda state: {"epoch": 3, "state_dict": {f"module.{k}": t for k, t in state.items()}},
    "several devices": lambda state: {f"module.{k}": t for k, t in state.items()},
    "OpenAI": openai,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_local_file_of_every_layout(tmp_path, layout):
    state, path = drawn(), tmp_path / "w.pt"
    torch.save(LAYOUTS[layout](state), path)
    found = build_clip(QUICK if layout == "OpenAI" else TINY, str(path)).state_dict()
    expected = {k: t.half().float() if layout == "OpenAI" else t for k, t in state.items()}
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert all(tensor.dtype == torch.float32 for tensor in found.values())


def test_safetensors(tmp_path):
    state = drawn()
    save_file(state, tmp_path / "w.safetensors")
    found = build_clip(TINY, str(tmp_path / "w.safetensors")).state_dict()
    assert all(torch.equal(found[key], state[key]) for key in state)


def build(clip, weights, classes=4):
    options = {"clip": clip, "clip_weights": weights, "decoder_width": 16}
    given = {"modalities": {"rgb": 3, "dsm": 1}, "classes": classes, "backbone": "mit_b0"}
    torch.manual_seed(0)
    return catalogue.build("clip_lora", **given, options=options).eval()


def features(model, image):
    with torch.no_grad():
        return model.guide.tower([image[:, :1], image]).embeddings  # dsm, rgb


def test_weights_change_what_the_tower_sees_and_what_texts_say(tmp_path):
    path = tmp_path / "w.pt"
    torch.save(drawn(), path)
    image = torch.randn(1, 3, 64, 64)
    found, random = build(TINY, str(path)), build(TINY, None)
    assert not torch.allclose(features(found, image), features(random, image))
    assert not torch.allclose(found.guide.alignment.texts, random.guide.alignment.texts)
    names = [n for n in found.state_dict() if n.endswith("attn.q.base_layer.weight")]
    fused = torch.load(path, weights_only=True)["visual.transformer.resblocks.0.attn.in_proj_weight"]
    assert torch.equal(found.state_dict()[names[0]], fused[:32])


@pytest.mark.slow
def test_the_real_architecture_takes_openai_s_layout(tmp_path):
    path, image = tmp_path / "ViT-B-32.pt", torch.randn(1, 3, 224, 224)
    torch.save(openai(drawn("ViT-B-32-quickgelu")), path)
    found, random = build("ViT-B-32-quickgelu", str(path)), build("ViT-B-32-quickgelu", None)
    assert not torch.allclose(features(found, image), features(random, image), atol=0.1)
    torch.manual_seed(11)
    clip = open_clip.CLIP(**open_clip.get_model_config("ViT-B-32-quickgelu")).eval()
    with torch.no_grad():
        expected = clip.encode_image(image)
    torch.testing.assert_close(features(found, image)[1:], expected, atol=0.02, rtol=0.02)  # half precision
    assert found.guide.alignment.texts.shape == (2, 4, 512)


def test_torchscript_is_refused_with_the_command_that_converts_it(tmp_path):
    path = tmp_path / "ViT-B-32.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/constants.pkl", b"")
    with pytest.raises(ModelError, match=r"a TorchScript archive can run code; .*torch.jit.load.*state_dict"):
        build_clip(TINY, str(path))


def test_pickles_are_refused(tmp_path):
    path = tmp_path / "w.pt"
    path.write_bytes(b"\x80\x02cos\nsystem\n.")
    with pytest.raises(ModelError, match="only tensors are read, never pickled objects"):
        build_clip(TINY, str(path))


def test_original_weights_want_the_original_activation(tmp_path):
    path = tmp_path / "w.pt"
    torch.save(openai(drawn()), path)
    with pytest.raises(ModelError, match=r"trained with QuickGELU.*-quickgelu"):
        build_clip(TINY, str(path))
    with pytest.raises(ModelError, match="clip_weights openai: trained with QuickGELU, ViT-B-32 has GELU"):
        build_clip("ViT-B-32", "openai")


def test_weights_of_another_architecture_are_refused(tmp_path):
    path = tmp_path / "w.pt"
    state = drawn()
    torch.save({k: t for k, t in state.items() if k != "visual.proj"}, path)
    with pytest.raises(ModelError, match=r"do not fit this clip \(.*visual.proj.*give those of the same"):
        build_clip(TINY, str(path))


def test_neither_a_file_nor_a_tag():
    words = "'laion9': no such file, and no tag of rsseg-tiny; give the PATH of a local file, or null$"
    with pytest.raises(ModelError, match=words):
        build_clip(TINY, "laion9")
    with pytest.raises(ModelError, match=r"no tag of ViT-B-32; give .*, or a tag \(openai, .*laion2b_s34b"):
        build_clip("ViT-B-32", "laion9")


def test_a_tag_that_cannot_be_fetched(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no route to host\nsecond line")

    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda name, tag: {"hf_hub": "none"})
    monkeypatch.setattr(open_clip, "download_pretrained", refuse)
    words = r"clip_weights t of rsseg-tiny could not be fetched \(no route to host\); give clip_weights: PATH"
    with pytest.raises(ModelError, match=words):
        build_clip(TINY, "t")


def test_a_model_file_holds_adapters_and_texts_and_needs_nothing_else(tmp_path):
    """Trained with weights from a file that is gone when the model is used."""
    weights, path = tmp_path / "w.pt", tmp_path / "best.safetensors"
    torch.save(drawn(), weights)
    modalities = [Modality(name="rgb", role="optical", bands=("red", "green", "blue"))]
    modalities += [Modality(name="dsm", role="elevation", bands=("height",), units="metre")]
    classes = [LandClass(name=n, values=(k,), colour=f"#0{k}0000") for k, n in enumerate(("water", "roof"))]
    options = {"clip": TINY, "clip_weights": str(weights), "decoder_width": 16}
    content = {
        "name": "mini",
        "data": {"dataset": "none", "root": "nowhere", "modalities": ["rgb", "dsm"], "tile": 64},
        "model": {"method": "clip_lora", "backbone": "mit_b0", "weights": None, "options": options},
    }
    statistics = {m.name: Statistics(mean=(0.0,) * m.channels, std=(1.0,) * m.channels) for m in modalities}
    facts = Facts(
        parse(Recipe, content, "mini"), {m.name: m for m in modalities}, ClassMap(classes=classes), statistics
    )
    network = facts.network(None, fetch=True).eval()
    for name, parameter in network.named_parameters():
        if "lora_B" in name or name.endswith((".gate", ".gamma")):
            torch.nn.init.normal_(parameter, std=0.3)
    save_model(path, facts, network, {})
    weights.unlink()
    loaded = load_model(path).segmenter
    assert torch.equal(loaded.guide.alignment.texts, network.guide.alignment.texts)
    assert network.guide.alignment.texts.any()
    images = {"rgb": torch.randn(1, 3, 64, 64), "dsm": torch.randn(1, 1, 64, 64)}
    valid = {name: torch.ones(1, 64, 64, dtype=torch.bool) for name in images}
    with torch.no_grad():
        assert torch.equal(network(images, valid), loaded(images, valid))
