"""`python -m search password` and `token`: who may use a served gallery."""

import argparse
import getpass
import sys
from pathlib import Path

from search.access.callers import ROLES, SEARCH
from search.access.passwords import LONGEST, remove_user, require_name, set_password
from search.access.tokens import new_token, remove_token
from utils.errors import UserError
from utils.files import require_writable_file


def run_password(options: argparse.Namespace) -> None:
    """Let a user sign in to a served gallery, or change the password or the roles."""
    require_name(options.name)
    if options.remove:
        remove_user(options.file, options.name)
        print(f"{options.name} is removed from {options.file}, and out of every server that uses it")
        return
    require_writable_file(options.file, "FILE")
    new = set_password(options.file, options.name, ask_password(options.name), options.role or [SEARCH])
    print(f"{options.name} {'is added to' if new else 'is changed in'} {options.file} and may: {roles_of(options)}")


def run_token(options: argparse.Namespace) -> None:
    """Make a token for a program that uses a served gallery; it is printed once, and kept nowhere."""
    require_name(options.name)
    if options.remove:
        remove_token(options.file, options.name)
        print(f"the token {options.name} is removed from {options.file}, and of no use any more")
        return
    require_writable_file(options.file, "FILE")
    token = new_token(options.file, options.name, options.role or [SEARCH])
    print(f"keep this, nobody can show it again; {options.name} may: {roles_of(options)}", file=sys.stderr)
    print(token)


def roles_of(options: argparse.Namespace) -> str:
    return ", ".join(dict.fromkeys(options.role or [SEARCH]))


def ask_password(name: str) -> str:
    """A password from the terminal, twice and unseen, or a line of standard input. Raises UserError."""
    if not sys.stdin.isatty():
        line = sys.stdin.readline(LONGEST + 2)
        if not line:
            raise UserError("standard input holds no password; type it in a terminal, or hand in a line")
        return line.rstrip("\r\n")
    try:
        password = getpass.getpass(f"password of {name}: ")
        if getpass.getpass("the same again: ") != password:
            raise UserError("these are two passwords; nothing is changed")
    except EOFError:
        raise UserError("no password was typed; nothing is changed") from None
    return password


def add_secret_arguments(parser: argparse.ArgumentParser, whose: str) -> None:
    """The arguments of both commands. whose: what the name is of."""
    parser.add_argument("file", type=Path, metavar="FILE", help="made if it is not there, readable by you alone")
    parser.add_argument("name", metavar="NAME", help=f"{whose}: letters, digits and . _ @ -")
    about = f"what is allowed: {SEARCH} (default), to add images (upload), to erase them (forget)"
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--role", nargs="+", choices=ROLES, metavar="ROLE", help=about)
    either.add_argument("--remove", action="store_true", help="take this one out of the file")
