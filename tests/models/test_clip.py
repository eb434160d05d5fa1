"""clip_lora: what is frozen and what learns, who is guided by whom, and the ladder of its three parts."""

import copy
import itertools
import subprocess
import sys

import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from rsseg.errors import ModelError
from rsseg.models import catalogue
from rsseg.models.clip.texts import Alignment, embed, shown
from rsseg.models.clip.tower import Attention, ImageTower
from rsseg.models.segmenter import Plan

MODALITIES = {"dsm": 1, "rgb": 3, "s1": 2}
SWITCHES = list(itertools.product((None, "rsseg-tiny"), (False, True), (False, True)))
LADDER = {
    "G0": {"clip": None, "aligned": False, "dsrm": False},
    "G1": {"clip": None, "aligned": False, "dsrm": True},
    "G2": {"clip": None, "aligned": True, "dsrm": True},
    "G3": {"clip": "rsseg-tiny", "aligned": True, "dsrm": True},
}

ladder = pytest.mark.parametrize("rung", LADDER.values(), ids=LADDER)


@pytest.fixture
def make(make_model):
    """Makes clip_lora with options of its own, its gates as they start; with domains, as in a joint run."""
    make_model("clip_lora")  # the tiny CLIP is known from now on

    def made(seed=2, method="clip_lora", domains=(), labels=(), fetch=True, **options):
        torch.manual_seed(seed)
        if method == "clip_lora":
            options = {"clip": "rsseg-tiny", "clip_weights": None, **options}
        plan = Plan(MODALITIES, 4, "mit_b0", domains=domains, labels=labels, fetch=fetch)
        return catalogue.assemble(method, plan, {"decoder_width": 16, **options}).eval()

    return made


def opened(model):
    """Returns the model with gates that let something through."""
    torch.manual_seed(9)
    for name, parameter in model.named_parameters():
        if name.endswith((".gate", ".gamma")) or ".lora_B." in name:
            nn.init.normal_(parameter, std=0.3)
    return model


def stepped(model, seen):
    """Returns the losses of a step whose gradients have arrived."""
    model.train().zero_grad()
    losses = model.losses(seen.images, seen.valid, seen.target)
    torch.stack(list(losses.values())).sum().backward()
    return losses


def test_attention_with_layers_of_its_own_is_the_fused_one():
    for heads, width, length in ((1, 8, 3), (4, 32, 17), (12, 768, 50)):
        fused = nn.MultiheadAttention(width, heads, batch_first=True).eval()
        nn.init.normal_(fused.in_proj_bias)
        nn.init.normal_(fused.out_proj.bias)
        x = torch.randn(3, length, width)
        with torch.no_grad():
            expected, _ = fused(x, x, x, need_weights=False)
            found, _ = Attention(fused)(x, x, x, need_weights=False, attn_mask=None)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_the_tower_is_clip_s_until_adapters_learn(make):
    """The same image through open_clip's own attention and the whole tower, resized as torchvision would."""
    torch.manual_seed(5)
    clip = open_clip.CLIP(**open_clip.get_model_config("rsseg-tiny")).eval()
    rgb = torch.randn(2, 3, 96, 64)
    small = F.interpolate(rgb, (32, 32), mode="bilinear", antialias=True)
    with torch.no_grad():
        expected = clip.encode_image(small)
        tower = ImageTower(copy.deepcopy(clip), {"rgb": 3, "nir": 1}, rank=4, grid=2).eval()
        found = tower([rgb, torch.zeros(0, 1, 96, 64)])
    torch.testing.assert_close(found.embeddings, expected, atol=1e-5, rtol=1e-5)
    assert found.tokens.shape == (2, 4, 32)


