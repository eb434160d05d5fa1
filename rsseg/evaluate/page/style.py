"""How the report looks: the page of `rsseg check`, with charts, and in the dark."""

from rsseg.data.check.style import STYLE as _CHECK

SERIES = 8
"""Colours of lines, sensors and models; the ninth takes the first again."""

LIGHT = ("#0072b2", "#c2500a", "#7711ee", "#667744", "#770066", "#664444", "#880000", "#003399")
DARK = ("#56b4e9", "#f08a4b", "#9977ff", "#bbee00", "#bb7799", "#ffccbb", "#00ffff", "#aa9977")
"""Each stands out from the paper 4.5 : 1, and from the others by 20 CIELAB units to colour-blind eyes too."""

PAPER = {"light": "#ffffff", "dark": "#181d25"}
INK = {"light": "#1c2430", "dark": "#e6eaf0"}


def _series(colours: tuple[str, ...]) -> str:
    return "".join(f"--c{k}:{colour};" for k, colour in enumerate(colours))


_DARK = f"""
  --ink:{INK["dark"]};--soft:#a0acba;--line:#2f3844;--paper:{PAPER["dark"]};--ground:#0f1319;--error:#ff8a7a;
  --warning:#f5b056;--note:#84b6ff;--good:#5fd3a0;--heat:70 148 255;--hole:#232a34;--hole2:#181d25;
  {_series(DARK)}color-scheme:dark"""

STYLE = (
    _CHECK
    + f""":root{{--heat:0 108 209;--hole:#eceff2;--hole2:#fff;{_series(LIGHT)}color-scheme:light}}
@media (prefers-color-scheme:dark){{:root{{{_DARK}}}
  .verdict{{color:#10151c}}
}}
"""
    + "".join(f".c{k}{{color:var(--c{k})}}" for k in range(SERIES))
    + """
main{max-width:1240px}
h2{margin:44px 0 6px}
h2+p{margin:0 0 14px}
p{max-width:78ch}
.lead{font-size:19px;line-height:1.45;max-width:62ch;margin:14px 0 0;overflow-wrap:anywhere}
.lead b{font-variant-numeric:tabular-nums;white-space:nowrap}
.callout{border-left:4px solid var(--warning);padding:6px 14px;margin:18px 0 0;background:var(--paper)}
h1{overflow-wrap:anywhere}
h3{font-size:15px;margin:0 0 2px}
.tiles div{flex:1 1 112px;max-width:190px;overflow-wrap:anywhere}
.tiles b{color:var(--ink)}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,330px),1fr));gap:18px}
.grid .card{margin:0;padding:16px 18px}
.grid p{margin:0 0 8px;font-size:13.5px;line-height:1.4}
svg.chart{display:block;width:100%;height:auto;max-width:440px;overflow:visible}
svg.chart text{fill:var(--soft);font:11.5px system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif;
  font-variant-numeric:tabular-nums}
svg.chart text.ink{fill:var(--ink)}
svg .rule{stroke:var(--line);stroke-width:1}
svg .axis{stroke:var(--soft);stroke-width:1}
svg .curve{fill:none;stroke:currentColor;stroke-width:2;stroke-linejoin:round}
svg .dashed{stroke-dasharray:5 4}
svg .mark{fill:currentColor;stroke:var(--paper);stroke-width:1.2}
svg .area{fill:currentColor}
svg .ideal{stroke:var(--soft);stroke-dasharray:3 4}
.legend svg{width:26px;height:12px;margin-right:6px;vertical-align:-1px;overflow:visible}
.legend{margin-top:6px;gap:4px 16px}
.legend>span{overflow-wrap:anywhere}
.chips{display:inline-flex;flex-wrap:wrap;gap:4px}
.chip{display:inline-block;padding:0 7px;border-radius:999px;font-size:12.5px;line-height:19px;
  border:1px solid currentColor;font-weight:600;max-width:16ch;overflow:hidden;text-overflow:ellipsis;
  white-space:nowrap;vertical-align:bottom}
.chip.off{color:var(--soft);border-style:dashed;font-weight:400;text-decoration:line-through}
table caption{text-align:left;color:var(--soft);font-size:13px;padding:0 0 6px}
th[scope=row],th[scope=rowgroup]{color:var(--ink);font-weight:400;white-space:normal}
thead th{vertical-align:bottom}
tbody tr:first-child th{border-top:1px solid var(--line)}
table.heat{border-collapse:separate;border-spacing:2px}
table.heat th,table.heat td,table.heat tbody tr:first-child th{border:0;padding:5px 8px}
table.heat td{text-align:right;border-radius:5px;min-width:52px}
table.heat td.heat{background:rgb(var(--heat) / calc(var(--v)*.5))}
table.heat thead th{text-align:right;max-width:11ch;overflow:hidden;text-overflow:ellipsis}
table.heat thead th:first-child{text-align:left}
table.heat tbody tr th[scope=row]{padding-left:0;white-space:nowrap;position:sticky;left:0;
  background:var(--paper)}
table.heat .chips{flex-wrap:nowrap}
table.heat thead th:first-child{padding-left:0}
td.top{font-weight:700}
.swatch{display:inline-block;width:11px;height:11px;border-radius:3px;margin-right:5px;vertical-align:-1px;
  border:1px solid var(--soft)}
.windows figure{width:148px}
.windows .pair{width:148px;height:148px;
  background:repeating-conic-gradient(var(--hole) 0 25%,var(--hole2) 0 50%) 0 0/14px 14px}
.windows .pair img{image-rendering:auto}
.windows .pair img.exact{image-rendering:pixelated}
.windows .looks{gap:14px 12px;margin:10px 0 4px}
.windows>.legend{margin:0 0 12px}
td.near,table.shares td{white-space:nowrap}
table.sides th[scope=row]{min-width:22ch}
table.shares svg{display:block;width:100%;min-width:84px;height:14px;margin:2px 0}
.windows h4{margin:12px 0 0;font-size:13px;font-weight:600;color:var(--soft)}
figcaption b{font-weight:600}
pre{background:var(--ground);border:1px solid var(--line);border-radius:8px;padding:12px 14px;overflow-x:auto;
  font-size:12.5px;line-height:1.5;margin:8px 0;white-space:pre-wrap;overflow-wrap:anywhere}
dl{display:grid;grid-template-columns:max-content 1fr;gap:4px 18px;margin:0;font-size:14px}
dt{color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere}
.up{color:var(--good);font-weight:600}
.down{color:var(--error);font-weight:600}
.wide{grid-column:1/-1}
@media (max-width:640px){
  main{padding:22px 14px 48px}
  .card{padding:14px 14px}
  .lead{font-size:17px}
  .tiles div{padding:8px 12px;min-width:96px}
  .windows figure,.windows .pair{width:calc(50vw - 38px)}
  .windows .pair{height:calc(50vw - 38px)}
  table.heat .chips{flex-wrap:wrap;max-width:130px}
  table.heat th,table.heat td{padding:5px 4px;min-width:44px}
  dl{grid-template-columns:1fr;gap:0}
  dd{margin-bottom:8px}
}
"""
)
