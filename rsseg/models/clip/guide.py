"""CLIP's part: what it sees of each (sample, modality) pair, as prompts, as condition, and beside texts."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rsseg.models.clip.pretrained import build_clip
from rsseg.models.clip.texts import Alignment
from rsseg.models.clip.tower import ImageTower, Views
from rsseg.models.presence import mean_valid
from rsseg.models.segmenter import Plan

_GRID = 2
"""Patch tokens are averaged to so many rows and columns of tokens [inferred]."""


class Guide(nn.Module):
    """Image tower, control prompts, and the texts that the tower is aligned with.

    Args:
        plan: modalities, labels, and whether weights are fetched.
        clip: open_clip's name of a ViT.
        weights: a tag of open_clip, the path of a local file, or None for random ones.
        rank: of the adapters.
        channels: of the backbone's input embeddings.
    """

    def __init__(self, plan: Plan, clip: str, weights: str | None, rank: int, channels: int) -> None:
        super().__init__()
        names = dict(sorted(plan.modalities.items()))
        built = build_clip(clip, weights if plan.fetch else None, texts=plan.fetch)
        self.alignment = Alignment(len(names), plan.classes, int(built.visual.output_dim))
        if plan.fetch:  # else the texts come with the model file
            self.alignment.fill(built, list(names), plan.labels or _numbered(plan.classes))
        self.tower = ImageTower(built, names, rank, _GRID)
        self.width = self.tower.embedding
        self.norm = nn.LayerNorm(self.width)
        self.whole, self.parts = nn.Linear(self.width, channels), nn.Linear(self.tower.width, channels)

    def forward(self, images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Returns image embeddings (N, E) and control prompts (N, 1 + T, C), one for the whole, T for parts.

        Args:
            images: one (n, C, H, W) per modality, as the tower wants them.
        """
        views: Views = self.tower(images)
        whole = self.whole(self.norm(views.embeddings)).unsqueeze(1)
        return views.embeddings, torch.cat([whole, self.parts(views.tokens)], dim=1)

    def condition(self, said: Tensor, present: Tensor) -> Tensor:
        """Returns what present modalities say on average, (B, E), 0 where there is none.

        Args:
            said: image embeddings, (B, M, E).
            present: (B, M), boolean.
        """
        return mean_valid(self.norm(said)[..., None, None], present[..., None, None])[..., 0, 0]


def _numbered(classes: int) -> list[str]:
    return [f"class {k}" for k in range(classes)]
