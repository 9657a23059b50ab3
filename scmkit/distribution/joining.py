"""How a process joins the others it was started with."""

import os

import jax

from scmkit.distribution import pulse
from scmkit.distribution.relay import relay
from scmkit.distribution.surroundings import Place
from scmkit.errors import RunError

WAIT = 300
"""Seconds that processes wait for each other to start."""

_NEVER = 10**7
"""Seconds after which XLA gives up a silent process by killing all others; the pulse is long done then."""


def join(place: Place, patience: pulse.Patience | None = None, wait: int = WAIT) -> None:
    """Join the other processes, before JAX looks for its devices, and start the pulse.

    **Arguments:**

    - `place`: the place of this process, as `surroundings.place()` found it.
    - `patience`: after which times the pulse gives up others; by default as the environment says.
    - `wait`: seconds in which all must have come.

    Raises `RunError` where they have not.
    """
    host, port = place.coordinator
    # The coordinator's own process ends with it; all others are kept from being killed.
    near = port if place.index == 0 else relay(host, port)
    # gRPC would look for this machine's own port by way of a proxy, and JAX warns of one.
    exempt = (os.environ.get("no_grpc_proxy", os.environ.get("no_proxy", "")), "127.0.0.1")
    os.environ["no_grpc_proxy"] = ",".join(filter(None, exempt))
    jax.config.update("jax_check_proxy_envs", False)
    try:
        jax.distributed.initialize(
            f"127.0.0.1:{near}",
            place.count,
            place.index,
            local_device_ids=place.device,
            cluster_detection_method="deactivate",
            initialization_timeout=wait,
            heartbeat_timeout_seconds=_NEVER,
            shutdown_timeout_seconds=60,
            coordinator_bind_address=os.environ.get("JAX_COORDINATOR_BIND_ADDRESS", f"[::]:{port}"),
        )
        pulse.start(patience or pulse.Patience.of_environment(), wait)
    except RuntimeError as error:
        raise RunError(
            f"the {place.count} processes have not met at {place.address} within {wait} s, or it is in use: "
            f"{str(error).splitlines()[0]}"
        ) from error
