#include "app/report/style.h"

namespace espalier::app {

const char* const kThemeCss = R"css(
:root{color-scheme:light dark;--paper:#fbfaf7;--face:#fff;--ink:#1f2421;--quiet:#5d6660;--line:#dcdad2;
--bark:#9a8a78;--pos:#0d6145;--neg:#a03313;--zero:#8c938e;--failed:#7a5c00;--on-fill:#fff;--code:#f3f1eb;--target:#fdf3cf;
--s0:#0d6145;--s1:#c2571a;--s2:#3a5fb0;--s3:#8b3f8f;--s4:#857000;--s5:#b3285a}
@media (prefers-color-scheme:dark){:root{--paper:#151917;--face:#1d2320;--ink:#e6e8e4;--quiet:#a3aca6;--line:#38403b;
--bark:#8a7b69;--pos:#56c596;--neg:#f08a63;--zero:#7f8882;--failed:#e0b94a;--on-fill:#10140f;--code:#232a26;--target:#3d3617;
--s0:#56c596;--s1:#f0a060;--s2:#8aabf0;--s3:#d696d9;--s4:#d6c350;--s5:#f08cae}}
)css";

const char* const kTreeCss = R"css(
svg.tree text{font:11px system-ui,"Segoe UI",Roboto,"Helvetica Neue",sans-serif;fill:var(--ink)}
svg.tree text.command,svg.tree text.output,svg.tree text.adv{font-family:ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace;white-space:pre}
svg.tree text.heading{font-size:13px;font-weight:600}
svg.tree text.output,svg.tree text.tick{fill:var(--quiet)}
svg.tree text.adv.pos{fill:var(--pos)}svg.tree text.adv.neg{fill:var(--neg)}svg.tree text.adv.zero{fill:var(--quiet)}
svg.tree .paper{fill:var(--paper)}
svg.tree .face,svg.tree .prompt{fill:var(--face);stroke:var(--line)}
svg.tree .prompt{stroke:var(--bark);stroke-width:1.5}
svg.tree .tint.pos{fill:var(--pos)}svg.tree .tint.neg{fill:var(--neg)}svg.tree .tint.zero{fill:none}
svg.tree .bark{fill:none;stroke:var(--bark);stroke-width:2}
svg.tree .branch{fill:none;stroke:var(--zero)}svg.tree .branch.pos{stroke:var(--pos)}svg.tree .branch.neg{stroke:var(--neg)}
svg.tree .fork{fill:var(--paper);stroke:var(--bark);stroke-width:2}
svg.tree .badge{stroke-width:1.5}
svg.tree .badge.pos{fill:var(--pos);stroke:var(--pos)}svg.tree .badge.neg{fill:var(--paper);stroke:var(--neg)}
svg.tree .badge.failed{fill:var(--paper);stroke:var(--failed);stroke-dasharray:2 2}
svg.tree text.reward{font-weight:600}svg.tree text.reward.pos{fill:var(--on-fill)}svg.tree text.reward.neg{fill:var(--neg)}
svg.tree a:hover .face,svg.tree a:focus .face{stroke:var(--ink)}
)css";

const char* const kPageCss = R"css(
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,"Segoe UI",Roboto,"Helvetica Neue",sans-serif}
main{max-width:1200px;margin:0 auto;padding:28px 24px 64px}
h1{font-size:28px;line-height:1.2;margin:0;overflow-wrap:anywhere}
h2{font-size:19px;margin:44px 0 10px;padding-top:14px;border-top:1px solid var(--line)}
h3{font-size:15px;margin:22px 0 6px}
p{margin:6px 0;max-width:78ch}.quiet{color:var(--quiet)}
a{color:var(--s2)}
.note{border-left:3px solid var(--failed);padding:4px 12px;background:var(--face);max-width:none}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(190px,1fr));gap:12px;margin:20px 0 8px}
.tile{background:var(--face);border:1px solid var(--line);border-radius:10px;padding:12px 14px}
.tile b{display:block;font-size:24px;line-height:1.25;font-weight:650;font-variant-numeric:tabular-nums}
.tile span{display:block;color:var(--quiet);font-size:13px}
.pos{color:var(--pos)}.neg{color:var(--neg)}.zero{color:var(--quiet)}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:4px 18px;padding:0;margin:6px 0;font-size:13px}
.legend svg{vertical-align:-2px;margin-right:6px}
svg.chart{display:block;width:100%;height:auto}
.chart text{font:11px system-ui,"Segoe UI",Roboto,sans-serif;fill:var(--quiet)}
.small .chart text{font-size:12px}
.wide{overflow-x:auto}.wide svg.chart{min-width:680px}
.grid{stroke:var(--line);stroke-width:1}.axis{stroke:var(--quiet);stroke-width:1}
.curve{fill:none;stroke-width:2;stroke-linejoin:round}.curve.faint{stroke-width:1;opacity:.4}.curve.dashed{stroke-dasharray:5 4}
.bar{fill:none;stroke-width:1.5}.mark{stroke:var(--paper);stroke-width:1.5}.mark.hollow{fill:var(--paper);stroke-width:2}
.curve.s0,.bar.s0,.mark.hollow.s0{stroke:var(--s0)}.mark.s0:not(.hollow){fill:var(--s0)}
.curve.s1,.bar.s1,.mark.hollow.s1{stroke:var(--s1)}.mark.s1:not(.hollow){fill:var(--s1)}
.curve.s2,.bar.s2,.mark.hollow.s2{stroke:var(--s2)}.mark.s2:not(.hollow){fill:var(--s2)}
.curve.s3,.bar.s3,.mark.hollow.s3{stroke:var(--s3)}.mark.s3:not(.hollow){fill:var(--s3)}
.curve.s4,.bar.s4,.mark.hollow.s4{stroke:var(--s4)}.mark.s4:not(.hollow){fill:var(--s4)}
.curve.s5,.bar.s5,.mark.hollow.s5{stroke:var(--s5)}.mark.s5:not(.hollow){fill:var(--s5)}
.small{display:grid;grid-template-columns:repeat(auto-fill,minmax(270px,1fr));gap:14px 22px}
figure{margin:0;min-width:0}figcaption{font-size:13px;font-weight:600}figcaption small{font-weight:400;color:var(--quiet)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:14px;font-variant-numeric:tabular-nums}
th,td{padding:4px 14px 4px 0;text-align:left;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;color:var(--quiet);font-size:13px}
td.n,th.n{text-align:right;white-space:nowrap}td small{color:var(--quiet)}
.track{display:block;width:220px;height:14px}.track .grid{stroke-width:2}
.meter{display:flex;height:16px;border-radius:5px;overflow:hidden;margin:8px 0 4px;max-width:820px}
.meter i{display:block;min-width:1px}
.k0{background:var(--s0)}.k1{background:var(--s1)}.k2{background:var(--s2)}.k3{background:var(--s3)}.k4{background:var(--s4)}.k5{background:var(--s5)}
.swatch{display:inline-block;width:10px;height:10px;border-radius:3px;margin-right:7px}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,430px),1fr));gap:6px 40px;align-items:start}
code,pre,.path{font-family:ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:12.5px}
pre{background:var(--code);border-radius:6px;padding:8px 10px;margin:6px 0;overflow:auto;max-height:420px;white-space:pre-wrap;overflow-wrap:anywhere}
pre.command{font-weight:600}
.treebox{border:1px solid var(--line);border-radius:10px;padding:10px;margin:10px 0;overflow-x:auto}
svg.tree{display:block;max-width:100%;height:auto;margin:0 auto}
details>summary{cursor:pointer}
.turns{columns:2 440px;column-gap:32px}
details.list{margin:8px 0 20px}
details.turn{margin-left:calc(var(--depth)*18px);padding:2px 8px;border-left:2px solid var(--line)}
details.turn{break-inside:avoid}
details.turn:target{background:var(--target)}
.turn summary code{font-weight:600}.path,.num{color:var(--quiet);font-size:12px}.num.pos{color:var(--pos)}.num.neg{color:var(--neg)}
.chip{display:inline-block;border:1px solid currentColor;border-radius:9px;padding:0 8px;font-size:12px}
.chip.failed{color:var(--failed)}
.facts{display:flex;flex-wrap:wrap;gap:2px 22px;margin:6px 0;font-size:13px}
.facts div{display:flex;gap:6px}.facts dt{color:var(--quiet)}.facts dd{margin:0;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
footer{margin-top:48px;color:var(--quiet);font-size:13px}
@media print{body{background:#fff}main{max-width:none;padding:0}.treebox{overflow:visible;border:0;padding:0}svg.tree,.wide svg.chart{min-width:0!important}
figure,.tile,tr,svg.tree{break-inside:avoid}h2,h3{break-after:avoid}pre{max-height:none}}
@page{size:landscape;margin:14mm}
)css";

}  // namespace espalier::app
