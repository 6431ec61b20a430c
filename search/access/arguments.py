"""The options of `python -m search serve` that say who may use it; search/access/options.py says what they mean."""

import argparse
from pathlib import Path

DAYS = 90  # that audit logs of former days are kept


def add_access_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `serve` that are about who may use it."""
    group = parser.add_argument_group("who may use it (docs/security.md)")
    add = group.add_argument
    add("--password_file", type=Path, metavar="FILE", help="users who may sign in (see `search password`)")
    add("--token_file", type=Path, metavar="FILE", help="tokens of programs (see `search token`)")
    add("--tls_cert", type=Path, metavar="FILE", help="certificate (PEM, with those above it): serve https")
    add("--tls_key", type=Path, metavar="FILE", help="its private key (PEM)")
    add("--without_tls", action="store_true", help="serve other machines without encryption all the same")
    proxy = "addresses of the proxy that all requests come by; what it says of them is believed"
    add("--trusted_proxy", nargs="+", default=[], metavar="ADDRESS", help=proxy)
    names = "names by which requests may call this server, besides its addresses"
    add("--trusted_host", nargs="+", default=[], metavar="NAME", help=names)
    add("--root_path", default="", metavar="/PATH", help="where the proxy serves this, such as /people")
    log = "where to write down what is asked and changed (default: beside the gallery, where one must sign in)"
    add("--audit_log", type=Path, metavar="FILE", help=log)
    add("--audit_days", type=int, metavar="DAYS", help=f"how long its files of former days are kept ({DAYS})")
