"""Bars the network to every Python of a test run: conftest.py puts this folder on PYTHONPATH.

Loopback, Unix sockets and the machine's own name stay. A name below ``.invalid`` is one that
cannot be found, as everywhere (RFC 6761). All else raises, and is noted in the file that
``BARRED_NETWORK`` names, so that the test fails even where the error is caught.
"""

import os
import socket
import sys

_OWN = {None, "", "localhost", "localhost.localdomain", os.uname().nodename}
_LOOKUPS = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}
_SENDS = {"socket.connect", "socket.sendto", "socket.sendmsg"}


def _text(host):
    return host.decode(errors="replace") if isinstance(host, bytes) else host


def _is_here(host):
    host = _text(host)
    return host in _OWN or host in ("::", "::1", "0.0.0.0") or host.startswith("127.")


def _bar(event, args):
    if event in _LOOKUPS:
        host = args[0]
    elif event in _SENDS and isinstance(args[1], tuple):  # a Unix socket's address is its path
        host = args[1][0]
    else:
        return
    if _is_here(host):
        return
    if event == "socket.connect" and args[0].type == socket.SOCK_DGRAM:
        return  # sends nothing: how programs (Ray) ask for their own address
    if _text(host).endswith(".invalid"):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    message = f"{event} to {_text(host)!r}: tests work without a network, but for loopback"
    if log := os.environ.get("BARRED_NETWORK"):
        with open(log, "a") as file:
            file.write(message + "\n")
    raise ConnectionRefusedError(message)


sys.addaudithook(_bar)
