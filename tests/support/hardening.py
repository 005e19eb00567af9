"""What a container has that a hardened one does not have."""


def weaknesses(container):
    """What a container, as `docker inspect` shows it, has that it should not have."""
    config, host = container["Config"], container["HostConfig"]
    found = {
        "root": not config["User"].split(":")[0].isdigit() or config["User"].startswith("0"),
        "writable root": not host["ReadonlyRootfs"],
        "capabilities": host["CapDrop"] != ["ALL"] or bool(host["CapAdd"]),
        "new privileges": host["SecurityOpt"] != ["no-new-privileges:true"],
        "privileged": host["Privileged"],
        "devices": bool(host["Devices"] or host["DeviceRequests"] or host["DeviceCgroupRules"]),
        "host namespace": "host"
        in [host[f"{kind}Mode"] for kind in ("Network", "Pid", "Ipc", "UTS", "Userns")],
        "no limit": not all((host[name] or 0) > 0 for name in ("Memory", "NanoCpus", "PidsLimit")),
        "docker socket": any("docker" in mount["Source"] for mount in binds(container)),
    }
    return {weakness for weakness, holds in found.items() if holds}


def binds(container):
    return [mount for mount in container["Mounts"] if mount["Type"] == "bind"]
