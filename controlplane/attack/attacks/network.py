"""Attacks over the network: what a sandbox can reach that it should not.

An address counts as reached when it accepts or refuses a connection: a refusal was sent by a machine to which the
packet came. Only the machine that runs the sandbox and the battery's own sandboxes are tried.
"""

from __future__ import annotations

from controlplane.attack.client.model import Attack
from controlplane.attack.client.outcome import Outcome, Verdict, broken, held, not_applicable
from controlplane.attack.client.target import Target

KNOWN = (
    "with [sandbox] allow_network = true everything is reachable that the host reaches: "
    "see docs/security.md, What is not promised"
)
_NO_NETWORK = "set [sandbox] allow_network = false, or filter the bridge of sandboxes by the host's firewall"

_REACH = """
may_have_network = True  # the operator decides
def has_network():
    return any(name != "lo" for name in os.listdir("/sys/class/net")) if os.path.isdir("/sys/class/net") else bool(
        [line for line in text_of("/proc/net/dev").splitlines()[2:] if not line.strip().startswith("lo:")])

def gateway():
    for line in text_of("/proc/net/route").splitlines()[1:]:
        words = line.split()
        if words[1] == "00000000":
            return socket.inet_ntoa(struct.pack("<I", int(words[2], 16)))
    return ""

def reached(host, port, patience=1.0):
    "Whether packets come there: True, or False for none that answers."
    try:
        socket.create_connection((host, port), patience).close()
    except ConnectionRefusedError:
        return not host.startswith("127.")
    except (OSError, ValueError):
        return False
    return True
"""

_INTERFACES = (
    _REACH
    + """
if has_network() and may_have_network:
    not_applicable("this sandbox was given a network")
found = [line.split()[0] for line in text_of("/proc/net/route").splitlines()[1:]]
found += [line.split()[-1] for line in text_of("/proc/net/ipv6_route").splitlines() if line.split()[-1] != "lo"]
held_unless(found)
"""
)

_GATEWAY = (
    _REACH
    + """
where = gateway()
if not where:
    held("there is no route")
ports = (22, 80, 111, 2375, 2376, 5432, 6443, 8194, 10250)
held_unless("%s:%d" % (where, port) for port in ports if reached(where, port))
"""
)

_DOCKER_BRIDGE = (
    _REACH
    + """
if not gateway():
    held("there is no route")
hosts = ("172.17.0.1", "172.18.0.1")
held_unless("%s:%d" % (host, port) for host in hosts for port in (22, 2375) if reached(host, port))
"""
)

_METADATA = (
    _REACH
    + """
if not has_network():
    held("there is no route")
found = [host for host in ("169.254.169.254", "fd00:ec2::254", "100.100.100.200", "169.254.170.2") if reached(host, 80)]
if found:
    broken(", ".join(found))
not_applicable("this machine has no metadata service that answers")
"""
)

_METADATA_NAMES = (
    _REACH
    + """
if not has_network():
    held("there is no route")
found = []
for name in ("metadata.google.internal", "instance-data", "metadata", "host.docker.internal", "gateway.docker.internal",
    "kubernetes.default.svc"):
    try:
        found.append("%s is %s" % (name, socket.getaddrinfo(name, 80)[0][4][0]))
    except OSError:
        pass
held_unless(found)
"""
)

_UDP = (
    _REACH
    + """
def goes(family, host):
    line = socket.socket(family, socket.SOCK_DGRAM)
    return not error_of(line.sendto, b"x", (host, 53))
if has_network() and may_have_network:
    not_applicable("this sandbox was given a network")
places = ((2, "192.0.2.1"), (10, "2001:db8::1"), (2, "255.255.255.255"), (2, "224.0.0.1"))
held_unless(host for family, host in places if goes(family, host))
"""
)

_PING = (
    _REACH
    + """
if has_network() and may_have_network:
    not_applicable("this sandbox was given a network")
def goes():
    line = socket.socket(2, socket.SOCK_DGRAM, 1)
    line.sendto(bytes([8, 0, 0xf7, 0xff, 0, 0, 0, 0]), ("192.0.2.1", 0))
held() if error_of(goes) else broken("an echo request left the sandbox")
"""
)

_ABSTRACT = """
names = [line.split()[-1] for line in text_of("/proc/net/unix").splitlines()[1:] if "@" in line]
held_unless(names)
"""

_SETTINGS = """
found = []
for where, folders, names in os.walk("/proc/sys/net"):
    found += [p for p in (os.path.join(where, n) for n in names) if opens(p, os.O_WRONLY)]
held_unless(found)
"""

_CONFIGURE = """
import fcntl
line = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
found = []
for name, number in (("address", 0x8916), ("flags", 0x8914), ("route", 0x890B), ("name", 0x8923), ("mtu", 0x8922)):
    request = struct.pack("16sh", b"lo", 73) + bytes(100)
    if error_of(fcntl.ioctl, line, number, request) not in (errno.EPERM, errno.EACCES):
        found.append(name)
held_unless(found)
"""

_LISTEN = """
import time
names = [line.split(":")[0].strip() for line in text_of("/proc/net/dev").splitlines()[2:]]
found = []
for name in names:
    if name != "lo":
        import fcntl
        line = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            found.append(socket.inet_ntoa(fcntl.ioctl(line, 0x8915, struct.pack("256s", name.encode()))[20:24]))
        except OSError:
            pass
print("addresses", *found)
sys.stdout.flush()
"""

_SERVE = """
listener = socket.create_server(("0.0.0.0", 8000))
while True:
    listener.accept()[0].close()
"""


