"""One scene through every sensor: pixels on the reference grid, NaN or 0 where a sensor saw nothing."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsseg.datasets.simulated.city import City, build_city
from rsseg.datasets.simulated.coverage import cut_swath, draw_clouds
from rsseg.datasets.simulated.elevation import match_heights
from rsseg.datasets.simulated.optics import NIR, RGB, Sun, draw_sun, illuminate, photograph
from rsseg.datasets.simulated.radar import Look, draw_look, receive
from rsseg.datasets.simulated.settings import CitySettings
from rsseg.datasets.simulated.texture import Field, Flags, stream

Pixels = NDArray[Any]
"""(bands, H, W)."""

NODATA = {"rgb": 0.0, "nir": 0.0, "dsm": -9999.0, "sar": float("nan")}
OPTICAL = ("rgb", "nir")


@dataclass(slots=True)
class View:
    """One scene: its city and the circumstances of each flight."""

    settings: CitySettings
    scene: str
    city: City = field(init=False)
    sun: Sun = field(init=False)
    look: Look = field(init=False)

    def __post_init__(self) -> None:
        self.city = build_city(self.settings.seed, self.scene, self.settings.size, self.settings.gsd)
        self.sun = draw_sun(self.stream("sun"))
        self.look = draw_look(self.stream("look"))

    def stream(self, *names: str) -> np.random.Generator:
        """Return the random stream of one purpose in this scene."""
        return stream(self.settings.seed, self.scene, *names)

    def valid(self, modality: str, cloudless: Flags | None) -> Flags:
        """Return where a modality lies inside its swath and under no cloud, (size, size)."""
        shape = (self.settings.size, self.settings.size)
        inside = np.ones(shape, bool)
        if share := self.settings.swath.get(modality, 0.0):
            inside = cut_swath(self.stream("swath", modality), shape, share)
        return inside & cloudless if modality in OPTICAL and cloudless is not None else inside

    def cover(self) -> tuple[Flags | None, Field | None]:
        """Return where no cloud hides the scene and the share of sunlight, or None where the sky is clear."""
        if not self.settings.clouds:
            return None, None
        rng, city = self.stream("clouds"), self.city
        return draw_clouds(rng, city.shape, city.margin, self.settings.clouds, city.gsd)

    def render(self, modalities: Collection[str], *, holes: bool = True) -> dict[str, Pixels]:
        """Return the pixels of modalities, nodata where they saw nothing, each (bands, size, size).

        Args:
            modalities: names.
            holes: leave places empty where stereo matching would fail.
        """
        cloudless, sunlight = self.cover()
        light = illuminate(self.city, self.sun, sunlight)
        sensors: dict[str, Callable[[np.random.Generator], Pixels]] = {
            "rgb": lambda rng: photograph(self.city, light, RGB, rng),
            "nir": lambda rng: photograph(self.city, light, NIR, rng),
            "dsm": lambda rng: match_heights(self.city, rng, holes=holes)[None],
            "sar": lambda rng: receive(self.city, self.look, rng),
        }
        images = {}
        for name in modalities:
            image = self.city.crop(sensors[name](self.stream(name))).copy()
            image[:, ~self.valid(name, cloudless)] = NODATA[name]
            image[np.isnan(image)] = NODATA[name]
            images[name] = image
        return images
