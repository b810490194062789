"""What `istioctl ztunnel-config` makes of a config_dump: which members it decodes, as what, and how it prints them (istio 86c9f01). Held against
what the real one printed of a recorded dump (tests/golden/istioctl), so that it may stand for it where there is none."""

import datetime
import json

# Types as Go decodes them; (name, type, omitted when empty) for each member of a structure, in the order in which it is written.
STRING, BOOL = str, bool


class Integer:
    def __init__(self, bits):
        self.bits = bits


class Optional:
    """A pointer."""

    def __init__(self, of):
        self.of = of


class List:
    def __init__(self, of):
        self.of = of


class Map:
    def __init__(self, of):
        self.of = of


class Any:
    pass


class Struct:
    def __init__(self, *members):
        self.members = members


class CidrVip:
    """Read as an object or as "network/cidr", written as the latter."""


GATEWAY = Struct(("destination", STRING, False))
LOCALITY = Struct(("region", STRING, True), ("zone", STRING, True), ("subzone", STRING, True))
TUNNEL = Struct(("protocol", STRING, False), ("port", Optional(Integer(16)), True))
WORKLOAD = Struct(
    ("uid", STRING, False), ("workloadIps", List(STRING), False), ("waypoint", Optional(GATEWAY), True), ("networkGateway", Optional(GATEWAY), True),
    ("protocol", STRING, False), ("name", STRING, False), ("namespace", STRING, False), ("serviceAccount", STRING, False),
    ("workloadName", STRING, False), ("workloadType", STRING, False), ("canonicalName", STRING, False), ("canonicalRevision", STRING, False),
    ("clusterId", STRING, False), ("trustDomain", STRING, True), ("locality", LOCALITY, False), ("node", STRING, False), ("network", STRING, True),
    ("status", STRING, False), ("hostname", STRING, False), ("capacity", Integer(32), False), ("applicationTunnel", TUNNEL, False),
    ("authorizationPolicies", List(STRING), True))
ENDPOINT = Struct(("workloadUid", STRING, False), ("service", STRING, False), ("address", STRING, True), ("port", Map(Integer(16)), False))
BALANCER = Struct(("mode", STRING, False), ("routingPreferences", List(STRING), False), ("healthPolicy", STRING, False))
SERVICE = Struct(
    ("name", STRING, False), ("namespace", STRING, False), ("hostname", STRING, False), ("vips", List(STRING), False), ("cidrVips", List(CidrVip()), True),
    ("ports", Map(Integer(64)), False), ("loadBalancer", Optional(BALANCER), True), ("waypoint", Optional(GATEWAY), True),
    ("endpoints", Map(Optional(ENDPOINT)), False), ("subjectAltNames", List(STRING), True), ("ipFamilies", STRING, False), ("canonical", BOOL, True),
    ("visibility", STRING, True))
MATCH = Struct(("Exact", STRING, True), ("Suffix", STRING, True), ("Prefix", STRING, True), ("Presence", Any(), True))
ACCOUNT = Struct(("namespace", STRING, False), ("serviceAccount", STRING, False))
POLICY_MATCH = Struct(*((name, List(of), True) for name, of in (
    ("namespaces", MATCH), ("notNamespaces", MATCH), ("principals", MATCH), ("notPrincipals", MATCH), ("sourceIps", STRING), ("notSourceIps", STRING),
    ("destinationIps", STRING), ("notDestinationIps", STRING), ("destinationPorts", Integer(16)), ("notDestinationPorts", Integer(16)),
    ("serviceAccounts", ACCOUNT), ("notServiceAccounts", ACCOUNT))))
POLICY = Struct(("name", STRING, False), ("namespace", STRING, False), ("scope", STRING, False), ("action", STRING, False),
                ("rules", List(List(List(Optional(POLICY_MATCH)))), False))
CERTIFICATE = Struct(("pem", STRING, False), ("serialNumber", STRING, False), ("validFrom", STRING, False), ("expirationTime", STRING, False))
SECRET = Struct(("identity", STRING, False), ("state", STRING, False), ("certChain", List(Optional(CERTIFICATE)), False),
                ("rootCerts", List(Optional(CERTIFICATE)), False))
