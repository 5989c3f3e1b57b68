"""The labels on our containers and named volumes: how they are found again when all memory of them is lost.

Names of containers say nothing, because the engine's DNS tells them to other sandboxes.

Nothing is labelled that may change later; limits, for one, can be resized.
"""

from __future__ import annotations

from controlplane.runtime.driver import ContainerSpec

INSTANCE = "sandlot.instance"  # which installation of the control plane it belongs to
SANDBOX = "sandlot.sandbox"  # the sandbox's id
IMAGE = "sandlot.image"  # the image's name, as it was asked for
NETWORK = "sandlot.network"  # the value of a `Network`
RUNTIME = "sandlot.runtime"  # engine runtime by name, "" is the engine's default
HARDENED = "sandlot.hardened"  # TRUE or FALSE
# Before a volume's name with its owner: TRUE on a container with that volume, of which the engine may not know.
NAMED_VOLUME = "sandlot.claim."
DISPOSABLE = "sandlot.disposable"  # TRUE, on a volume: it goes with the last sandbox that uses it

# Before the engine's name of a named volume. Without the prefix, a caller could have any volume of the engine, the
# agent's own among them. The word is that of earlier releases, whose volumes go on.
VOLUME_PREFIX = "sandlot-claim-"

TRUE, FALSE = "true", "false"


def labels_of(spec: ContainerSpec, instance: str) -> dict[str, str]:
    """Return all labels of a container to make. The spec's own cannot replace ours."""
    return {
        **spec.labels,
        INSTANCE: instance,
        SANDBOX: spec.sandbox_id,
        IMAGE: spec.image,
        NETWORK: spec.network.value,
        RUNTIME: spec.runtime,
        HARDENED: TRUE if spec.hardened else FALSE,
        **{NAMED_VOLUME + volume.owned_name: TRUE for volume in spec.volumes if volume.volume_name},
    }
