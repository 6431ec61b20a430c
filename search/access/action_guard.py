"""Checks the caller's role for every action on a gallery, and writes the action to the audit log.

The search, the explanation, the upload and the erasure call it themselves (`Searcher.authorize`), so that no page and
no route can leave it out; the gate and its table of routes stand before it.
"""

from collections.abc import Mapping
from typing import Any

from search.access.audit import AuditLog
from search.access.callers import FORGET, SEARCH, UPLOAD, current_caller
from search.access.refusals import Forbidden

ACTIONS: Mapping[str, str] = {
    "query": SEARCH,
    "explain": SEARCH,
    "describe": SEARCH,
    "ask": SEARCH,
    "image": SEARCH,
    "frame": SEARCH,
    "download": SEARCH,
    "upload": UPLOAD,
    "erase": FORGET,
}


class ActionGuard:
    """Refuses and records actions.

    login_required: nobody acts who has not signed in. audit: None where nothing is recorded.
    """

    def __init__(self, login_required: bool, audit: AuditLog | None):
        self.login_required, self.audit = login_required, audit

    def __call__(self, action: str, **details: Any) -> None:
        """Before an action of ACTIONS is done or answered.

        Raises Forbidden when who asks may not do it, and Unavailable when it cannot be recorded.
        """
        caller, role = current_caller(), ACTIONS[action]
        if self.login_required and (caller is None or role not in caller.roles):
            raise Forbidden(f"you may not do this here: it needs the role {role}")
        if self.audit:
            self.audit.write(action, caller, **details)
