"""The only LightningDataModule: tiles and the order in which they come, as batches."""

from typing import Any

import lightning
import torch
from torch.utils.data import DataLoader

from rsseg.batch import Batch
from rsseg.data.augment import Augment
from rsseg.data.joint import InTurn, JointDraws, JointGrid, JointTiles
from rsseg.data.samplers import Drawn, GridTiles, Part
from rsseg.data.tiles import Tiles

TileSampler = GridTiles | Drawn
Stream = tuple[Tiles, TileSampler] | tuple[JointTiles, JointDraws | JointGrid]
"""Tiles of one data set and the order of windows, or whole batches of several and theirs."""


class SceneData(lightning.LightningDataModule):
    """Training and validation batches."""

    def __init__(
        self,
        train: Stream,
        val: Stream,
        augment: Augment | InTurn,
        *,
        batch: int,
        workers: int = 0,
    ) -> None:
        """Takes what fit.py put together.

        Args:
            train: tiles, and the windows of an epoch.
            val: tiles, and the windows of every validation.
            augment: applied to training batches on their device.
            batch: tiles per batch.
            workers: reader processes beside the main one.
        """
        super().__init__()
        self.train = train
        self.val = val
        self.augment = augment
        self.batch = batch
        self.workers = workers

    def train_dataloader(self) -> DataLoader[Any]:
        """Returns batches, drawn anew each epoch; an incomplete last one is dropped if it is not alone."""
        return self._loader(self.train, fill=False)

    def val_dataloader(self) -> DataLoader[Any]:
        """Returns the same windows at every validation."""
        return self._loader(self.val, fill=True)

    def state_dict(self) -> dict[str, Any]:
        """Returns which epoch comes next, at the end of one."""
        return {"epoch": 0 if self.trainer is None else self.trainer.current_epoch + 1}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up the epoch: reader processes draw their first tiles before Lightning tells the sampler."""
        sampler = self.train[1]
        if isinstance(sampler, Drawn | JointDraws):
            sampler.set_epoch(state_dict["epoch"])

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augments training batches on their device."""
        training = self.trainer is not None and self.trainer.training
        return self.augment(batch) if training else batch

    def _part(self, sampler: TileSampler, *, fill: bool) -> TileSampler | Part:
        """Returns what this process reads; Lightning's own way draws a second order and repeats windows."""
        rank, ranks = self._ranks()
        return sampler if ranks == 1 else Part(sampler, rank, ranks, fill=fill)

    def _ranks(self) -> tuple[int, int]:
        """Returns the number of this process, and how many there are."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _loader(self, stream: Stream, *, fill: bool) -> DataLoader[Any]:
        tiles, sampler = stream
        if isinstance(sampler, JointDraws | JointGrid):  # what comes is a batch already
            order: dict[str, Any] = {"batch_size": None, "sampler": sampler.part(*self._ranks())}
        else:
            part = self._part(sampler, fill=fill)
            drop_last = not fill and len(part) >= self.batch
            order = {
                "batch_size": self.batch,
                "sampler": part,
                "collate_fn": Batch.of,
                "drop_last": drop_last,
            }
        return DataLoader(
            tiles,
            **order,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            generator=torch.Generator(),  # iterators then draw nothing from the global one
        )
