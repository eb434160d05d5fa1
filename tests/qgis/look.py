"""Says what QGIS makes of files that it opens, and draws them; run by the Python that QGIS is installed for.

Run: QT_QPA_PLATFORM=offscreen python3 look.py FOLDER FILE…

Prints a JSON object, file → what is seen, and writes FOLDER/FILE.png, a pixel of the raster to a pixel of the
picture.  Nothing is set: each file is added as QGIS adds one that a user drops on its window.
"""

import json
import sys
from pathlib import Path
from typing import Any

from osgeo import gdal
from qgis.core import (
    QgsApplication,
    QgsLayerTree,
    QgsLayerTreeModel,
    QgsMapLayer,
    QgsMapRendererParallelJob,
    QgsMapSettings,
    QgsRasterLayer,
    QgsRectangle,
    QgsVectorLayer,
)
from qgis.PyQt.QtCore import QSize, Qt
from qgis.PyQt.QtGui import QColor

gdal.UseExceptions()


def opened(path: Path) -> QgsMapLayer:
    """Returns the layer with the style and the metadata that its file brings."""
    kind, provider = (QgsVectorLayer, "ogr") if path.suffix == ".gpkg" else (QgsRasterLayer, "gdal")
    layer = kind(str(path), path.stem, provider)  # the constructor loads the style
    layer.loadDefaultMetadata()  # QgsAppLayerHandling::postProcessAddedLayer
    return layer


def seen(layer: QgsMapLayer) -> dict[str, Any]:
    """Returns what holds for layers of any kind."""
    box = layer.extent()
    return {
        "valid": layer.isValid(),
        "name": layer.name(),
        "crs": layer.crs().authid(),
        "extent": [box.xMinimum(), box.yMinimum(), box.xMaximum(), box.yMaximum()],
        "renderer": layer.renderer().type(),
        "legend": legend(layer),
        "title": layer.metadata().title(),
        "abstract": layer.metadata().abstract(),
        "opacity": layer.opacity(),
    }


def legend(layer: QgsMapLayer) -> list[str | None]:
    """Returns the lines under the layer in the layer tree; a colour bar is None."""
    tree = QgsLayerTree()
    node = tree.addLayer(layer)
    model = QgsLayerTreeModel(tree)
    return [entry.data(Qt.DisplayRole) for entry in model.layerLegendNodes(node)]


def seen_of_raster(layer: QgsRasterLayer) -> dict[str, Any]:
    """Returns what the renderer knows, the values it sees, and GDAL's attribute table."""
    provider, renderer = layer.dataProvider(), layer.renderer()
    width, height = provider.xSize(), provider.ySize()
    block = provider.block(1, layer.extent(), width, height)
    found = {
        **seen(layer),
        "values": [
            [None if block.isNoData(row, column) else block.value(row, column) for column in range(width)]
            for row in range(height)
        ],
        "table": table(layer.source()),
        # QGIS knows attribute tables since 3.30
        "tables": layer.attributeTableCount() if hasattr(layer, "attributeTableCount") else None,
    }
    if found["renderer"] == "paletted":
        found["classes"] = [(one.value, one.color.name(), one.label) for one in renderer.classes()]
    if found["renderer"] == "singlebandpseudocolor":
        ramp = renderer.shader().rasterShaderFunction()
        found["range"] = [renderer.classificationMin(), renderer.classificationMax()]
        found["classes"] = [(one.value, one.color.name(), one.label) for one in ramp.colorRampItemList()]
    return found


def table(source: str) -> dict[str, Any]:
    """Returns the category names and attribute rows that QGIS's GDAL reads."""
    dataset = gdal.Open(source)
    band = dataset.GetRasterBand(1)
    rows = band.GetDefaultRAT()
    names = band.GetCategoryNames()
    if rows is None:
        return {"names": names, "columns": [], "rows": []}
    columns = range(rows.GetColumnCount())
    return {
        "names": names,
        "columns": [rows.GetNameOfCol(column) for column in columns],
        "rows": [
            [rows.GetValueAsString(row, column) for column in columns] for row in range(rows.GetRowCount())
        ],
    }


def seen_of_vectors(layer: QgsVectorLayer) -> dict[str, Any]:
    """Returns the categories of the style, and the features' attributes."""
    categories = layer.renderer().categories() if layer.renderer().type() == "categorizedSymbol" else []
    names = layer.fields().names()
    return {
        **seen(layer),
        "classes": [(one.value(), one.symbol().color().name(), one.label()) for one in categories],
        "fields": names,
        "features": [dict(zip(names, feature.attributes(), strict=True)) for feature in layer.getFeatures()],
    }


def draw(layer: QgsMapLayer, path: Path, extent: QgsRectangle, size: QSize) -> None:
    """Draws a layer on nothing: what is transparent stays so."""
    settings = QgsMapSettings()
    settings.setLayers([layer])
    settings.setDestinationCrs(layer.crs())
    settings.setExtent(extent)
    settings.setOutputSize(size)
    settings.setBackgroundColor(QColor(0, 0, 0, 0))
    settings.setFlag(QgsMapSettings.Antialiasing, False)
    job = QgsMapRendererParallelJob(settings)
    job.start()
    job.waitForFinished()
    job.renderedImage().save(str(path))


def look(folder: Path, paths: list[Path]) -> dict[str, Any]:
    """Returns what is seen of each file, and draws it; vectors in the frame of the raster before them."""
    found, extent, size = {}, QgsRectangle(), QSize(1, 1)
    for path in paths:
        layer = opened(path)
        if not layer.isValid():
            found[path.name] = {"valid": False}
            continue
        if isinstance(layer, QgsRasterLayer):
            extent, size = layer.extent(), QSize(layer.width(), layer.height())
            found[path.name] = seen_of_raster(layer)
        else:
            found[path.name] = seen_of_vectors(layer)
        draw(layer, folder / f"{path.name}.png", extent, size)
    return found


def main() -> None:
    """Prints what is seen.  Layers and jobs are gone before QGIS ends: it would crash with them."""
    application = QgsApplication([], False)
    application.initQgis()
    folder, *paths = map(Path, sys.argv[1:])
    sys.stdout.write(json.dumps(look(folder, paths), default=lambda nothing: None))
    application.exitQgis()


if __name__ == "__main__":
    main()