def test_one_step_reaches_q_k_v_of_every_present_modality_and_nothing_frozen(make, views):
    """The traps: `out_proj` alone trains none of the three, and `set_adapter` leaves only the last one."""
    model = opened(make())
    stepped(model, views({"s1": "nothing"}))
    tower = model.guide.tower
    names = {name: weight for name, weight in tower.visual.named_parameters() if "lora_" in name}
    assert len(names) == 2 * 3 * 3 * 2  # blocks, layers, modalities, A and B
    for name, weight in names.items():
        there = ".s1." not in name
        assert (weight.grad is not None and bool(weight.grad.any())) == there, name
    frozen = {n: p for n, p in tower.visual.named_parameters() if "lora_" not in n}
    assert frozen
    assert not any(p.requires_grad or p.grad is not None for p in frozen.values())
    assert all(
        p.requires_grad for n, p in model.named_parameters() if n.removeprefix("guide.tower.visual.") == n
    )


def test_segmentation_alone_reaches_the_adapters(make, views):
    """Without the alignment loss, gradients come through prompts and refinement."""
    model = opened(make(align_weight=0.0))
    assert list(stepped(model, views())) == ["fused"]
    weights = [p for n, p in model.guide.tower.visual.named_parameters() if "lora_" in n]
    assert all(bool(p.grad.any()) for p in weights)


def test_after_evaluation_adapters_still_learn(make, views):
    model, seen = opened(make()), views()
    with torch.no_grad():
        model.eval()(seen.images, seen.valid)
    stepped(model, seen)
    assert all(bool(p.grad.any()) for n, p in model.guide.tower.named_parameters() if "lora_" in n)


def test_everything_that_is_trained_gets_a_gradient(make, views):
    for clip, aligned, dsrm in SWITCHES:
        model = opened(make(clip=clip, aligned=aligned, dsrm=dsrm, domains=[(0, 1, 2, 3)]))
        model.domain = 0
        stepped(model, views())
        idle = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert idle == []


def test_the_first_rung_is_mean(make, views):
    seen = views({"s1": "swath", "dsm": "half the batch"})
    mean, bottom = make(method="mean"), make(**LADDER["G0"])
    assert list(mean.state_dict()) == list(bottom.state_dict())
    with torch.no_grad():
        assert torch.equal(mean(seen.images, seen.valid), bottom(seen.images, seen.valid))
    pairs = []
    for model in (mean, bottom):
        torch.manual_seed(4)
        pairs.append(stepped(model, seen)["fused"].item())
    assert pairs[0] == pairs[1]


@ladder
def test_every_rung_starts_as_the_first(make, views, rung):
    """Same seed, same backbone and decoder; the rest is behind gates that start at 0."""
    seen = views({"s1": "swath"})
    with torch.no_grad():
        first, logits = (make(**options)(seen.images, seen.valid) for options in (LADDER["G0"], rung))
    assert torch.equal(first, logits)


@pytest.mark.parametrize(("clip", "aligned", "dsrm"), SWITCHES[1:])
def test_every_part_changes_logits_once_its_gate_is_open(make, views, clip, aligned, dsrm):
    seen, model = views(), make(clip=clip, aligned=aligned, dsrm=dsrm)
    with torch.no_grad():
        before = model(seen.images, seen.valid)
        assert not torch.equal(before, opened(model)(seen.images, seen.valid))


@ladder
def test_what_is_not_valid_changes_nothing(make, views, rung):
    seen, model = views({"rgb": "swath", "dsm": "nothing", "s1": "half the batch"}), opened(make(**rung))
    with torch.no_grad():
        for value in (torch.nan, torch.inf):
            spoiled = seen.spoiled(value)
            assert torch.equal(model(seen.images, seen.valid), model(spoiled.images, spoiled.valid))


def counted_tower(model):
    rows = []
    model.guide.tower.visual.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    return rows


def test_the_tower_runs_once_per_pair_and_never_for_what_is_absent(make, views):
    model = opened(make())
    rows = counted_tower(model)
    seen = views({"dsm": "nothing", "s1": "half the batch"})
    with torch.no_grad():
        model(seen.images, seen.valid)
        assert rows == [2, 1]  # rgb, s1
        rows.clear()
        every = [s for n in (1, 2, 3) for s in itertools.combinations(MODALITIES, n)]
        model.forward_subsets(seen.images, seen.valid, every)
        assert rows == [2, 1]