CONNECTION = Struct(("src", STRING, False), ("originalDst", STRING, False), ("actualDst", STRING, False), ("protocol", STRING, False))
STATE = Struct(("state", STRING, True), ("connections", Struct(("inbound", List(CONNECTION), False), ("outbound", List(CONNECTION), False)), False),
               ("info", Struct(("name", STRING, False), ("namespace", STRING, False), ("trustDomain", STRING, False), ("serviceAccount", STRING, False)), False))


def zero(kind):
    if isinstance(kind, Struct):
        return decode({}, kind, "")
    return {STRING: "", BOOL: False}.get(kind) if isinstance(kind, type) else 0 if isinstance(kind, Integer) else None


def decode(value, kind, where):
    """As encoding/json does: null leaves what is there, another type is an error, members that nobody knows are passed over."""
    if value is None:
        return zero(kind)
    good = True
    if isinstance(kind, Optional):
        return decode(value, kind.of, where)
    if isinstance(kind, Struct):
        good = isinstance(value, dict)
        if good:
            lower = {name.lower(): each for name, each in value.items()}
            return {name: decode(lower.get(name.lower()), of, f"{where}.{name}") for name, of, _ in kind.members}
    elif isinstance(kind, List):
        good = isinstance(value, list)
        if good:
            return [decode(each, kind.of, f"{where}[]") for each in value]
    elif isinstance(kind, Map):
        good = isinstance(value, dict)
        if good:
            return {name: decode(each, kind.of, f"{where}[{name}]") for name, each in value.items()}
    elif isinstance(kind, Integer):
        good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << kind.bits
    elif isinstance(kind, CidrVip):
        if isinstance(value, dict):
            value = f"{value.get('network', '')}/{value['cidr']}"
        good = isinstance(value, str) and "/" in value
    elif isinstance(kind, type):
        good = isinstance(value, kind)
    assert good, f"json: cannot unmarshal {value!r} into {where}"
    return value


def empty(value, kind):
    return value is None or (not isinstance(kind, Any) and value in ("", 0, False, [], {}))


def encode(value, kind):
    if isinstance(kind, Optional):
        return None if value is None else encode(value, kind.of)
    if isinstance(kind, Struct):
        return {name: encode(value[name], of) for name, of, omit in kind.members if not (omit and empty(value[name], of))}
    if isinstance(kind, List):
        return None if value is None else [encode(each, kind.of) for each in value]
    if isinstance(kind, Map):
        return None if value is None else {name: encode(value[name], kind.of) for name in sorted(value)}
    return value


def marshal(values, kind):
    return json.dumps([encode(value, kind) for value in values], indent=4, ensure_ascii=False) + "\n"


def table(heads, rows, padding=1):
    """text/tabwriter: the last column is not padded."""
    lines = [heads, *rows]
    widths = [max(len(line[i]) for line in lines) + padding for i in range(len(heads) - 1)]
    return "".join("".join(cell.ljust(width) for cell, width in zip(line, widths)) + line[-1] + "\n" for line in lines)


