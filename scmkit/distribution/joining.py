"""How a process joins the others it was started with."""

import os
import socket

import jax

from scmkit.distribution import ending, pulse
from scmkit.distribution.calls import Unanswered, within
from scmkit.distribution.peers import Patience
from scmkit.distribution.relay import relay
from scmkit.distribution.surroundings import Place
from scmkit.errors import RunError

WAIT = 300
"""Seconds that processes wait for each other to start."""

_NEVER = 10**7
"""Seconds after which XLA kills a process that waits; our own limits end it in order before."""


_NO_PROXY = "no_grpc_proxy"


def join(place: Place, patience: Patience | None = None, wait: float = WAIT) -> None:
    """Join the other processes, before JAX looks for its devices, and start the pulse.

    Where not all have come in time this process ends, since XLA would kill it.

    **Arguments:**

    - `place`: the place of this process, as `surroundings.place()` found it.
    - `patience`: after which times the pulse gives up others; by default as the environment says.
    - `wait`: seconds in which all must have come.

    Raises `RunError` where the coordinator cannot start here.
    """
    patience = patience or Patience.of_environment()
    host, port = place.coordinator
    bound = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS", f"[::]:{port}")
    if place.index == 0:
        _check_free(bound)
    # The coordinator's own process ends with it; all others are kept from being killed.
    near = relay(host, port) if place.index else port
    # gRPC would look for this machine's own port by way of a proxy, and JAX warns of one.
    exempt = (os.environ.get(_NO_PROXY, os.environ.get("no_proxy", "")), "127.0.0.1")
    os.environ[_NO_PROXY] = ",".join(filter(None, exempt))
    jax.config.update("jax_check_proxy_envs", False)

    def meet() -> None:
        jax.distributed.initialize(
            f"127.0.0.1:{near}",
            place.count,
            place.index,
            local_device_ids=place.device,
            cluster_detection_method="deactivate",
            initialization_timeout=_NEVER,
            heartbeat_timeout_seconds=_NEVER,
            shutdown_timeout_seconds=60,
            coordinator_bind_address=bound,
        )
        pulse.start(patience)

    try:
        within(wait, meet)
    except Unanswered:
        ending.end(RunError.code, _who_is_missing(place, wait))
    except RuntimeError as error:
        raise RunError(f"process {place.index} cannot join the others: {error}") from error


def _who_is_missing(place: Place, wait: float) -> str | None:
    """What this process knows of it; where process 0 is there it is for that one to tell."""
    they = f"error: not all of the {place.count} processes have started within {wait:.0f} s"
    if place.index == 0:
        return (
            f"{they}: see what the others say, and whether they reach this one at {place.address}"
        )
    try:
        socket.create_connection(place.coordinator, timeout=5).close()
        return None
    except OSError as error:
        return f"{they}: process {place.index} does not reach process 0 at {place.address}: {error}"


def _check_free(bound: str) -> None:
    """XLA would share the port with another job, or crash."""
    host, _, port = bound.rpartition(":")
    both = "[" in host and socket.has_dualstack_ipv6()
    try:
        socket.create_server(
            (host.strip("[]") if both else host.replace("[::]", ""), int(port)),
            family=socket.AF_INET6 if both else socket.AF_INET,
            dualstack_ipv6=both,
        ).close()
    except OSError as error:
        raise RunError(
            f"the coordinator of the processes cannot start at {bound}: {error.strerror}; "
            "JAX_COORDINATOR_PORT sets another port"
        ) from error
