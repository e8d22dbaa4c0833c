"""The style sheet of a report: light or dark as the reader's system is, one column on a phone, nothing loaded.

Words that judge (a layer ``active``, ``weak`` or ``collapsed``; weights ``good``, ``usable`` or ``do-not-trust``) are
classes here, and their colours keep a contrast of 4.5 to 1 with the paper in both schemes. A table that is wider than
the page has a shade on the side where it goes on: a cover that scrolls with the table hides the shade at its ends.
"""

__all__ = ["STYLE"]

STYLE = """
:root{color-scheme:light dark;--ink:#1d2126;--muted:#5c6670;--paper:#fff;--card:#f5f6f8;--line:#dde1e6;--link:#0b5cad;
--warn:#fff4dc;--warn-line:#d99a00;--shade:#0004;--good:#00704f;--mid:#8a5a00;--bad:#b03a00}
@media (prefers-color-scheme:dark){:root{--ink:#e4e7eb;--muted:#9aa4af;--paper:#14171a;--card:#1e2328;--line:#343b43;
--link:#79b8ff;--warn:#33290f;--warn-line:#d99a00;--shade:#fff4;--good:#4cc79b;--mid:#e6b450;--bad:#ff8f5e}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1.5rem 1rem 3rem;max-width:54rem;background:var(--paper);color:var(--ink);
font:1rem/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.6rem;line-height:1.25;margin:0 0 .25rem}
h2{font-size:1.15rem;margin:2.2rem 0 .6rem;padding-top:1rem;border-top:1px solid var(--line)}
a{color:var(--link)}p{margin:.4rem 0}
code,.density{font-family:ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:.92em}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1rem;margin:.9rem 0 0}
dt{color:var(--muted)}dd{margin:0;min-width:0}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(15rem,1fr));gap:.8rem}
.figure{background:var(--card);border-radius:.5rem;padding:.8rem 1rem}
.figure b{display:block;font-size:1.45rem;font-weight:600;line-height:1.3;font-variant-numeric:tabular-nums}
.figure span,figcaption,.muted{color:var(--muted);font-size:.9rem}
.figure ul{list-style:none;margin:.2rem 0 0;padding:0}
.figure li b{font-size:1.15rem;line-height:1.4}.figure i{font-style:normal;white-space:nowrap}
.warnings{background:var(--warn);border-left:4px solid var(--warn-line);border-radius:.3rem;
padding:.7rem 1rem;margin:1.2rem 0 0}
.warnings ul{margin:.3rem 0 0;padding-left:1.2rem}
.scroll{margin-top:.6rem;overflow-x:auto;border:1px solid var(--line);border-radius:.4rem;
background:linear-gradient(to right,var(--paper),var(--paper)) left/1.2rem 100% no-repeat local,
linear-gradient(to right,var(--paper),var(--paper)) right/1.2rem 100% no-repeat local,
linear-gradient(to right,var(--shade),transparent) left/1.2rem 100% no-repeat scroll,
linear-gradient(to left,var(--shade),transparent) right/1.2rem 100% no-repeat scroll,var(--paper)}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:.95rem;overflow-wrap:normal}
th,td{padding:.4rem .8rem;text-align:left;border-bottom:1px solid var(--line);white-space:nowrap}
tr:last-child td,tr:last-child th{border-bottom:0}
tbody tr:last-child th{border-bottom:0}
thead th{color:var(--muted);font-weight:600;white-space:normal;vertical-align:bottom}
tbody th{font-weight:500;white-space:normal;min-width:6.5rem}.number{text-align:right}
.wide{white-space:normal;min-width:11rem;
overflow-wrap:anywhere}
figure{margin:.8rem 0 0}figure img{display:block;max-width:100%;height:auto;background:#fff;border-radius:.4rem}
figcaption{margin-top:.4rem}
.good,.active{color:var(--good)}.usable,.weak{color:var(--mid)}.do-not-trust,.collapsed,.not-finite{color:var(--bad)}
@media (max-width:30rem){dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:.4rem}h1{font-size:1.35rem}}
@media print{.scroll{overflow:visible}section{break-inside:avoid}}
"""
