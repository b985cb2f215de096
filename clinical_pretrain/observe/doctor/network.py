"""Whether the ranks of several nodes can reach each other, by plain sockets: interfaces, host names, ports, clocks."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from clinical_pretrain.observe.doctor.findings import Finding, fault, ok, warning

CONNECT_SECONDS = 5
CLOCK_SECONDS = 1.0
"""A larger difference between two nodes' clocks is reported: times in logs and of files are compared."""
INTERFACES = Path("/sys/class/net")
_TIME = struct.Struct("!d")


def check_interfaces() -> list[Finding]:
    """Whether the network interfaces that NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME name are there."""
    there = sorted(path.name for path in INTERFACES.iterdir())
    findings = []
    for variable in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"):
        names = [name for name in os.environ.get(variable, "").split(",") if name]
        if gone := [name for name in names if not _is_there(name, there, by_nccls_rules=variable.startswith("NCCL"))]:
            remedy = f"set {variable} to one of those in slurm/site_setup.sh, or unset it"
            found = f"{variable} names {', '.join(gone)}, but there is {', '.join(there)}"
            findings.append(fault("network interface", found, remedy))
    if findings:
        return findings
    chosen = [f"{name}={value}" for name in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")
              if (value := os.environ.get(name))]  # fmt: skip
    return [ok("network interface", f"{', '.join(chosen) or 'NCCL and gloo choose'} among {', '.join(there)}")]


def _is_there(name: str, there: list[str], by_nccls_rules: bool) -> bool:
    """Whether a name leads to an interface. For NCCL it is a name's beginning, or after an equals sign the whole; and
    after ^ what not to use."""
    if not by_nccls_rules or name.startswith("="):
        return name.removeprefix("=") in there
    return name.startswith("^") or any(each.startswith(name) for each in there)


def check_host_name(is_one_of_many: bool) -> Finding:
    """Whether this machine's name leads to an address that other nodes can use: gloo gives them that one."""
    host = socket.gethostname()
    try:
        address = socket.gethostbyname(host)
    except OSError as error:
        remedy = f"add {host} to /etc/hosts, or set GLOO_SOCKET_IFNAME to the interface to use"
        return fault("host name", f"{host} has no address ({error.strerror})", remedy)
    if is_one_of_many and address.startswith("127.") and not os.environ.get("GLOO_SOCKET_IFNAME"):
        remedy = "set GLOO_SOCKET_IFNAME in slurm/site_setup.sh, or correct /etc/hosts"
        return fault("host name", f"{host} is {address}, which other nodes can't reach", remedy)
    return ok("host name", f"{host} is {address}")


@contextmanager
def listening(port: int = 0) -> Iterator[int]:
    """Answer everyone who connects with this machine's time. Yields the port, a free one for 0.

    Raises:
        OSError: the port is taken.
    """
    with socket.create_server(("", port), backlog=1024) as server:
        thread = threading.Thread(target=_answer, args=(server,), daemon=True)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)  # ends accept()
            thread.join(CONNECT_SECONDS)


def _answer(server: socket.socket) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        with connection, suppress(OSError):
            connection.settimeout(CONNECT_SECONDS)
            while connection.recv(1):
                connection.sendall(_TIME.pack(time.time()))


def ask_time(host: str, port: int) -> float:
    """Seconds that this machine's clock is ahead of another's, which listens: the best of some exchanges, half the way
    there and back.

    Raises:
        OSError: it can't be reached.
    """
    best = (float("inf"), 0.0)
    with socket.create_connection((host, port), timeout=CONNECT_SECONDS) as connection:
        for _ in range(5):
            began, sent = time.monotonic(), time.time()
            connection.sendall(b"?")
            (theirs,) = _TIME.unpack(_receive(connection, _TIME.size))
            way = time.monotonic() - began
            best = min(best, (way, sent + way / 2 - theirs))
    return best[1]


def _receive(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        if not (more := connection.recv(size - len(data))):
            raise OSError("it closed the connection")
        data += more
    return data


def check_port(host: str, port: int, what: str) -> Finding:
    """Whether a port at which somebody listens can be reached from here."""
    try:
        ask_time(host, port)
    except OSError as error:
        reason = "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
        return fault(
            "ports",
            f"{what}, {host}:{port}, can't be reached ({reason})",
            f"ask for TCP ports {port_ranges()} to be open between compute nodes: a firewall closes them, or the name "
            "leads to another machine",
        )
    return ok("ports", f"{what}, {host}:{port}, can be reached")


def port_ranges() -> str:
    """The ports that trainings need: those where ranks meet, and the system's own range, which gloo and NCCL take."""
    first, last = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    return f"10000 to 29999 and {first} to {last}"


def check_clock(ahead: float, of: str) -> Finding:
    """How far this machine's clock is from another's.

    Args:
        ahead: seconds.
        of: whose clock it is compared with.
    """
    if abs(ahead) < CLOCK_SECONDS:
        return ok("clock", f"as {of}'s, to {CLOCK_SECONDS:.0f} s")
    found = f"{abs(ahead):,.1f} s {'ahead of' if ahead > 0 else 'behind'} {of}'s"
    return warning("clock", found, "set it by NTP (chronyd, systemd-timesyncd), or tell the cluster's administrators")
