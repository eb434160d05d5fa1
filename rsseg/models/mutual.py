"""Mutual perception: attention of one map to those of the modalities, within windows (CHARM, eq. (3)).

What is asked (the query) is one map; what answers (the context) are cells of the modalities, each with keys
and values of its own.  Maps are channels-last here, (B, h, w, C): every layer but the attention works on
single cells.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsseg.models.attention import default_heads
from rsseg.models.windows import merge, partition

Project = Callable[[str, Tensor], Tensor]
"""Takes a modality's name and cells (…, C), and returns what its own layers make of them, (…, D)."""
Arrange = Callable[[Tensor], Tensor]
"""Takes a map (B, h, w, D), and returns its windows (B·J, heads, side², d)."""


@dataclass(frozen=True)
class Every:
    """Context of all modalities side by side: N keys per cell."""

    cells: Tensor
    """(B, N, h, w, C)."""
    valid: Tensor
    """(B, N, h, w), boolean."""
    names: Sequence[str]
    """Of the N modalities."""
    made: dict[tuple[Project, str], Tensor] | None = None
    """Windows of single modalities, for contexts of other subsets of them; None keeps nothing."""

    def windows(self, project: Project, arrange: Arrange) -> Tensor:
        """Returns (B·J, heads, N·side², d), projected and arranged."""
        parts = zip(self.names, self.cells.unbind(1), strict=True)
        return torch.cat([self._windows(project, arrange, name, part) for name, part in parts], 2)

    def _windows(self, project: Project, arrange: Arrange, name: str, part: Tensor) -> Tensor:
        if self.made is None:
            return arrange(project(name, part))
        if (project, name) not in self.made:
            self.made[project, name] = arrange(project(name, part))
        return self.made[project, name]

    def mean(self) -> Tensor:
        """Returns the mean over the valid modalities of each cell, (B, h, w, C); 0 where there is none."""
        count = self.valid.sum(1).clamp(min=1)
        return torch.where(self.valid[..., None], self.cells, 0).sum(1) / count[..., None]


@dataclass(frozen=True)
class Reassembled:
    """Context of one modality per cell: a single key, made by the layer of that modality."""

    cells: Tensor
    """(B, 1, h, w, C)."""
    valid: Tensor
    """(B, 1, h, w), boolean."""
    source: Tensor
    """(B, h, w), int64: index among `names`."""
    names: Sequence[str]

    @classmethod
    def of(cls, features: Tensor, valid: Tensor, source: Tensor, names: Sequence[str]) -> "Reassembled":
        """Returns the cells of the modalities stated.

        Args:
            features: (B, M, h, w, C).
            valid: (B, M, h, w), boolean.
            source: (B, h, w), int64: the modality that each cell is taken from.
            names: of the M modalities.
        """
        index = source.unsqueeze(1)
        cells = features.gather(1, index[..., None].expand(-1, -1, -1, -1, features.shape[-1]))
        return cls(cells, valid.gather(1, index), source, names)

    @cached_property
    def _sorting(self) -> tuple[Tensor, Tensor, list[int]]:
        """Order of the cells by modality, its inverse, and how many each has: known once for all blocks."""
        order = self.source.flatten().argsort()
        counts = torch.bincount(self.source.flatten(), minlength=len(self.names))
        return order, order.argsort(), counts.tolist()

    def windows(self, project: Project, arrange: Arrange) -> Tensor:
        """Returns (B·J, heads, side², d), projected and arranged."""
        order, inverse, counts = self._sorting
        parts = torch.split(self.cells.flatten(0, -2)[order], counts)
        made = [project(name, part) for name, part in zip(self.names, parts, strict=True) if len(part)]
        return arrange(torch.unflatten(torch.cat(made)[inverse], 0, self.source.shape))

    def mean(self) -> Tensor:
        """Returns the cells, (B, h, w, C); 0 where not valid."""
        return torch.where(self.valid[..., None], self.cells, 0).squeeze(1)


Context = Every | Reassembled


