"""What the loss and its gradients take beyond the embeddings, in a process of its own."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.run

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys, threading, time, torch
from bt_ray.objective.barlow import barlow_twins_loss

def resident():
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages * 4096

torch.set_num_threads(1)
n, d = int(sys.argv[1]), int(sys.argv[2])
warm = torch.randn(n, 64, requires_grad=True)
barlow_twins_loss(warm, torch.randn(n, 64), 5e-3, form="gram").backward()
z = [torch.randn(n, d, requires_grad=True) for _ in range(2)]
before, peak, done = resident(), 0, False

def watch():
    global peak
    while not done:
        peak = max(peak, resident())
        time.sleep(0.001)

watcher = threading.Thread(target=watch)
watcher.start()
loss = barlow_twins_loss(*z, 5e-3)
loss.backward()
done = True
watcher.join()
assert all(torch.isfinite(x.grad).all() for x in z) and d / 2 < float(loss) < 3 * d * d / n
print(max(peak, resident()) - before)
"""


@pytest.mark.parametrize(("num_dimensions", "bound"), [(65_536, 2**28), (131_072, 2**29)])
def test_many_dimensions_fit(
    num_dimensions: int, bound: int, record_property: Callable[[str, object], None]
) -> None:
    """`auto` at N = 256: little more than the two gradients, 128 MiB and 256 MiB; C has 16 GiB."""
    if not Path("/proc/self/statm").is_file():
        pytest.skip("needs /proc")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "256", str(num_dimensions)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record_property("peak_mib", int(done.stdout) / 2**20)
    assert 2 * 256 * num_dimensions * 4 < int(done.stdout) < bound