def test_prompts_of_a_subset_are_those_of_its_modalities(make, views):
    """The others' images do not matter at all."""
    seen, model = views(), opened(make())
    other = views()
    other.images["s1"] = torch.randn_like(other.images["s1"])
    with torch.no_grad():
        first, second = (model.forward_subsets(s.images, s.valid, [["rgb", "dsm"]])[0] for s in (seen, other))
        whole = [model(s.images, s.valid) for s in (seen, other)]
    assert torch.equal(first, second)
    assert not torch.equal(*whole)


def test_the_data_set_conditions_the_refinement(make, views):
    seen, model = views(), opened(make(domains=[(0, 1, 2, 3), (0, 1, 2, 3)]))
    found = []
    with torch.no_grad():
        for model.domain in (0, 1, None):
            found.append(model(seen.images, seen.valid))
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(found, 2))
    assert make(dsrm=False, domains=[(0, 1, 2, 3)]).datasets is None


def test_base_weights_are_kept_once_and_adapters_per_modality(make):
    state = make().state_dict()
    base = [n for n in state if ".visual." in n and "lora_" not in n]
    for name in MODALITIES:
        assert sum(f".{name}.weight" in n for n in state if "lora_" in n) == 2 * 3 * 2
    assert len(base) == len(set(base))
    assert sum("q.base_layer.weight" in n for n in base) == 2
    assert not any("transformer.resblocks" in n for n in state if ".visual." not in n)  # no text tower


def reference_alignment(embeddings, shown, texts, scale):
    """Returns InfoNCE, one pair, modality and list of classes after the other."""
    images, classes, own = [], [], []
    for b, m in itertools.product(*map(range, embeddings.shape[:2])):
        if shown[b, m].any():
            images.append(embeddings[b, m] / embeddings[b, m].norm())
            classes.append(tuple(shown[b, m].nonzero().flatten().tolist()))
            own.append(m)
    terms = []
    for image, listed, m in zip(images, classes, own, strict=True):
        others = list(classes)
        others.remove(listed)
        candidates = [listed, *(c for c in others if c != listed)]
        scores = {}
        for place, candidate in enumerate(candidates):
            for n in range(texts.shape[0]):
                text = texts[n, list(candidate)].mean(0)
                scores[place, n] = float(scale * image @ (text / text.norm()))
        values = torch.tensor(list(scores.values()), dtype=torch.float64)
        terms.append(values.logsumexp(0) - scores[0, m])
    return float(sum(terms) / len(terms)) if terms else 0.0


@given(seed=st.integers(0, 10_000), batch=st.integers(1, 4), share=st.sampled_from([0.0, 0.2, 0.6, 1.0]))
@settings(deadline=None, max_examples=40)
def test_the_alignment_loss_is_the_literal_one(seed, batch, share):
    draw = torch.Generator().manual_seed(seed)
    loss = Alignment(3, 4, 8)
    loss.texts = F.normalize(torch.randn(3, 4, 8, generator=draw), dim=-1)
    loss.scale = torch.tensor(14.3)
    embeddings = torch.randn(batch, 3, 8, generator=draw, requires_grad=True)
    shown = torch.rand(batch, 3, 4, generator=draw) < share
    found = loss(embeddings, shown)
    found.backward()
    expected = reference_alignment(embeddings.detach(), shown, loss.texts, loss.scale)
    assert found.item() == pytest.approx(expected, abs=1e-4, rel=1e-4)
    assert embeddings.grad.isfinite().all()


@given(seed=st.integers(0, 10_000), covered=st.floats(0, 1))
@settings(deadline=None, max_examples=30)
def test_shown_are_the_classes_where_a_modality_is_valid(seed, covered):
    draw = torch.Generator().manual_seed(seed)
    target = torch.randint(0, 5, (2, 3, 4), generator=draw)
    target[target == 4] = 255
    pixels = torch.rand(2, 3, 3, 4, generator=draw) < covered
    found = shown(target, pixels, 4)
    for b, m in itertools.product(range(2), range(3)):
        expected = {k for k in target[b][pixels[b, m]].tolist() if k != 255}
        assert set(found[b, m].nonzero().flatten().tolist()) == expected


