// run once when the page is there: what assistive technology is told, the history, and downloads
() => {
    const KEY = `person-search:${location.pathname}`, MOST = 30;
    const all = (selector, within = document) => [...within.querySelectorAll(selector)];
    const one = (selector, within = document) => within.querySelector(selector);
    let unkept = [], awaited = false, before = null;

    // ---- history: sentences that were asked, newest first; in this browser, or in this page alone ----

    const list = () => one("#history .history");
    const inBrowser = () => list()?.dataset.kept === "browser";

    function searches() {
        if (!inBrowser()) return unkept;
        try {
            const kept = JSON.parse(localStorage.getItem(KEY) ?? "[]");
            return Array.isArray(kept) ? kept.filter((text) => typeof text === "string").slice(0, MOST) : [];
        } catch {
            return []; // what is there is not ours, or the browser keeps nothing
        }
    }

    function keep(texts) {
        unkept = texts;
        if (inBrowser()) {
            try {
                if (texts.length) localStorage.setItem(KEY, JSON.stringify(texts));
                else localStorage.removeItem(KEY);
            } catch {} // a browser that keeps nothing: the page works without
        }
        showSearches();
    }

    function showSearches() {
        if (!list()) return;
        const texts = searches();
        list().hidden = !texts.length;
        one("ul", list()).replaceChildren(...texts.map((text) => {
            const item = document.createElement("li"), button = document.createElement("button");
            button.type = "button";
            button.textContent = text;
            button.addEventListener("click", () => askAgain(text));
            item.append(button);
            return item;
        }));
    }

    function askAgain(text) {
        const field = one("#text textarea");
        field.value = text;
        field.dispatchEvent(new Event("input", { bubbles: true }));
        field.focus();
        setTimeout(() => one("#search").click(), 100); // once Gradio has taken the text
    }

    // ---- what Gradio's own parts leave unsaid ----

    function describe() {
        for (const id of ["message", "compared"]) says(one(`#${id}`));
        landmark("#asking", "search", "Search");
        landmark("#hits", "region", "Results");
        landmark("#reasons", "region", "Why an image was found");
        one("#hits")?.setAttribute("tabindex", "-1");
        one("#upload .upload-container")?.removeAttribute("aria-label"); // which is not what stands there
    }

    function says(part) {
        if (!part || part.getAttribute("role")) return;
        part.setAttribute("role", "status");
        part.setAttribute("aria-live", "polite");
        part.setAttribute("aria-atomic", "true");
    }

    function landmark(selector, role, label) {
        const part = one(selector);
        if (!part || part.getAttribute("role") === role) return;
        part.setAttribute("role", role);
        part.setAttribute("aria-label", label);
    }

    // ---- what is going on ----

    function busy(text) {
        const part = one("#busy");
        if (part && part.textContent !== text) part.textContent = text;
        one("#hits")?.setAttribute("aria-busy", String(Boolean(text)));
    }

    function keepAsked(hits) {
        const asked = new DOMParser().parseFromString(hits, "text/html").querySelector(".asked");
        const text = asked?.dataset.asked.trim();
        if (text) keep([text, ...searches().filter((other) => other !== text)].slice(0, MOST));
    }

    function followReasons() {
        const heading = one("#reasons h2");
        if (!awaited || !heading || heading === before) return;
        awaited = false;
        heading.focus(); // who chose a hit is led to why, and back by the button below it
    }

    document.addEventListener("click", (event) => {
        const target = event.target.closest?.("a.skip, button.back, button.forget, #search, #compare");
        if (target?.matches(".skip")) {
            event.preventDefault();
            (one("#hits button") ?? one("#hits"))?.focus();
        } else if (target?.matches(".back")) {
            one(`#hits button[data-index="${target.dataset.index}"]`)?.focus();
        } else if (target?.matches(".forget")) {
            keep([]);
            one("#text textarea")?.focus();
        } else if (target) {
            busy("Searching");
        }
    });
    document.addEventListener("keydown", (event) => {
        const asks = event.target.closest?.("#text, #other");
        if (asks && event.key === "Enter" && !event.shiftKey) busy("Searching");
    });

    window.personSearch = {
        done(hits) {
            busy("");
            if (hits) keepAsked(hits); // what was refused is not kept
        },
        chosen() {
            awaited = true;
            before = one("#reasons h2");
        },
        save(text, name, type) {
            if (!text) return;
            const link = document.createElement("a");
            link.href = URL.createObjectURL(new Blob([text], { type }));
            link.download = name;
            link.click();
            setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
        },
    };

    const follow = () => { describe(); followReasons(); };
    new MutationObserver(follow).observe(document.body, { childList: true, subtree: true });
    window.addEventListener("storage", showSearches); // another tab has searched
    follow();
    showSearches();
}
