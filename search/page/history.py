"""One's own searches, to be asked again with a click: page.js keeps them in the browser, the server knows none."""

import gradio as gr

# what page.js fills; where people sign in, searches are forgotten with the page, else the browser keeps them
FORM = """<details class='history' data-kept='{kept}' hidden><summary>Your searches</summary>
<p class='hint'>{about} Choose one to search again.</p><ul></ul>
<button type='button' class='forget'>Forget my searches</button></details>"""
KEPT = "They are kept in this browser alone."
UNKEPT = "They are forgotten when you leave or reload this page."


def build_history(accounts: bool) -> gr.HTML:
    """The list of searches, hidden while it is empty. accounts: people sign in, perhaps several in one browser."""
    kept, about = ("page", UNKEPT) if accounts else ("browser", KEPT)
    return gr.HTML(FORM.format(kept=kept, about=about), elem_id="history", js_on_load=None, apply_default_css=False)
