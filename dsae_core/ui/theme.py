"""Colours, type and spacing, in light and dark. Charts take theirs from .streamlit/config.toml."""

from __future__ import annotations

import streamlit as st

ICON = (
    "data:image/svg+xml,"
    "%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'%3E"
    "%3Cpath d='M7 9 25 16 7 23' fill='none' stroke='%238a939c' stroke-width='2.4'/%3E"
    "%3Ccircle cx='7' cy='9' r='4.5' fill='%238a939c'/%3E%3Ccircle cx='7' cy='23' r='4.5' fill='%238a939c'/%3E"
    "%3Ccircle cx='25' cy='16' r='6' fill='%230072b2'/%3E%3C/svg%3E"
)
"""Two heads that lead to a third; inline, so that no other server is asked for it."""

STYLE = """
<style>
/* No selector here looks into classes ([class*=...]) or down from an ancestor (:has): Streamlit changes the class of
   every element whenever it draws, and with such a rule a browser then works out the style of the whole page again. */
.stApp {
  --ink: light-dark(#1b2128, #e8eaed);
  --quiet: light-dark(#5c6670, #9aa5b1);
  --faint: light-dark(#6b757f, #87929e);
  --ground: light-dark(#ffffff, #11161c);
  --line: light-dark(#e2e4e1, #2b333c);
  --panel: light-dark(#f6f6f3, #161c23);
  --tp: light-dark(#0072b2, #56b4e9);
  --fp: light-dark(#d55e00, #f0945a);
  --missed: light-dark(#a3437f, #e08fc0);
  --amber: light-dark(#9a6700, #e3b341);
  font-variant-numeric: tabular-nums;
}
/* Menus and dialogs lie outside .stApp and know nothing of its scheme, only the colour of their text. */
:is([data-testid="stPopoverBody"], [data-testid="stDialog"]) { --ink: currentColor;
  --quiet: color-mix(in srgb, currentColor 74%, transparent);
  --faint: color-mix(in srgb, currentColor 64%, transparent); --line: color-mix(in srgb, currentColor 15%, transparent);
  --amber: color-mix(in srgb, #c98b12 70%, currentColor); font-variant-numeric: tabular-nums; }
[data-testid="stMainBlockContainer"] { padding: 4.5rem 2.2rem 4rem; max-width: 1500px; }
.stMain [data-testid="stVerticalBlock"] { gap: .7rem; }
[data-testid="stSidebarContent"] [data-testid="stVerticalBlock"] { gap: .8rem; }
[data-testid="stSidebarContent"] label p { font-size: .86rem; font-weight: 600; }
.d-eyebrow { font-size: .8rem; color: var(--quiet); display: flex; flex-wrap: wrap; gap: .25rem .6rem;
  align-items: baseline; }
.d-tag { font-size: .7rem; font-weight: 600; letter-spacing: .06em; text-transform: uppercase;
  border: 1px solid currentColor; border-radius: 3px; padding: .05rem .4rem; color: var(--quiet); }
.d-tag.stale { color: var(--amber); }
.d-headline { font-family: "Source Serif", Georgia, serif; font-size: 1.6rem; line-height: 1.28; font-weight: 600;
  letter-spacing: -.008em; margin: .35rem 0 0; max-width: 70rem; text-wrap: pretty; }
.d-note { font-size: .86rem; color: var(--quiet); margin: .3rem 0 0; max-width: 54rem; }
.d-note.stale { color: var(--amber); }
.d-note.first { margin: 0 0 .5rem; max-width: 70rem; text-wrap: pretty; }
.d-anew { position: fixed; z-index: 1000000; inset: auto 1rem 1rem; margin: auto; max-width: 48rem; padding: .8rem 1rem;
  display: flex; flex-wrap: wrap; gap: .5rem 1rem; align-items: center; justify-content: end; font-size: .9rem;
  background: var(--panel); border: 1px solid var(--amber); border-radius: 6px; }
.d-anew span { flex: 1 1 20rem; }
.d-anew button { font: inherit; font-weight: 600; color: var(--ink); background: none; cursor: pointer;
  border: 1px solid var(--amber); border-radius: 6px; padding: .15rem .7rem; }
.d-title { font-size: .95rem; font-weight: 600; line-height: 1.3; }
.d-swipe { display: none; }
/* Streamlit's own menu of a chart comes where the button that saves it is; so it comes beside it. */
[data-testid="stElementToolbar"] { right: 5.2rem; }
.d-title a.d-jump { margin-left: .5rem; white-space: nowrap; color: var(--tp); }
#selected-head { scroll-margin-top: 4.5rem; }
.d-title span { font-weight: 400; color: var(--quiet); font-size: .84rem; margin-left: .5rem; }
.d-figures { display: flex; flex-wrap: wrap; gap: .3rem 1.9rem; }
.d-figure b { display: block; font-size: 1.3rem; font-weight: 600; line-height: 1.15; }
.d-figure { position: relative; cursor: help; }
.d-figure span { font-size: .76rem; color: var(--quiet); white-space: nowrap; }
.d-figure[data-help] span { border-bottom: 1px dotted var(--faint); }
.d-figure:is(:hover, :focus)::after { content: attr(data-help); position: absolute; z-index: 5; top: 100%; right: 0;
  width: max-content; max-width: 17rem; background: var(--panel); color: var(--ink); border: 1px solid var(--line);
  border-radius: 4px; padding: .4rem .6rem; font-size: .8rem; line-height: 1.4; white-space: normal; }
.d-figure:first-child:is(:hover, :focus)::after { right: auto; left: 0; }
.d-legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; font-size: .84rem; color: var(--quiet); }
.d-mark { display: inline-block; width: .6rem; height: .6rem; margin: 0 .42rem 0 .1rem; }
.d-mark.tp { background: var(--tp); border-radius: 50%; }
.d-mark.fp { background: var(--fp); transform: rotate(45deg) scale(.86); }
.d-mark.missed { border: 2px solid var(--missed); }
.d-mark.framed { background: none; border: 1.5px solid var(--tp); border-radius: 1px; }
.d-mark.missed.framed { border: 1.5px dashed var(--missed); }
.d-legend b { color: var(--ink); font-weight: 600; }
.d-panel { background: var(--panel); border-radius: 6px; padding: .8rem 1rem; font-size: .9rem; }
.d-times { font-size: .8rem; color: var(--quiet); display: grid; grid-template-columns: auto 1fr auto;
  gap: .18rem .6rem; align-items: center; }
.d-times i { height: 3px; border-radius: 2px; background: var(--tp); display: block; min-width: 1px; }
.d-times b { color: var(--ink); font-weight: 600; }
.d-times .rule { grid-column: 1 / -1; border-top: 1px solid var(--line); margin: .1rem 0; }
.d-steps { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; font-size: .84rem; color: var(--faint); }
.d-steps .done { color: var(--quiet); }
.d-steps .now { color: var(--ink); font-weight: 600; }
.d-scroll, :is(.st-key-heatmap_scroll, .st-key-circuit_scroll, .st-key-effects_scroll) { overflow-x: auto; }
/* A shade at the side where there is more; covers that scroll along hide it where there is not. */
.d-scroll { --shade: color-mix(in srgb, var(--ink) 22%, transparent); background:
  linear-gradient(to left, transparent, var(--ground) 70%) left / 2rem 100% no-repeat local,
  linear-gradient(to right, transparent, var(--ground) 70%) right / 2rem 100% no-repeat local,
  linear-gradient(to right, var(--shade), transparent) left / .6rem 100% no-repeat scroll,
  linear-gradient(to left, var(--shade), transparent) right / .6rem 100% no-repeat scroll; }
:is(.st-key-heatmap_scroll, .st-key-circuit_scroll, .st-key-effects_scroll) > * { min-width: 42rem; }
/* Charts hide what lies behind them; so they fade where there is more, in browsers whose styles know of scrolling, and
   on narrow pages alone: whatever is drawn below a mask costs more. */
@property --more-left { syntax: "\\3c length>"; inherits: false; initial-value: 0px; }
@property --more-right { syntax: "\\3c length>"; inherits: false; initial-value: 0px; }
@keyframes d-more { 0% { --more-right: 2rem; } 5%, 95% { --more-left: 2rem; --more-right: 2rem; }
  100% { --more-left: 2rem; } }
/* Hovering over a mark near the edge of a phone: what it says stays on the screen. */
#vg-tooltip-element { opacity: 1; max-width: calc(100vw - 16px); }
.d-codes { border-collapse: collapse; width: 100%; font-size: .86rem; line-height: 1.5; }
.d-codes th { text-align: left; font-weight: 600; font-size: .76rem; color: var(--quiet); padding: .2rem .7rem .3rem 0;
  border-bottom: 1px solid var(--line); white-space: nowrap; }
.d-codes td { padding: .16rem .7rem .16rem 0; vertical-align: baseline; }
.d-codes tr.pair td { border-top: 1px solid var(--line); padding-top: .34rem; }
.d-codes tr:not(.pair) td { padding-bottom: .34rem; }
.d-codes tr.negative td { color: var(--quiet); }
.d-codes td.n, .d-codes th.n { text-align: right; }
.d-codes td.codes { min-width: 5rem; }
.d-codes td.tokens { min-width: 24rem; width: 99%; white-space: pre-wrap; }
.d-tok { border-radius: 2px; padding: .08rem 0; }
.d-tok.on { background: color-mix(in srgb, var(--tp) var(--a), transparent); box-shadow: 0 0 0 1px
  color-mix(in srgb, var(--tp) 45%, transparent); }
.d-tok.changed { text-decoration: underline; text-decoration-thickness: 1.5px; text-underline-offset: 3px;
  text-decoration-color: var(--faint); }
.d-code { font-family: "Source Code Pro", monospace; font-size: .78rem; color: var(--tp); white-space: nowrap;
  font-weight: 600; }
.d-code.other { color: var(--faint); font-weight: 400; }
.d-section { font-family: "Source Serif", Georgia, serif; font-size: 1.3rem; font-weight: 600; line-height: 1.3;
  margin: 1.4rem 0 0; padding-top: 1.1rem; border-top: 1px solid var(--line); }
.d-facts { font-size: .86rem; color: var(--quiet); margin: 0; max-width: 50rem; line-height: 1.5; }
.d-finding { font-size: 1rem; line-height: 1.5; margin: .2rem 0; padding: .1rem 0 .1rem .9rem; max-width: 58rem;
  border-left: 3px solid var(--tp); text-wrap: pretty; }
.d-finding.warn { border-left: 3px dashed var(--amber); }
.d-mark.band { width: 1.1rem; background: color-mix(in srgb, var(--ink) 16%, transparent);
  border-top: 2px dashed var(--quiet); }
.d-chip { font-family: "Source Code Pro", monospace; font-size: .78rem; line-height: 1.35; white-space: pre;
  border: 1px solid var(--line); border-radius: 3px; padding: 0 .22rem; margin: 0 .16rem .16rem 0;
  display: inline-block; max-width: 16rem; overflow: hidden; text-overflow: ellipsis; vertical-align: middle; }
.d-chip.differs { border: 2px solid var(--tp); font-weight: 600; color: var(--ink); }
.d-chip i { font-style: normal; color: var(--faint); margin-left: .3rem; }
.d-codes td.chips { min-width: 18rem; width: 99%; line-height: 1.7; }
.d-codes.d-lines td { border-top: 1px solid var(--line); padding-top: .26rem; padding-bottom: .26rem;
  vertical-align: middle; }
.d-codes.d-mid td { vertical-align: top; line-height: 1.7; }
.d-codes td.nowrap, .d-codes td.n { white-space: nowrap; }
.d-codes td.yes { color: var(--tp); font-weight: 600; }
.d-codes td.bar { min-width: 6rem; padding-right: 0; vertical-align: middle; }
.d-codes td.bar i, .d-line i { display: block; height: 6px; border-radius: 2px; background: var(--tp); min-width: 1px; }
.d-faint, .d-more { color: var(--faint); font-size: .8rem; margin-left: .2rem; }
.d-faint:first-child { margin-left: 0; }
.d-flag { color: var(--amber); font-size: .82rem; line-height: 1.4; white-space: normal; }
.d-tall { max-height: 26rem; overflow-y: auto; }
.d-tall thead th { position: sticky; top: 0; background: var(--ground); z-index: 1; }
.d-lists { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: .6rem 2.5rem; }
.d-list-title { font-size: .8rem; font-weight: 600; color: var(--quiet); border-bottom: 1px solid var(--line);
  padding-bottom: .2rem; margin-bottom: .35rem; }
.d-line { display: grid; grid-template-columns: 11.5rem minmax(3rem, 1fr) 3.2rem; align-items: center; gap: .5rem;
  font-size: .84rem; line-height: 1.75; }
.d-line .d-chip { margin: 0 .4rem 0 0; max-width: 6.5rem; vertical-align: middle; }
.d-line.down i { background: var(--fp); }
.d-line b { font-weight: 600; text-align: right; }
.d-role { font-size: .7rem; font-weight: 600; letter-spacing: .04em; text-transform: uppercase; color: var(--quiet); }
/* What is being drawn anew is not dimmed: for the wait before it each element gets a layer of its own in the browser,
   dozens at every touch of the page, which costs as much as drawing the charts. And the bar of a run goes in steps. */
[data-stale] { opacity: 1 !important; transition: none !important; }
[data-testid="stProgress"] * { transition: none !important; }
.st-key-result_head > :last-child, .st-key-result_head > :last-child > * { flex: 0 0 auto; width: auto; }
.d-run { display: flex; gap: 1rem; align-items: center; justify-content: space-between; }
.d-run b { font-size: .98rem; overflow-wrap: anywhere; }
.d-run .d-tag { margin-left: .6rem; }
.d-run p { font-size: .82rem; color: var(--quiet); margin: .1rem 0 0; overflow-wrap: anywhere; }
.d-run .d-figure { text-align: right; min-width: 4.2rem; }
.d-run .d-figure b { font-size: 1.1rem; }
.st-key-run_rows .stHorizontalBlock { border-top: 1px solid var(--line); padding-top: .7rem; }
.st-key-prose { max-width: 46rem; margin: 0 auto; }
.st-key-prose h1 { font-family: "Source Serif", Georgia, serif; }
:is(.st-key-bring_into_sight, .st-key-heatmap_sight, .st-key-circuit_sight, .st-key-effects_sight) {
  position: absolute; }
.stApp :is(a, button, summary):focus-visible { outline: 2px solid var(--tp); outline-offset: 1px; }
[data-testid="stBaseButton-primary"]:not(:disabled) { color: light-dark(#ffffff, #11161c); }
[data-testid="stSidebarContent"] [data-testid="stAlert"] p { font-size: .86rem; line-height: 1.4; }
/* With the sidebar open a tablet's page is as narrow as a phone's. */
@media (max-width: 1050px) {
  :is(.st-key-heatmap_scroll, .st-key-circuit_scroll, .st-key-effects_scroll) {
    animation: d-more linear; animation-timeline: scroll(self inline); mask-image: linear-gradient(to right,
    transparent, #000 var(--more-left), #000 calc(100% - var(--more-right)), transparent); }
  .st-key-dials > .stHorizontalBlock, .st-key-dials [data-testid="stHorizontalBlock"] { flex-wrap: wrap; }
  .st-key-dials [data-testid="stColumn"] { min-width: 12rem; }
  .st-key-dials [data-testid="stColumn"]:last-child { flex: 1 0 100%; }
  [data-testid="stExpandSidebarButton"] { width: auto; }
  [data-testid="stExpandSidebarButton"]::after { content: "Pages and settings"; font-size: .86rem; margin-left: .3rem; }
}
/* Fingers need more room than a pointer. */
@media (pointer: coarse) {
  .stApp :is([data-testid^="stBaseButton"], [data-testid="stTopNavLink"], [data-testid="stExpandSidebarButton"],
    [data-testid="stSidebarNavLink"], [data-testid="stMainMenuButton"]) { min-height: 2.75rem; }
  .stApp [data-testid="stTooltipIcon"] button { min-width: 2.5rem; min-height: 2.5rem; }
  .stApp [data-testid^="stNumberInputStep"] { min-width: 2.6rem; }
}
/* Behind a dialog the page is darker, in both schemes, and what cannot be undone looks like nothing else. */
div[data-testid="stDialog"] { background-color: rgb(8 11 15 / .5); }
.st-key-run_delete_yes [data-testid="stBaseButton-primary"]:not(:disabled) { background: #b3261e;
  border-color: #b3261e; color: #ffffff; }
.st-key-run_delete_yes [data-testid="stBaseButton-primary"]:not(:disabled):hover { background: #8f1e18; }
@media (max-width: 640px) {
  .stMain [data-testid="stHorizontalBlock"] { gap: .6rem; }
  [data-testid="stMainBlockContainer"] { padding-left: 1.2rem; padding-right: 1.2rem; }
  .d-headline { font-size: 1.35rem; }
  .d-figures { display: grid; grid-template-columns: repeat(3, 1fr); gap: .4rem .8rem; }
  .d-swipe { display: inline; font-style: normal; }
  .d-codes td.tokens, .d-codes td.chips { min-width: 13rem; }
  .d-codes.d-lines td.nowrap:not(.yes) { white-space: normal; min-width: 6rem; }
  #vg-tooltip-element { left: 8px !important; }
  .st-key-result_head { flex-wrap: wrap; }
  .d-figure:nth-child(3n+1):is(:hover, :focus)::after { right: auto; left: 0; }
  .st-key-run_rows .stHorizontalBlock { flex-wrap: wrap; }
  .st-key-run_rows .stHorizontalBlock > :first-child { flex: 1 0 100%; }
}
</style>
"""


NO_SIDEBAR = """
<style>
@media (min-width: 768px) {
  [data-testid="stSidebar"], [data-testid="stExpandSidebarButton"] { display: none; }
}
</style>
"""
"""Of pages that put nothing there. Streamlit at times leaves the last page's sidebar open, empty; on a phone it has the
links to the pages."""


def hide_sidebar() -> None:
    """Of a page that puts nothing there; before anything else."""
    st.html(NO_SIDEBAR)
