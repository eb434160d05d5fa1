"""The only LightningDataModule: tiles and the order in which they come, as batches."""

from typing import Any

import lightning
import torch
from torch.utils.data import DataLoader

from rsseg.batch import Batch, Sample
from rsseg.data.augment import Augment
from rsseg.data.samplers import Drawn, GridTiles, Part
from rsseg.data.tiles import Tiles

TileSampler = GridTiles | Drawn


class SceneData(lightning.LightningDataModule):
    """Training and validation batches."""

    def __init__(
        self,
        train: tuple[Tiles, TileSampler],
        val: tuple[Tiles, TileSampler],
        augment: Augment,
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

    def train_dataloader(self) -> DataLoader[Sample]:
        """Returns batches, drawn anew each epoch; an incomplete last one is dropped if it is not alone."""
        tiles, sampler = self.train
        part = self._part(sampler, fill=False)
        return self._loader(tiles, part, drop_last=len(part) >= self.batch)

    def val_dataloader(self) -> DataLoader[Sample]:
        """Returns the same windows at every validation."""
        tiles, sampler = self.val
        return self._loader(tiles, self._part(sampler, fill=True), drop_last=False)

    def state_dict(self) -> dict[str, Any]:
        """Returns which epoch comes next, at the end of one."""
        return {"epoch": 0 if self.trainer is None else self.trainer.current_epoch + 1}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up the epoch: reader processes draw their first tiles before Lightning tells the sampler."""
        sampler = self.train[1]
        if isinstance(sampler, Drawn):
            sampler.set_epoch(state_dict["epoch"])

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augments training batches on their device."""
        training = self.trainer is not None and self.trainer.training
        return self.augment(batch) if training else batch

    def _part(self, sampler: TileSampler, *, fill: bool) -> TileSampler | Part:
        """Returns what this process reads; Lightning's own way draws a second order and repeats windows."""
        if self.trainer is None or self.trainer.world_size == 1:
            return sampler
        return Part(sampler, self.trainer.global_rank, self.trainer.world_size, fill=fill)

    def _loader(self, tiles: Tiles, sampler: TileSampler | Part, *, drop_last: bool) -> DataLoader[Sample]:
        return DataLoader(
            tiles,
            batch_size=self.batch,
            sampler=sampler,
            collate_fn=Batch.of,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            drop_last=drop_last,
            generator=torch.Generator(),  # iterators then draw nothing from the global one
        )