async def _control_plane(target: Target) -> Outcome:
    """Connect to the server's own port, by the host's addresses and by the name under which the battery knows it."""
    box = await target.box()
    return await box.attack(
        _REACH
        + f"""
hosts = [gateway(), {target.api.host!r}]
held_unless("%s:%d" % (host, {target.api.port}) for host in hosts
    if host and host not in ("127.0.0.1", "localhost", "::1") and reached(host, {target.api.port}))
"""
    )


async def _host_loopback(target: Target) -> Outcome:
    """Connect to the server on the sandbox's own loopback, where nothing of the host may answer."""
    box = await target.box()
    return await box.attack(
        f"""
try:
    socket.create_connection(("127.0.0.1", {target.api.port}), 1).close()
except OSError:
    held()
broken("the server answers on the sandbox's own loopback")
"""
    )


async def _neighbours(target: Target) -> Outcome:
    """Connect from one sandbox to a service in another, on each of its addresses."""
    box, neighbour = await target.box(), await target.neighbour()
    addresses = (await neighbour.output_of(_LISTEN)).split("addresses", 1)[-1].split()
    if not addresses:
        return held("sandboxes have no addresses")
    await neighbour.start(_SERVE)
    own = await neighbour.attack(_connects(addresses))
    if own.verdict is not Verdict.BROKEN:
        return not_applicable("the service in the other sandbox did not start")
    return await box.attack(_connects(addresses))


def _connects(addresses: list[str]) -> str:
    return _REACH + f"held_unless(host for host in {addresses!r} if reached(host, 8000, 2.0))"


async def _reverse_names(target: Target) -> Outcome:
    """Ask the resolver for the names of the addresses around one's own."""
    box = await target.box()
    ids = [box.id, (await target.neighbour()).id]
    addresses = (await box.output_of(_LISTEN)).split("addresses", 1)[-1].split()
    if not addresses:
        return held("sandboxes have no addresses")
    near = [f"{addresses[0].rpartition('.')[0]}.{number}" for number in range(1, 24)]
    named = await box.output_of(
        f"""
for host in {near!r}:
    try:
        print(socket.gethostbyaddr(host)[0])
    except OSError:
        pass
""",
        timeout_s=50,
    )
    found = [line for line in named.split() if any(each in line for each in ids) or "sandlot" in line.split(".")[0]]
    return broken(f"the resolver names sandboxes: {', '.join(found[:3])}") if found else held()


_ROUTES = "No packet leaves the sandbox"

ATTACKS = (
    Attack(
        id="network.interfaces",
        tries="Find an interface or a route beside the loopback",
        outcome="A sandbox without a network has none",
        cure=_NO_NETWORK,
        program=_INTERFACES,
    ),
    Attack(
        id="network.host-services",
        tries="Reach services of the host by the gateway's address",
        outcome=_ROUTES,
        cure=_NO_NETWORK,
        must_pass=False,
        known=KNOWN,
        program=_GATEWAY,
    ),
    Attack(
        id="network.engine-bridges",
        tries="Reach the host by the addresses of the engine's other bridges",
        outcome=_ROUTES,
        cure=_NO_NETWORK,
        must_pass=False,
        known=KNOWN,
        program=_DOCKER_BRIDGE,
    ),
    Attack(
        id="network.control-plane",
        tries="Reach Sandlot's own port by an address of the host",
        outcome=_ROUTES,
        cure="listen on 127.0.0.1 ([server] host) behind a reverse proxy, or filter the bridge by the host's firewall",
        must_pass=False,
        known=KNOWN,
        act=_control_plane,
    ),
    Attack(
        id="network.metadata",
        tries="Reach the metadata service of a cloud by IPv4 and IPv6",
        outcome="Nothing answers",
        cure=_NO_NETWORK,
        must_pass=False,
        known=KNOWN,
        program=_METADATA,
    ),
    Attack(
        id="network.internal-names",
        tries="Resolve names that clouds, engines and clusters keep for insiders",
        outcome="None has an address",
        cure=_NO_NETWORK,
        must_pass=False,
        known=KNOWN,
        program=_METADATA_NAMES,
    ),
    Attack(
        id="network.udp",
        tries="Send UDP by IPv4, IPv6, broadcast and multicast from a sandbox without a network",
        outcome=_ROUTES,
        cure=_NO_NETWORK,
        program=_UDP,
    ),
    Attack(
        id="network.ping",
        tries="Send an ICMP echo request from a sandbox without a network",
        outcome=_ROUTES,
        cure=_NO_NETWORK,
        program=_PING,
    ),
    Attack(
        id="network.host-loopback",
        tries="Reach the server on the sandbox's loopback",
        outcome="The loopback is the sandbox's own",
        cure="never start sandboxes in the host's network",
        act=_host_loopback,
    ),
    Attack(
        id="network.abstract-sockets",
        tries="See abstract Unix sockets of the host",
        outcome="There are none",
        cure="never start sandboxes in the host's network",
        program=_ABSTRACT,
    ),
    Attack(
        id="network.settings",
        tries="Open the settings below /proc/sys/net for writing",
        outcome="None can be opened",
        cure="no container may be privileged",
        program=_SETTINGS,
    ),
    Attack(
        id="network.configure",
        tries="Change addresses, routes, names and flags of interfaces",
        outcome="The kernel refuses",
        cure="no container may have NET_ADMIN",
        program=_CONFIGURE,
    ),
    Attack(
        id="network.neighbours",
        tries="Connect to a service in another sandbox by its address",
        outcome="No sandbox reaches another",
        cure="remove the engine's network of sandboxes; Sandlot makes it again, with its containers kept apart",
        act=_neighbours,
    ),
    Attack(
        id="network.reverse-names",
        tries="Learn the ids of other sandboxes from the resolver",
        outcome="No name tells of a sandbox",
        cure="upgrade Sandlot: its containers have names that tell nothing",
        act=_reverse_names,
    ),
)
