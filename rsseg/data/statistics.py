"""Mean and spread of each modality over the valid pixels of the training split, in one pass."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from rsseg.data.tiles import OpenScene, Where
from rsseg.errors import SceneError
from rsseg.modality import Modality, Statistics

_LEAST_STD = 1e-6
"""A band that never changes is left unscaled instead of divided by zero."""


class Moments:
    """Streaming mean and variance per band (Chan et al. 1979: merging of partial sums), float64."""

    def __init__(self, bands: int) -> None:
        self.count = 0
        self.mean = np.zeros(bands)
        self.squares = np.zeros(bands)

    def add(self, values: npt.NDArray[np.floating]) -> None:
        """Takes in values of shape (bands, n)."""
        count = values.shape[1]
        if count == 0:
            return
        wide = values.astype(np.float64)
        mean = wide.mean(1)
        squares = ((wide - mean[:, None]) ** 2).sum(1)
        total = self.count + count
        delta = mean - self.mean
        self.squares += squares + delta**2 * self.count * count / total
        self.mean += delta * count / total
        self.count = total

    def statistics(self) -> Statistics:
        """Returns what was seen; population standard deviation."""
        std = np.sqrt(self.squares / max(self.count, 1))
        return Statistics(
            mean=tuple(self.mean.tolist()),
            std=tuple(np.where(std > _LEAST_STD, std, 1.0).tolist()),
            count=self.count,
        )


def collect(
    scenes: tuple[OpenScene, ...],
    modalities: Mapping[str, Modality],
    places: Sequence[Where],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Statistics]:
    """Returns the statistics of every modality.

    Args:
        scenes: opened training scenes.
        modalities: by name.
        places: windows that are read.
        progress: takes windows done and in all.

    Raises:
        SceneError: a modality has no valid pixel in any window.
    """
    moments = {name: Moments(modality.channels) for name, modality in modalities.items()}
    for done, (index, window) in enumerate(places, 1):
        inside = scenes[index].inside(window)
        for name in scenes[index].readers:
            pixels, valid = scenes[index].raw(name, window)
            valid = valid & inside
            moments[name].add(modalities[name].physical(pixels, valid)[:, valid])
        progress(done, len(places))
    for name, moment in moments.items():
        if moment.count == 0:
            raise SceneError(
                f"modality {name}: no valid pixel in the training split; check its files and nodata value"
            )
    return {name: moment.statistics() for name, moment in moments.items()}