class Dump:
    def __init__(self, text):
        root = json.loads(text)
        self.text = text
        self.workloads = decode(root["workloads"], List(WORKLOAD), "workloads")
        self.services = decode(root["services"], List(SERVICE), "services")
        self.policies = decode(root["policies"], List(POLICY), "policies")
        self.certificates = decode(root["certificates"], List(SECRET), "certificates")
        self.states = decode(root.get("workloadState"), Map(STATE), "workloadState") or {}

    def _waypoint(self, of):
        if of["waypoint"] is None:
            return "None"
        wanted = of["waypoint"]["destination"]
        return next((s["name"] for s in self.services if f"{s['namespace']}/{s['hostname']}" == wanted or wanted in (s["vips"] or [])), "NA")

    def workload(self, namespace="", output="short"):
        chosen = [w for w in self.workloads if not namespace or w["namespace"].lower() == namespace.lower()]
        if output == "json":
            return marshal(chosen, WORKLOAD)
        chosen.sort(key=lambda w: (f"{w['namespace']}.{w['name']}", w["node"]))
        return table(["NAMESPACE", "POD NAME", "ADDRESS", "NODE", "WAYPOINT", "PROTOCOL"],
                     [[w["namespace"], w["name"], ",".join(w["workloadIps"] or []) or w["hostname"], w["node"], self._waypoint(w), w["protocol"]]
                      for w in chosen])

    def service(self, namespace="", output="short"):
        chosen = sorted((s for s in self.services if not namespace or s["namespace"].lower() == namespace.lower()),
                        key=lambda s: (s["namespace"], s["name"], s["hostname"]))
        if output == "json":
            return marshal(chosen, SERVICE)
        healthy = {w["uid"] for w in self.workloads if w["status"] == "Healthy"}
        return table(["NAMESPACE", "SERVICE NAME", "SERVICE VIP", "WAYPOINT", "ENDPOINTS"],
                     [[s["namespace"], s["name"], ",".join(vip.partition("/")[2] for vip in s["vips"] or []), self._waypoint(s),
                       f"{sum(e['workloadUid'] in healthy for e in (s['endpoints'] or {}).values())}/{len(s['endpoints'] or {})}"] for s in chosen])

    def policy(self, namespace="", output="short"):
        chosen = sorted((p for p in self.policies if not namespace or p["namespace"].lower() == namespace.lower()),
                        key=lambda p: (p["namespace"], p["name"]))
        if output == "json":
            return marshal(chosen, POLICY)
        return table(["NAMESPACE", "POLICY NAME", "ACTION", "SCOPE"], [[p["namespace"], p["name"], p["action"], p["scope"]] for p in chosen])

    def certificate(self, output="short", now=None):
        if output == "json":
            return marshal(self.certificates, SECRET)
        now = now or datetime.datetime.now(datetime.timezone.utc)
        rows = []
        for secret in self.certificates:
            state = "Unavailable" if "Unavailable" in secret["state"] else secret["state"]
            if not secret["certChain"]:
                rows.append([secret["identity"], "NA", state, "false", "NA", "NA", "NA"])
                continue
            for kind, certificate in [("Leaf" if i == 0 else "Intermediate", c) for i, c in enumerate(secret["certChain"])] + \
                                     [("Root", c) for c in secret["rootCerts"] or []]:
                begin, end = (datetime.datetime.fromisoformat(certificate[name].replace("Z", "+00:00")) for name in ("validFrom", "expirationTime"))
                rows.append([secret["identity"], kind, state, str(begin < now < end).lower(), f"{int(certificate['serialNumber']):x}",
                             certificate["expirationTime"], certificate["validFrom"]])
        return table(["CERTIFICATE NAME", "TYPE", "STATUS", "VALID CERT", "SERIAL NUMBER", "NOT AFTER", "NOT BEFORE"], rows, padding=5)

    def connections(self, direction="", output="short"):
        states = sorted(self.states.values(), key=lambda s: (s["info"]["namespace"], s["info"]["name"]))
        if output == "json":
            return marshal(states, STATE)
        names = {(w["workloadIps"] or ["None"])[0]: f"{w['name']}.{w['namespace']}" for w in self.workloads}
        names |= {((s["vips"] or ["/None"])[0]).partition("/")[2]: s["hostname"] for s in self.services}

        def named(address):
            host, _, port = address.rpartition(":")
            name = names.get(host.strip("[]"))
            return f"{name}:{port}" if name else address
        rows = []
        for state in states:
            name = f"{state['info']['name']}.{state['info']['namespace']}"
            if direction != "outbound":
                rows += [[name, "Inbound", named(c["actualDst"]), named(c["src"]), c["originalDst"], c["protocol"]]
                         for c in state["connections"]["inbound"] or []]
            if direction != "inbound":
                rows += [[name, "Outbound", named(c["src"]), named(c["actualDst"]), named(c["originalDst"]), c["protocol"]]
                         for c in state["connections"]["outbound"] or []]
        return table(["WORKLOAD", "DIRECTION", "LOCAL", "REMOTE", "REMOTE TARGET", "PROTOCOL"], rows)

    def all(self, output="short", now=None):
        if output == "json":
            return self.text + "\n"
        return "".join("\n" + text for text in (self.workload(), self.service(), self.policy(), self.certificate(now=now), self.connections()))
