"""What CLIP's text tower says of modalities and classes, and the loss that draws images towards it."""

from collections.abc import Sequence

import open_clip
import torch
from torch import Tensor, nn
from torch.nn import functional as F


def sentence(modality: str, label: str) -> str:
    """Returns the prompt of a class in a modality [inferred].

    Example:
        >>> sentence("s1_vv", "low_vegetation")
        'a s1 vv image of low vegetation'
    """
    return f"a {_words(modality)} image of {_words(label)}"


@torch.no_grad()
def embed(clip: open_clip.CLIP, modalities: Sequence[str], labels: Sequence[str]) -> Tensor:
    """Returns the text embedding of each class in each modality, (M, K, E), of length 1."""
    prompts = [sentence(modality, label) for modality in modalities for label in labels]
    tokens = open_clip.tokenize(prompts, context_length=clip.context_length)
    found = clip.encode_text(tokens, normalize=True)
    return torch.unflatten(found, 0, (len(modalities), len(labels)))


def shown(target: Tensor, pixels: Tensor, classes: int) -> Tensor:
    """Returns which classes each modality of each sample shows, (B, M, K), boolean.

    Args:
        target: (B, H, W), int64.
        pixels: valid at full size, (B, M, H, W), boolean.
        classes: K.
    """
    seen = [((target == k).unsqueeze(1) & pixels).flatten(2).any(-1) for k in range(classes)]
    return torch.stack(seen, dim=-1)


class Alignment(nn.Module):
    """InfoNCE between images and texts; the texts are kept with the weights, the text tower is not.

    A tile's text is the mean of the prompts of the classes that it shows: any list of them has one, without
    the tower [inferred: the notes want one prompt that names them all].  Wrong answers are the same classes
    in other modalities, and what other pairs of the batch show.  The scale is CLIP's own.
    """

    def __init__(self, modalities: int, classes: int, width: int) -> None:
        super().__init__()
        self.register_buffer("texts", torch.zeros(modalities, classes, width))
        self.register_buffer("scale", torch.ones(()))

    def fill(self, clip: open_clip.CLIP, modalities: Sequence[str], labels: Sequence[str]) -> None:
        """Takes the texts of a CLIP, once."""
        self.texts = embed(clip, modalities, labels)
        self.scale = clip.logit_scale.detach().exp().reshape(())

    def forward(self, embeddings: Tensor, shown: Tensor) -> Tensor:
        """Returns the mean over pairs that show a class; 0 with a gradient where none does.

        Args:
            embeddings: of images, (B, M, E).
            shown: which classes they show, (B, M, K), boolean; none where nothing is valid.
        """
        with torch.autocast(embeddings.device.type, enabled=False):  # scores reach ±100
            return self._cross_entropy(embeddings, shown)

    def _cross_entropy(self, embeddings: Tensor, shown: Tensor) -> Tensor:
        counted = shown.any(-1)  # (B, M)
        images = F.normalize(embeddings[counted].float(), dim=-1)  # (P, E)
        classes, modality = shown[counted], counted.nonzero()[:, 1]  # (P, K), (P,)
        weights = classes / classes.sum(-1, keepdim=True)
        texts = F.normalize(torch.einsum("pk,mke->pme", weights, self.texts), dim=-1)
        scores = self.scale * torch.einsum("ae,bme->abm", images, texts)  # (P, P, M)
        twins = (classes.unsqueeze(1) == classes).all(-1).fill_diagonal_(False)  # the same text is not wrong
        scores = scores.masked_fill(twins.unsqueeze(-1), torch.finfo(scores.dtype).min).flatten(1)
        pairs = torch.arange(len(images), device=images.device)
        right = pairs * self.texts.shape[0] + modality
        return F.cross_entropy(scores, right, reduction="sum") / counted.sum().clamp(min=1)


def _words(name: str) -> str:
    return " ".join(name.replace("_", " ").split())
