"""A healthy node, cluster and storage, to make ill."""

from bt_ray.doctor.devices import Devices
from bt_ray.doctor.network import AllReduce, NetworkFacts
from bt_ray.doctor.node import Disk, NodeFacts
from bt_ray.doctor.storage import StorageFacts
from bt_ray.doctor.tracking import TrackingFacts
from bt_ray.training.preflight import Card

GB = 10**9
VERSIONS = {"python": "3.11.7", "bt_ray": "0.2.0, code 1234abcd", "torch": "2.7.1", "numpy": "2.3"}
V100 = Card(
    machine="10.0.0.2",
    name="Tesla V100-SXM2-32GB",
    capability=(7, 0),
    torch_version="2.7.1",
    torch_code=("sm_70", "sm_80", "sm_90"),
    interfaces=("lo", "eth0"),
    wanted_interfaces=None,
)
DEVICES = Devices(
    cards=(V100, V100),
    memory_mb=(32768, 32768),
    driver="550.54.15",
    driver_cuda="12.4",
    torch_cuda="12.6",
    known_to_ray=2.0,
)
NODE = NodeFacts(
    place="10.0.0.2",
    address="10.0.0.2",
    versions=VERSIONS,
    devices=DEVICES,
    memory_bytes=64 * GB,
    shm_bytes=32 * GB,
    store_bytes=19 * GB,
    open_files=65536,
    free_processes=50_000,
    disks=(
        Disk(purpose="temporary files", folder="/tmp", total_bytes=200 * GB, free_bytes=80 * GB),
    ),
    interface="eth0",
)
STORAGE = StorageFacts(small_write_ms=4.0, small_read_ms=2.0, write_mb_s=200.0, read_mb_s=300.0)
NETWORK = NetworkFacts(
    backend="gloo",
    num_nodes=2,
    sums=(
        AllReduce(num_bytes=4096, seconds=1e-4, bus_mb_s=40.0),
        AllReduce(num_bytes=64 << 20, seconds=0.1, bus_mb_s=671.0),
    ),
)
TRACKING = TrackingFacts(uri="http://mlflow:5000", answer_ms=20.0, logged=True, kept_file=True)
