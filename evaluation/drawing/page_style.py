"""How the page of a report looks: light and dark, wide and narrow."""

STYLE = """
:root { color-scheme: light dark; --ink: #202124; --soft: #5f6368; --line: #dfe1e5; --paper: #fff;
  --card: #f8f9fa; --right: #17873c; --wrong: #c82028; --note: #005493; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #a6abb2; --line: #3c4043;
  --paper: #1b1c1f; --card: #242629; --right: #4ec27a; --wrong: #ff6b70; --note: #7cb8f2; } }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 32px 20px 64px; }
h1, h2, h3 { line-height: 1.25; overflow-wrap: anywhere; }
h1 { margin: 0 0 4px; } h2 { margin: 44px 0 12px; border-bottom: 1px solid var(--line); padding-bottom: 6px; }
h3 { margin: 0 0 4px; font-size: 1.05rem; font-weight: 600; max-height: 10em; overflow: auto; }
h4 { margin: 12px 0 0; font-weight: 600; }
p { margin: 0 0 12px; overflow-wrap: anywhere; } .soft { color: var(--soft); font-size: .9rem; }
a { color: var(--note); } ul { margin: 0 0 12px; padding-left: 22px; }
table { border-collapse: collapse; margin: 0 0 16px; } .wide { overflow-x: auto; }
th, td { padding: 7px 18px 7px 0; text-align: right; vertical-align: top; border-bottom: 1px solid var(--line);
  font-variant-numeric: tabular-nums; white-space: nowrap; }
td small { display: block; color: var(--soft); font-weight: 400; }
th:first-child { text-align: left; font-weight: 500; white-space: normal; } thead th { color: var(--soft);
  font-weight: 500; } tbody .final > * { font-weight: 600; }
tbody .ceiling > * { border-top: 2px dashed var(--line); color: var(--soft); }
figure { margin: 0 0 12px; }
figure img { max-width: 100%; height: auto; box-sizing: border-box; border: 1px solid var(--line);
  border-radius: 8px; background: #fff; } figure.wide img { min-width: 560px; }
article { background: var(--card); border: 1px solid var(--line); border-left: 5px solid var(--wrong);
  border-radius: 8px; padding: 14px 16px; margin: 0 0 18px; }
article.hit { border-left-color: var(--right); } .note { color: var(--note); font-weight: 600; margin: 0 0 4px; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 0 18px; }
.pair .strip { display: grid; grid-template-columns: repeat(5, minmax(0, 1fr)); gap: 6px; }
.pair .strip li { width: auto; font-size: .76rem; overflow-wrap: anywhere; }
.pair .strip img { max-width: 100%; height: auto; box-sizing: border-box; }
.strip { list-style: none; display: flex; flex-wrap: wrap; gap: 10px 8px; margin: 8px 0; padding: 0; }
.strip li { width: 96px; display: flex; flex-direction: column; justify-content: flex-end; font-size: .82rem;
  font-variant-numeric: tabular-nums; }
.strip img { border: 4px solid var(--wrong); border-radius: 3px; align-self: flex-start; }
.right img { border-color: var(--right); } .strip b { color: var(--wrong); } .right b { color: var(--right); }
summary { cursor: pointer; color: var(--soft); font-size: .9rem; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px;
  margin: 0 0 16px; overflow-x: auto; font-size: .85rem; } code { user-select: all; }
@media (max-width: 600px) { th, td { padding-right: 9px; font-size: .84rem; } main { padding: 20px 14px 48px; } }
"""
