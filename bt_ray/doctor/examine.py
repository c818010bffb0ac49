"""Looks at all nodes of the cluster or, where there is none, at this machine alone."""

import platform
import time
import uuid

import ray

from bt_ray.doctor.cluster import Cluster
from bt_ray.doctor.examination import Examination, Orders, local_folders
from bt_ray.doctor.finding import Finding
from bt_ray.doctor.images import measure_images
from bt_ray.doctor.join import join_cluster
from bt_ray.doctor.judge_cluster import judge_cluster
from bt_ray.doctor.judge_node import judge_node
from bt_ray.doctor.judge_services import judge_services
from bt_ray.doctor.node import look_at_node, versions
from bt_ray.doctor.storage import is_new, measure_storage, remove_trial, trial_folder
from bt_ray.doctor.tracking import measure_tracking
from bt_ray.doctor.within import Within
from bt_ray.errors import LaunchError
from bt_ray.ray_start import starts_here

_LIMIT_S = 45.0
"""Of everything, beside the start of this process."""
_STORAGE_S, _IMAGES_S = 25.0, 15.0


def examine(orders: Orders) -> Examination:
    """Everything: the nodes, what lies between them, and what they write to and read from."""
    deadline = time.monotonic() + _LIMIT_S
    uri = orders.tracking_uri
    asked = None if uri is None else Within(measure_tracking, uri)
    examination = Examination(orders=orders, own_versions=versions())
    cluster = _join(examination, deadline)
    if cluster is None:
        _look_here(examination)
        _measure_here(examination)
    else:
        try:
            cluster.look(examination)
            cluster.measure_storage(examination)
            cluster.measure_images(examination)
            cluster.measure_network(examination)
        finally:
            cluster.leave()
            ray.shutdown()
    if asked is not None:
        examination.tracking = asked.result(max(1.0, deadline - time.monotonic()))
    return examination


def glance() -> Examination:
    """What is seen in seconds: the nodes, their versions and clocks; stays in the cluster."""
    examination = Examination(orders=Orders(), own_versions=versions())
    cluster = _join(examination, time.monotonic() + _LIMIT_S)
    if cluster is None:
        _look_here(examination)
        return examination
    try:
        cluster.look(examination)
    finally:
        cluster.leave()
    return examination


def judge(examination: Examination) -> list[Finding]:
    """All that there is to say of it, in the order in which it is mended."""
    return [
        *judge_cluster(examination),
        *(one for node in examination.nodes.values() for one in judge_node(node)),
        *judge_services(examination),
    ]


def _join(examination: Examination, deadline: float) -> Cluster | None:
    """The cluster; none if there is none, or if it cannot be reached, which is noted."""
    if starts_here():
        return None
    try:
        join_cluster()
    except LaunchError as error:
        examination.faults.append(str(error))
        return None
    examination.is_cluster = True
    return Cluster(deadline)


def _look_here(examination: Examination) -> None:
    place = platform.node() or "this machine"
    folders = local_folders(examination.orders)
    examination.nodes[place] = look_at_node(place, None, None, folders)


def _measure_here(examination: Examination) -> None:
    """Storage and images, each in a process that is ended when it hangs."""
    orders = examination.orders
    [place] = examination.nodes
    if orders.storage is not None:
        new = is_new(orders.storage)
        folder = trial_folder(orders.storage, uuid.uuid4().hex[:8])
        measured = Within(measure_storage, folder, place)
        examination.storage[place] = measured.result(_STORAGE_S)
        if examination.storage[place] is not None:
            remove_trial(folder, new)
    if orders.images is not None:
        examination.images[place] = Within(measure_images, orders.images).result(_IMAGES_S)
