import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rsseg.errors import ModelError
from rsseg.models.decoder import Decoder, default_width

CHANNELS = (8, 16, 24, 32)


def literal(decoder: Decoder, pyramid, size):
    """The head as SegFormer writes it: linear, upsample, concatenate, fuse, classify, upsample."""
    finest = pyramid[0].shape[-2:]
    layers = [lateral.linear for lateral in decoder.laterals]
    stages = [
        F.interpolate(layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), size=finest, mode="bilinear")
        for layer, x in zip(layers, pyramid, strict=True)
    ]
    fused = F.relu(decoder.norm(decoder.fusion(torch.cat(stages, 1))))
    return F.interpolate(decoder.classifier(decoder.dropout(fused)), size=size, mode="bilinear")


@pytest.mark.parametrize("training", [False, True])
def test_numbers_of_the_literal_head(training):
    decoder = Decoder(CHANNELS, classes=5, width=12).train(training)
    decoder.dropout = nn.Identity()
    pyramid = [
        torch.randn(2, c, 64 // s, 96 // s, requires_grad=True)
        for c, s in zip(CHANNELS, (4, 8, 16, 32), strict=True)
    ]
    results = []
    for head in (decoder, lambda *a: literal(decoder, *a)):
        logits = head(pyramid, (64, 96))
        results.append(
            [logits, *torch.autograd.grad(logits.square().mean(), [*pyramid, *decoder.parameters()])]
        )
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-3)


def test_widths():
    assert {n: default_width(n) for n in ("mit_b0", "pvt_v2_b0.in1k", "mit_b2", "resnet50")} == {
        "mit_b0": 256,
        "pvt_v2_b0.in1k": 256,
        "mit_b2": 512,
        "resnet50": 512,
    }
    with pytest.raises(ModelError, match="decoder_width 0; expected at least 1"):
        Decoder(CHANNELS, 5, 0)
