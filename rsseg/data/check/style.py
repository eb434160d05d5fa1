"""How the page of a check looks."""

STYLE = """
:root{--ink:#1c2430;--soft:#5c6878;--line:#e3e7ec;--paper:#fff;--ground:#f5f6f8;--error:#b42318;
  --warning:#b54708;--note:#175cd3;--good:#067647}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);
  font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif}
main{max-width:1180px;margin:0 auto;padding:36px 24px 64px}
h1{font-size:26px;margin:0;letter-spacing:-.01em}
h2{font-size:18px;margin:40px 0 12px}
h3{font-size:17px;margin:0}
.soft{color:var(--soft)}
.head{display:flex;align-items:baseline;gap:14px;flex-wrap:wrap}
.verdict{font-weight:600;padding:3px 12px;border-radius:999px;color:#fff;background:var(--good)}
.verdict.bad{background:var(--error)}
.verdict.odd{background:var(--warning)}
.tiles{display:flex;gap:12px;flex-wrap:wrap;margin:22px 0 0}
.tiles div{background:var(--paper);border:1px solid var(--line);border-radius:10px;padding:10px 18px;
  min-width:112px}
.tiles b{display:block;font-size:22px;line-height:1.3;font-variant-numeric:tabular-nums}
.card{background:var(--paper);border:1px solid var(--line);border-radius:12px;padding:20px 22px;
  margin:0 0 18px}
ul.findings{list-style:none;margin:0;padding:0}
ul.findings li{display:grid;grid-template-columns:78px 1fr;gap:10px;padding:8px 0;
  border-top:1px solid var(--line);overflow-wrap:anywhere}
ul.findings li:first-child{border:0}
.level{font-size:12px;font-weight:600;text-transform:uppercase;letter-spacing:.04em;padding-top:2px}
.error{color:var(--error)}
.warning{color:var(--warning)}
.note{color:var(--note)}
.place{font-weight:600}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:13.5px;font-variant-numeric:tabular-nums}
th{font-weight:600;color:var(--soft);text-align:left;white-space:nowrap}
th,td{padding:6px 14px 6px 0;vertical-align:top;border-top:1px solid var(--line)}
tr:first-child th{border-top:0}
td.n,th.n{text-align:right}
.looks{display:flex;flex-wrap:wrap;gap:18px;margin:16px 0 14px}
figure{margin:0;width:200px}
figure .pair{position:relative;width:200px;height:200px;border-radius:8px;overflow:hidden;
  border:1px solid var(--line);
  background:repeating-conic-gradient(#eceff2 0 25%,#fff 0 50%) 0 0/16px 16px}
figure img,figure svg{width:100%;height:100%;object-fit:contain;display:block}
figure .plain{background:#fff}
figure img.small{image-rendering:pixelated}
figcaption{font-size:13px;margin-top:6px;overflow-wrap:anywhere}
.thumb{display:flex;gap:8px;align-items:center;margin-top:6px}
.thumb img{width:52px;height:52px;border-radius:5px;border:1px solid var(--line);object-fit:contain;
  image-rendering:pixelated}
.thumb span{font-size:12.5px;color:var(--soft);line-height:1.35}
.bar{display:flex;height:14px;border-radius:7px;overflow:hidden;background:var(--line);
  margin:6px 0 8px}
.bar i{display:block}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;font-size:13px}
.dot{display:inline-block;width:11px;height:11px;border-radius:3px;margin-right:6px;
  vertical-align:-1px;border:1px solid rgba(0,0,0,.15)}
.map{max-width:560px;margin:6px 0}
.map svg{width:100%;height:auto;display:block}
details{margin-top:10px}
summary{cursor:pointer;color:var(--soft);font-size:13.5px}
code{font-size:12.5px}
footer{margin-top:36px;color:var(--soft);font-size:13px}
@media print{body{background:#fff}.card{break-inside:avoid}}
"""
