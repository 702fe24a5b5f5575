"""Addresses and URLs of strangers: what is public, and what is allowed at all.

It resolves and connects to nothing; workers/network.py does.
"""

import ipaddress
import re
from collections.abc import Collection, Sequence
from urllib.parse import quote, urlsplit, urlunsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
#: Networks beyond the public ones that may be reached.
Networks = Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]

#: What stays as it is in a path or query; everything else, letters of other scripts say, is quoted.
_URL_SAFE = "/:?#[]@!$&'()*+,;=%-._~"
MAX_HOST_CHARACTERS = 253
#: Names and addresses, without empty parts.
_HOST = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?|[0-9A-Fa-f:.]+")
#: Prefixes that carry an IPv4 address inside, through which a private one could be reached.
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NAT64_LOCAL = ipaddress.ip_network("64:ff9b:1::/48")
#: Not public either, whatever this Python's tables say: IETF protocols, 6to4 relays, and the
#: address at which a virtual machine of Azure finds its host.
_SPECIAL = tuple(map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32")))


class Refused(Exception):
    """The URL is not allowed; the message is one sentence for its owner."""


def is_public(address: Address) -> bool:
    """True if an address, and any address embedded in it, is on the public internet."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address.teredo:
            inner = address.teredo[1]
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if address in _NAT64_LOCAL or address.is_site_local:
            return False
        if inner is not None:
            return is_public(inner)
    if any(address in network for network in _SPECIAL):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def checked(url: str, ports: Collection[int]) -> tuple[str, str]:
    """Return the URL in ASCII and its host, if it is allowed at all.

    Raises:
        Refused: It is malformed, or has a scheme, port or user name that is not taken.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise Refused("the URL is malformed") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Refused("only http and https URLs are allowed")
    if parts.username is not None or parts.password is not None:
        raise Refused("a URL with a user name is not allowed")
    if port not in ports:
        taken = " and ".join(map(str, sorted(ports)))
        raise Refused(f"port {port} is not allowed; allowed ports: {taken}")
    try:
        host = parts.hostname if ":" in parts.hostname else _ascii(parts.hostname)
    except UnicodeError as error:
        raise Refused("the URL's host is invalid") from error
    if len(host) > MAX_HOST_CHARACTERS or not _HOST.fullmatch(host):
        raise Refused("the URL's host is invalid")
    place = f"[{host}]" if ":" in host else host
    if parts.port is not None:
        place += f":{parts.port}"
    path, query = (quote(part, safe=_URL_SAFE) for part in (parts.path or "/", parts.query))
    return urlunsplit((parts.scheme, place, path, query, "")), host


def _ascii(host: str) -> str:
    return host if host.isascii() else host.encode("idna").decode()


def check_host(host: str, networks: Networks) -> None:
    """Reject a host that can be seen not to be public without resolving it.

    Args:
        host: A name or an address, as `checked` returns it.

    Raises:
        Refused: It is an address that is neither public nor in one of the networks, or a name of
            loopback.
    """
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        name = "127.0.0.1"
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return
    if not (is_public(address) or any(address in network for network in networks)):
        raise Refused(f"{host} is not on the public internet")
