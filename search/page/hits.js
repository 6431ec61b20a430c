// run by Gradio for the list of hits: a hit that is chosen, by mouse or keyboard, is the event `select`
element.addEventListener("click", (event) => {
    const hit = event.target.closest("button[data-index]");
    if (!hit) return;
    for (const one of element.querySelectorAll("button[aria-current]")) one.removeAttribute("aria-current");
    hit.setAttribute("aria-current", "true");
    window.personSearch.chosen();
    trigger("select", { index: Number(hit.dataset.index), value: "" });
});
