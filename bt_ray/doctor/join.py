"""Joins the cluster that is to be looked at, or says why that cannot be done."""

import logging
import os
import socket

import ray
from ray.exceptions import RayError

from bt_ray.data.location import first_line
from bt_ray.errors import LaunchError

_PROBE_S = 5.0


def join_cluster() -> None:
    """Joins the cluster that RAY_ADDRESS names, or that this job runs on.

    Raises: LaunchError if it does not answer, or does not let this process in.
    """
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS", "")
    _probe(address)
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    except (RayError, RuntimeError, OSError, ValueError) as error:
        reason = first_line(error).partition(". ")[0]
        raise LaunchError(
            f"The Ray cluster at {address or 'RAY_ADDRESS'} does not let this process in "
            f"({reason}): the versions of Python and Ray, RAY_AUTH_MODE and the token "
            "(RAY_AUTH_TOKEN_PATH) must be those of its head."
        ) from error


def _probe(address: str) -> None:
    """Raises LaunchError unless something listens at HOST:PORT; Ray would ask for a minute."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_S).close()
    except OSError as error:
        raise LaunchError(
            f"Nothing answers at RAY_ADDRESS={address} ({error}): start the head "
            f"(`ray start --head --port={port}`), or correct the address."
        ) from error
