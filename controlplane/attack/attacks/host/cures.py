"""The cures that several attacks on the host share."""

from __future__ import annotations

DRIVER = "start sandboxes by Sandlot's own driver alone, and with the engine's default paths of /proc and /sys masked"
SECCOMP = "`sandlot doctor` must find the engine's seccomp profile; upgrade Sandlot, which brings a stricter one"
CAPABILITIES = "no container may be privileged or get capabilities beside those of runtime/docker/hardening.py"
