"""An OCI image as one tar file, written without a registry or a daemon; `ctr images import`, `podman load` and `docker load` (25 and later) read it.

The same files give the same bytes: names are sorted, times are one time, owners are root.
"""

import gzip
import hashlib
import io
import json
import pathlib
import tarfile

LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def layer(root, time):
    """The files under `root` as a layer: its compressed bytes, and the digest of what they are compressed from."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(pathlib.Path(root).rglob("*")):
            info = tar.gettarinfo(path, arcname=str(path.relative_to(root)))
            info.uid = info.gid = 0
            info.uname = info.gname = ""
            info.mtime = time
            if info.isreg():
                with path.open("rb") as file:
                    tar.addfile(info, file)
            else:
                tar.addfile(info)
    return gzip.compress(packed.getvalue(), 6, mtime=time), "sha256:" + hashlib.sha256(packed.getvalue()).hexdigest()


def write(path, name, layers, config, created, architecture, annotations):
    """`layers`: as layer() makes them. `config`: what a container is started with (Entrypoint, Env, Labels, …)."""
    def add(file, data):
        info = tarfile.TarInfo(file)
        info.size, info.mode = len(data), 0o644
        tar.addfile(info, io.BytesIO(data))

    def blob(media_type, data, **more):
        digest = hashlib.sha256(data).hexdigest()
        add(f"blobs/sha256/{digest}", data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data), **more}

    def as_json(value):
        return json.dumps(value, sort_keys=True).encode()

    with tarfile.open(path, "w") as tar:
        add("oci-layout", as_json({"imageLayoutVersion": "1.0.0"}))
        described = [blob(LAYER, data) for data, _ in layers]
        config_blob = blob("application/vnd.oci.image.config.v1+json", as_json({
            "architecture": architecture, "os": "linux", "created": created, "config": config,
            "rootfs": {"type": "layers", "diff_ids": [diff for _, diff in layers]},
            "history": [{"created": created, "created_by": "deploy/image/image.py"} for _ in layers]}))
        manifest = blob(MANIFEST, as_json({"schemaVersion": 2, "mediaType": MANIFEST, "config": config_blob, "layers": described,
                                           "annotations": annotations}),
                        annotations={"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rpartition(":")[2]})
        add("index.json", as_json({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [manifest]}))
    return manifest["digest"]