def test_texts_are_the_tower_s_for_labels_and_modalities(make):
    labels = ("water", "low_vegetation", "road", "roof")
    texts = make(labels=labels).guide.alignment.texts
    assert texts.shape == (3, 4, 16)
    assert len({tuple(t.tolist()) for t in texts.flatten(0, 1)}) == 12
    clip = open_clip.CLIP(**open_clip.get_model_config("rsseg-tiny")).eval()
    found = embed(clip, ["dsm", "s1_vv"], labels)
    with torch.no_grad():
        tokens = open_clip.tokenize(["a s1 vv image of low vegetation"], context_length=24)
        expected = F.normalize(clip.encode_text(tokens), dim=-1)[0]
    torch.testing.assert_close(found[1, 1], expected)


def test_a_model_file_s_weights_need_no_fetching(make, views):
    """`fetch=False` never looks at clip_weights, says that something is missing, and takes up a state."""
    model, seen = opened(make()), views({"s1": "swath"})
    other = make(seed=7, fetch=False, clip_weights="/no/such/file.pt")
    assert (model.unfetched, other.unfetched) == (False, True)
    assert not make(fetch=False, clip=None).unfetched
    assert not other.guide.alignment.texts.any()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(model(seen.images, seen.valid), other(seen.images, seen.valid))
    torch.testing.assert_close(*(dict(stepped(m, seen))["alignment"] for m in (model, other)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"clip": "ViT-B-23"}, "unknown clip 'ViT-B-23'; did you mean ViT-B-32\\?"),
        ({"clip": "hf-hub:somebody/model"}, "unknown clip 'hf-hub:somebody/model'"),
        ({"clip": "local-dir:."}, "unknown clip 'local-dir:.'"),
        ({"clip": "ViT-L-14-CLIPA"}, "clip ViT-L-14-CLIPA: not the plain transformers"),
        ({"clip": "RN50"}, "clip RN50: not the plain transformers of CLIP; use one such as"),
        ({"clip": "ViT-B-16-SigLIP"}, "clip ViT-B-16-SigLIP: not the plain transformers"),
        ({"clip": False}, "option clip: False does not fit; expected str or null"),
        ({"rank": 0}, "rank 0, prompts 4, align_weight 0.1; expected at least 1, 1 and 0"),
    ],
)
def test_wrong_options_are_answered(make, options, words):
    with pytest.raises(ModelError, match=words):
        make(**options)


def test_a_repeated_band_has_no_embedding_to_guide(make):
    plan = Plan({"rgb": 3}, 4, "mit_b0", stem="repeat")
    with pytest.raises(ModelError, match="stem repeat has no input embeddings to guide; use stem: own"):
        catalogue.assemble("clip_lora", plan, {"clip": None})
    catalogue.assemble("clip_lora", plan, {"clip": None, "aligned": False})


@pytest.mark.parametrize("library", ["open_clip", "peft"])
def test_without_the_extra_one_line_says_what_to_install(library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    for part in ("methods.clip_lora", "clip.guide", "clip.pretrained", "clip.texts", "clip.tower"):
        monkeypatch.delitem(sys.modules, f"rsseg.models.{part}", raising=False)
    words = r"^method clip_lora needs open_clip and peft, not installed here; pip install 'rsseg\[clip\]'$"
    with pytest.raises(ModelError, match=words):
        catalogue.find("clip_lora")


@pytest.mark.slow
def test_other_methods_never_import_the_extra():
    code = """
import sys
from rsseg.cli import main
from rsseg.models import catalogue
for name in catalogue.METHODS:
    if name != "clip_lora":
        catalogue.find(name)
sys.exit(str({"open_clip", "peft", "transformers"} & set(sys.modules) or 0))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() in ("", "0"), done.stderr
