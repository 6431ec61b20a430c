"""Tells the page's callbacks who asks."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import gradio as gr

from search.access.callers import acting, caller_in


def for_caller(callback: Callable[..., Any]) -> Callable[..., Any]:
    """A callback of the page, called in the name of who sent the request, as the gate has found out."""

    @functools.wraps(callback)
    def called(request: gr.Request, *values: Any) -> Any:
        with acting(caller_in(request.request.scope) if request.request else None):
            return callback(*values)

    signature = inspect.signature(callback)
    asks = inspect.Parameter("request", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=gr.Request)
    parameters = [asks, *signature.parameters.values()]
    called.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {"request": gr.Request, **callback.__annotations__}
    return called
