"""Who may use a served gallery, and what is written down about it.

    gate.py         every request passes it before it reaches the page or the API: address, host, login, role, body
    routes.py       the table of all routes and the role that each one needs; what is not in it is refused
    passwords.py    a file of users with hashes of their passwords; tokens.py: one of programs with hashes of tokens
    sessions.py     who has signed in; attempts.py: how often somebody may try to
    audit.py        the log of what was asked, shown and changed; action_guard.py: what every action passes to be in it
    addresses.py    the addresses that are served; connections.py, ending.py: slow clients, and the end of the server
    options.py      the options of `python -m search serve`

Nothing here knows how images are searched. docs/security.md says what all of it protects against, and what not.
"""
