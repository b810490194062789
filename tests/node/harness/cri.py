"""The container runtime's own interface (CRI, runtime.v1), as kubelet speaks it: gRPC over a socket. Messages are written by field number; the numbers
are Kubernetes' (k8s.io/cri-api, pkg/apis/runtime/v1/api.proto)."""

import grpc

POD, NODE = 0, 2                          # NamespaceMode
PRIVATE, HOST_TO_CONTAINER, BIDIRECTIONAL = 0, 1, 2  # MountPropagation
RUNTIME_DEFAULT, UNCONFINED, LOCALHOST = 0, 1, 2     # SecurityProfile


def varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def encode(fields):
    """{number: value} as protobuf: str, bytes, int, bool, a dict with number keys (a message), a list (repeated), Map."""
    out = b""
    for number, value in fields.items():
        for item in value if isinstance(value, list) else value.items() if isinstance(value, Map) else [value]:
            if isinstance(value, Map):
                item = {1: item[0], 2: item[1]}
            if isinstance(item, int):
                out += varint(number << 3) + varint(int(item))
            else:
                data = encode(item) if isinstance(item, dict) else item.encode() if isinstance(item, str) else item
                out += varint(number << 3 | 2) + varint(len(data)) + data
    return out


class Map(dict):
    """A map<string, string>."""


def decode(data):
    """{number: [values]}; what has a length stays bytes."""
    out, at = {}, 0

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
    while at < len(data):
        key = number()
        if key & 7 == 0:
            value = number()
        else:
            size = number() if key & 7 == 2 else 8 if key & 7 == 1 else 4
            value, at = data[at:at + size], at + size
        out.setdefault(key >> 3, []).append(value)
    return out


class Cri:
    def __init__(self, socket):
        self._channel = grpc.insecure_channel(f"unix:{socket}")

    def call(self, method, fields, service="RuntimeService", timeout=60):
        """The answer's fields. RuntimeError with what the runtime said."""
        try:
            return decode(self._channel.unary_unary(f"/runtime.v1.{service}/{method}")(encode(fields), timeout=timeout))
        except grpc.RpcError as error:
            raise RuntimeError(f"{method}: {error.code().name}: {error.details()}") from None

    def close(self):
        self._channel.close()

    def exec(self, container, *command):
        """(exit status, standard output, standard error) of a command in a container."""
        answer = self.call("ExecSync", {1: container, 2: list(command), 3: 20})
        out, err = (answer.get(n, [b""])[0].decode(errors="replace") for n in (1, 2))
        return answer.get(3, [0])[0], out, err