class MutualPerception(nn.Module):
    """Mutual Perception Unit, eq. (3) [paper], as a block of Swin [inferred, charm.md section 6].

    One W^Q asks, each modality answers with its own W^K and W^V [paper]; one softmax runs over all valid keys
    of the window, whichever modality they are of [inferred].  Layer normalisation before, residuals around,
    an MLP of 4·C, and a relative position bias that modalities share: not stated in the paper, what Swin does
    [inferred].  Weights without norms and biases: (2 + 2M)·C² + 8·C².

    A window's invalid cells are no keys.  Where a window has none that is valid, attention finds 0; queries
    are defined everywhere.
    """

    apart: Tensor

    def __init__(self, channels: int, modalities: Iterable[str], side: int, offset: int) -> None:
        super().__init__()
        names = list(modalities)
        self.side, self.offset, self.heads = side, offset, default_heads(channels, 32)
        self.norms = nn.ModuleDict({at: nn.LayerNorm(channels) for at in ("query", "context", "mlp")})
        self.query, self.output = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.key = nn.ModuleDict({name: nn.Linear(channels, channels) for name in names})
        self.value = nn.ModuleDict({name: nn.Linear(channels, channels) for name in names})
        self.bias = nn.Parameter(torch.empty(self.heads, (2 * side - 1) ** 2))
        self.mlp = nn.Sequential(
            nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels)
        )
        self.register_buffer("apart", _apart(side), persistent=False)
        self.apply(_start)
        nn.init.trunc_normal_(self.bias, std=0.02)

    def forward(self, query: Tensor, context: Context) -> Tensor:
        """Returns the map, (B, h, w, C), after looking at its context.

        Args:
            query: (B, h, w, C).
            context: on the same cells.
        """
        query = query + self.output(self._attended(query, context))
        changed: Tensor = query + self.mlp(self.norms["mlp"](query))
        return changed

    def _attended(self, query: Tensor, context: Context) -> Tensor:
        height, width = query.shape[1:3]
        q = self._windows(self.query(self.norms["query"](query)))
        k, v = context.windows(self._answers, self._windows).chunk(2, -1)
        hidden, blind = self._hidden(context.valid)
        # one mask carries both validity and bias: scaled_dot_product_attention takes no second one
        mask = self._biases(context.valid.shape[1]).to(q.dtype).masked_fill(hidden, float("-inf"))
        found = F.scaled_dot_product_attention(q, k, v, mask).masked_fill(blind, 0)
        found = found.transpose(1, 2).flatten(2)  # (B·J, side², C)
        windows = torch.unflatten(found, 0, (query.shape[0], -1))
        return merge(windows, self.side, self.offset, height, width)

    def _answers(self, name: str, cells: Tensor) -> Tensor:
        """Returns a modality's keys and values, head by head, (…, 2·C)."""
        cells = self.norms["context"](cells)
        pair = (self.key[name](cells), self.value[name](cells))
        return torch.cat([torch.unflatten(part, -1, (self.heads, -1)) for part in pair], -1).flatten(-2)

    def _windows(self, cells: Tensor) -> Tensor:
        """Returns (B·J, heads, side², D/heads) from (B, h, w, D)."""
        split = partition(cells, self.side, self.offset).flatten(0, 1)  # (B·J, side², D)
        return torch.unflatten(split, -1, (self.heads, -1)).transpose(1, 2)

    def _hidden(self, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Returns keys that do not count (B·J, 1, 1, N·side²), and windows without any (B·J, 1, 1, 1).

        Windows without any key keep all, so that no softmax is over nothing; what it gives is thrown away.
        """
        keys = partition(valid.movedim(1, 3), self.side, self.offset).transpose(2, 3).flatten(2).flatten(0, 1)
        blind = ~keys.any(-1, keepdim=True)
        return ~(keys | blind)[:, None, None], blind[:, None, None]

    def _biases(self, count: int) -> Tensor:
        """Returns (heads, side², count·side²): what is added to the score of each pair of cells."""
        return self.bias[:, self.apart].repeat(1, 1, count)


class Perception(nn.Module):
    """Blocks of mutual perception at one scale, one after the other, every second one on shifted windows."""

    def __init__(self, channels: int, modalities: Iterable[str], side: int, depth: int) -> None:
        super().__init__()
        names = list(modalities)
        self.blocks = nn.ModuleList(
            MutualPerception(channels, names, side, side // 2 * (number % 2)) for number in range(depth)
        )

    def forward(self, query: Tensor, context: Context) -> Tensor:
        """Returns the map, (B, h, w, C); all blocks look at the same context."""
        for block in self.blocks:
            query = block(query, context)
        return query


class Addition(nn.Module):
    """What stands in for mutual perception: query plus context [paper, table 2, variants b and d].

    Several answers per cell are averaged [inferred]: that is what a cell of a reassembled context is on
    average.
    """

    def forward(self, query: Tensor, context: Context) -> Tensor:
        """Returns the map, (B, h, w, C)."""
        return query + context.mean()


def _apart(side: int) -> Tensor:
    """Returns for each pair of cells in a window the index of their relative position, (side², side²)."""
    at = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"), -1).reshape(-1, 2)
    steps = at[:, None] - at[None] + side - 1
    return steps[..., 0] * (2 * side - 1) + steps[..., 1]


def _start(module: nn.Module) -> None:
    """As transformers start: small weights, so that a block begins close to the identity."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
