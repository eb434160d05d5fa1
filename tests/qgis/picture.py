"""Draws maps side by side with their legends, as QGIS shows them without a click: the picture of the README.

Run: QT_QPA_PLATFORM=offscreen /usr/bin/python3 tests/qgis/picture.py OUT.png MAP.tif …
"""

import sys
from pathlib import Path

from qgis.core import (
    QgsApplication,
    QgsLayoutExporter,
    QgsLayoutItemLegend,
    QgsLayoutItemMap,
    QgsLayoutPoint,
    QgsLayoutSize,
    QgsLegendStyle,
    QgsPrintLayout,
    QgsProject,
    QgsRasterLayer,
    QgsUnitTypes,
)
from qgis.PyQt.QtCore import QSizeF
from qgis.PyQt.QtGui import QFont

SIDE, GAP, LEGEND = 100, 5, 31
"""Of a map and between maps, and the height of the legends, millimetres."""

DOTS = 104
"""Per inch: two maps of some 400 pixels abreast stay below 300 KB."""

MILLIMETRES = QgsUnitTypes.LayoutMillimeters


def layout(project: QgsProject, paths: list[Path]) -> QgsPrintLayout:
    """Returns a page with a map and a legend for each file."""
    page = QgsPrintLayout(project)
    page.initializeDefaults()
    width = len(paths) * SIDE + (len(paths) - 1) * GAP
    page.pageCollection().page(0).setPageSize(QgsLayoutSize(QSizeF(width, SIDE + LEGEND), MILLIMETRES))
    for number, path in enumerate(paths):
        layer = QgsRasterLayer(str(path), path.stem)
        project.addMapLayer(layer)
        left = number * (SIDE + GAP)
        shown = QgsLayoutItemMap(page)
        shown.setLayers([layer])
        shown.setCrs(layer.crs())
        page.addLayoutItem(shown)
        shown.attemptMove(QgsLayoutPoint(left, 0, MILLIMETRES))
        shown.attemptResize(QgsLayoutSize(SIDE, SIDE, MILLIMETRES))
        shown.setExtent(layer.extent())
        page.addLayoutItem(legend(page, layer, left))
    return page


def legend(page: QgsPrintLayout, layer: QgsRasterLayer, left: float) -> QgsLayoutItemLegend:
    """Returns the legend that QGIS makes of a layer's style."""
    shown = QgsLayoutItemLegend(page)
    shown.setAutoUpdateModel(False)
    group = shown.model().rootGroup()
    group.clear()
    group.addLayer(layer)
    for part in (QgsLegendStyle.Subgroup, QgsLegendStyle.SymbolLabel):
        shown.setStyleFont(part, QFont("DejaVu Sans", 8))
    shown.setColumnCount(2)
    shown.setSplitLayer(True)
    shown.attemptMove(QgsLayoutPoint(left, SIDE, MILLIMETRES))
    return shown


def main(out: Path, paths: list[Path]) -> None:
    """Writes the picture."""
    application = QgsApplication([], True)
    application.initQgis()
    project = QgsProject.instance()
    page = layout(project, paths)
    settings = QgsLayoutExporter.ImageExportSettings()
    settings.dpi = DOTS
    settings.generateWorldFile = False
    failed = QgsLayoutExporter(page).exportToImage(str(out), settings)
    del page
    project.clear()
    application.exitQgis()
    sys.exit(int(failed))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
