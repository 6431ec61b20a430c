"""The two pages of the gate itself, to sign in and to sign out: they load nothing and run nothing."""

import base64
import hashlib
import html

from starlette.responses import HTMLResponse

STYLE = """body{font:16px system-ui,sans-serif;display:grid;place-items:center;min-height:90vh;margin:0;color:#222;
background:#f4f4f5}main{background:#fff;padding:32px;border-radius:8px;width:288px;box-shadow:0 1px 6px #0003}
h1{font-size:20px;margin:0 0 16px}label{display:block;margin:12px 0}input{display:block;width:100%;box-sizing:
border-box;font:inherit;padding:8px;margin-top:4px}button{font:inherit;padding:8px 16px;margin-top:8px}
.wrong{color:#a40000}"""
STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; style-src 'sha256-{STYLE_HASH}'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)


def page(title: str, content: str, status: int = 200) -> HTMLResponse:
    """A page of its own; content: HTML, in which all that somebody wrote is escaped."""
    head = f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{title}</title>"
    head += f"<meta name='viewport' content='width=device-width'><style>{STYLE}</style>"
    return HTMLResponse(
        f"{head}<main><h1>{title}</h1>{content}</main></html>",
        status_code=status,
        headers={"Content-Security-Policy": POLICY},
    )


def login_page(prefix: str, fault: str = "", status: int = 200) -> HTMLResponse:
    """The form to sign in; fault: why that failed."""
    told = f"<p class='wrong' role='alert'>{html.escape(fault)}</p>" if fault else ""
    form = (
        f"<form method='post' action='{html.escape(prefix, quote=True)}/login'>"
        "<label>User<input name='user' autocomplete='username' maxlength='64' required autofocus></label>"
        "<label>Password<input name='password' type='password' autocomplete='current-password' maxlength='1024'"
        " required></label><button>Sign in</button></form>"
    )
    return page("Person search by text", told + form, status)


def account_page(prefix: str, name: str, roles: str) -> HTMLResponse:
    """Who one is, and the button to sign out."""
    start = html.escape(prefix, quote=True)
    content = (
        f"<p>You are signed in as {html.escape(name)} and may: {html.escape(roles)}.</p>"
        f"<p><a href='{start}/'>Search</a></p>"
        f"<form method='post' action='{start}/logout'><button>Sign out</button></form>"
    )
    return page("Account", content)
