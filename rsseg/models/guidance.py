"""Self-guided module: in training, modalities teach one another what a class looks like (EQUISeg, 2.3)."""

import torch
from torch import Tensor


def class_means(features: Tensor, valid: Tensor, target: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Returns each class's mean feature (B, M, K, C), eq. (6), and its number of cells (B, M, K).

    A class without a cell has zeros.

    Args:
        features: (B, M, C, h, w), 0 where not valid.
        valid: (B, M, h, w), boolean.
        target: (B, H, W), int64, H and W multiples of h and w; 255 is ignored.
        classes: K.
    """
    step = target.shape[-1] // features.shape[-1]
    labels = target[:, ::step, ::step]  # nearest; 255 is no class's id
    ids = torch.arange(classes, device=target.device)
    of = (labels[:, None] == ids[:, None, None]).flatten(2)  # (B, K, h·w)
    weights = (of[:, None] & valid.flatten(2)[:, :, None]).to(features.dtype)  # (B, M, K, h·w)
    counts = weights.sum(-1)
    means = weights @ features.flatten(3).transpose(2, 3) / counts.clamp(min=1)[..., None]
    return means, counts


def split(present: Tensor) -> Tensor:
    """Returns which modalities teach, (B, M), boolean: one at least and not all, at random, in each sample.

    A sample with a single modality has no teacher.  How many teach is uniform too [inferred].

    Args:
        present: (B, M), boolean.
    """
    count = present.sum(1, keepdim=True)
    order = torch.rand(present.shape, device=present.device).masked_fill(~present, 2).argsort(1).argsort(1)
    share = torch.rand(count.shape, device=present.device)
    teachers = 1 + (share * (count - 1).clamp(min=1)).long()  # uniform over 1 … count - 1
    return (order < teachers) & present & (count > 1)


def guidance(means: Tensor, counts: Tensor, teaching: Tensor) -> Tensor:
    """Returns KL(teacher ‖ student) over the classes, eq. (7), the mean over channels and students.

    What teaches is the mean of all teachers that saw the class, without a gradient [inferred].  For each
    channel, teacher and student are distributions over the classes that both saw; a student that shares fewer
    than two classes with its teachers has nothing to learn and does not count [inferred].

    Args:
        means: (B, M, K, C), of `class_means`.
        counts: (B, M, K), cells of each class.
        teaching: (B, M), boolean, of `split`.
    """
    seen = counts > 0
    taught = (seen & teaching[..., None]).unsqueeze(-1)  # (B, M, K, 1)
    teacher = torch.where(taught, means, 0).sum(1) / taught.sum(1).clamp(min=1)  # (B, K, C)
    learning = teaching.any(1, keepdim=True) & ~teaching
    both = taught.any(1)[:, None] & (seen & learning[..., None]).unsqueeze(-1)  # (B, M, K, 1)
    target = _over_classes(teacher.detach()[:, None].expand_as(means), both)
    given = _over_classes(means, both)
    divergence = torch.where(both, target.exp() * (target - given), 0).sum(2).mean(-1)  # (B, M)
    students = both.sum(2).squeeze(-1) > 1
    return torch.where(students, divergence, 0).sum() / students.sum().clamp(min=1)


def _over_classes(means: Tensor, counted: Tensor) -> Tensor:
    """Returns the logarithm of the softmax over the counted classes, finite for the others."""
    return means.masked_fill(~counted, torch.finfo(means.dtype).min / 2).log_softmax(2)
