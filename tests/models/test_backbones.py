import pytest
import timm
import torch
from segmentation_models_pytorch.encoders import get_encoder
from torch import nn

from rsseg.errors import ModelError
from rsseg.models import backbones
from rsseg.models.backbones import build_backbone, lift_stem
from rsseg.models.presence import Seen
from rsseg.models.segmenter import Plan
from rsseg.models.shared import SharedBackbone
from rsseg.models.stems import own_stem

PYRAMIDS = {
    "mit_b0": (32, 64, 160, 256),
    "pvt_v2_b0": (32, 64, 160, 256),
    "resnet18": (64, 64, 128, 256, 512)[1:],
    "convnextv2_atto": (40, 80, 160, 320),
    "efficientnet_b0": (24, 40, 112, 320),
}


@pytest.mark.parametrize(("name", "channels"), PYRAMIDS.items())
def test_a_pyramid_has_four_strides(name, channels):
    backbone = build_backbone(name).eval()
    with torch.no_grad():
        shapes = [tuple(f.shape) for f in backbone(torch.zeros(2, 3, 96, 64))]
    assert backbone.channels == channels
    assert backbone.strides == (4, 8, 16, 32)
    assert shapes == [(2, c, 96 // s, 64 // s) for c, s in zip(channels, backbone.strides, strict=True)]


@pytest.mark.parametrize("name", ["mit_b0", "pvt_v2_b0", "resnet18", "convnextv2_atto"])
def test_stages_are_the_library_s_network(tmp_path, name):
    library = get_encoder(name) if name == "mit_b0" else timm.create_model(name, features_only=True)
    torch.save(library.state_dict(), tmp_path / "w.pth")
    backbone = build_backbone(name, str(tmp_path / "w.pth")).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        ours, theirs = backbone(image), library.eval()(image)[-4:]
    assert len(backbone.stages) == 4
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mit_b9", "unknown backbone 'mit_b9'; did you mean mit_b5"),
        ("resnet_50", "did you mean resnet50"),
        ("qqqqqq", "known: mit_b0, .*convnext_base, or a timm name"),
        ("vit_tiny_patch16_224", "no pyramid at strides"),
        ("swin_tiny_patch4_window7_224", "no pyramid at strides"),
    ],
)
def test_names_without_a_pyramid(name, words):
    with pytest.raises(ModelError, match=words):
        build_backbone(name)


@pytest.mark.parametrize("name", ["mit_b0", "pvt_v2_b0"])
def test_imagenet_weights_offline(monkeypatch, name):
    def no_network(*args, **kwargs):
        raise OSError("Name or service not known\nand a second line")

    monkeypatch.setattr(backbones, "get_encoder", no_network)
    monkeypatch.setattr(backbones.timm, "create_model", no_network)
    with pytest.raises(ModelError) as error:
        build_backbone(name, "imagenet")
    assert "\n" not in str(error.value)
    assert str(error.value) == (
        f"imagenet weights of {name} could not be fetched (Name or service not known); "
        "give weights: PATH of a local file or weights: null"
    )


@pytest.mark.parametrize("name", ["mit_b0", "pvt_v2_b0", "resnet18"])
def test_the_stem_is_the_first_convolution(name):
    backbone = build_backbone(name).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = backbone(image)
        stem = lift_stem(backbone)
        after = backbone(stem(image))
    assert stem.in_channels == 3
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_an_own_stem_answers_equal_bands_like_the_pretrained_one(channels):
    conv = nn.Conv2d(3, 8, 7, stride=4, padding=3)
    stem = own_stem(conv, channels, pretrained=True)
    image = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(
            stem(image.expand(-1, channels, -1, -1)), conv(image.expand(-1, 3, -1, -1)), atol=1e-5, rtol=1e-4
        )
    assert (channels == 3) == (
        stem.weight.shape == conv.weight.shape and torch.equal(stem.weight, conv.weight)
    )


@pytest.mark.parametrize("channels", [1, 3, 12])
def test_an_own_stem_without_weights_keeps_the_variance(channels):
    conv = nn.Conv2d(3, 64, 7, bias=False)
    stem = own_stem(conv, channels, pretrained=False)
    image = torch.randn(4, 12, 64, 64)
    with torch.no_grad():
        ratio = stem(image[:, :channels]).var() / conv(image[:, :3]).var()
    assert 0.8 < ratio < 1.25


def test_stems_are_separate_and_the_rest_is_shared():
    modalities = {"a": 3, "b": 3, "c": 5}
    shared = SharedBackbone(Plan(modalities, 2, "mit_b0"), modalities)
    assert {n: s.in_channels for n, s in shared.stems.items()} == modalities
    assert len({s.weight.data_ptr() for s in shared.stems.values()}) == 3
    assert (
        sum(isinstance(m, nn.Conv2d) and m.stride == (4, 4) and m.padding == (3, 3) for m in shared.modules())
        == 3
    )


def test_a_repeated_band_is_what_the_backbone_alone_would_see():
    modalities = {"dsm": 1, "rgb": 3}
    shared = SharedBackbone(Plan(modalities, 2, "mit_b0", stem="repeat"), modalities).eval()
    dsm, rgb = torch.randn(2, 1, 64, 64), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        encoded = shared(Seen.of([dsm, rgb], torch.ones(2, 2, 64, 64, dtype=torch.bool)))
        alone = shared.backbone(dsm.repeat(1, 3, 1, 1)), shared.backbone(rgb)
    for features, *each in zip(encoded.features, *alone, strict=True):
        torch.testing.assert_close(features, torch.stack(each, 1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("stem", "words"),
    [("repeat", "takes 1 or 3 bands, s2 has 4; use stem: own"), ("both", "known: own, repeat")],
)
def test_stems_that_do_not_fit(stem, words):
    with pytest.raises(ModelError, match=words):
        SharedBackbone(Plan({"s2": 4}, 2, "mit_b0", stem=stem), {"s2": 4})
