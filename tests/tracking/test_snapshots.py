from pathlib import Path

import numpy as np

from bt_ray.tracking.snapshots import read_snapshots, write_snapshot


def test_snapshots_come_back_as_they_were_in_order_of_their_steps(tmp_path: Path) -> None:
    assert read_snapshots(tmp_path) == {}
    for step in (1_200, 0):
        arrays = {"c": np.full((2, 2), step, np.float32), "v": np.arange(3, dtype=np.float32)}
        write_snapshot(tmp_path, step, arrays)
    assert (tmp_path / "probes" / "step-000000000.npz").is_file()
    snapshots = read_snapshots(tmp_path)
    assert list(snapshots) == [0, 1_200]
    np.testing.assert_array_equal(snapshots[1_200]["c"], np.full((2, 2), 1_200))
    assert snapshots[0]["v"].dtype == np.float32


def test_a_snapshot_replaces_the_one_before_and_a_half_written_one_is_not_read(
    tmp_path: Path,
) -> None:
    for value in (1, 2):
        write_snapshot(tmp_path, 7, {"v": np.full(3, value, np.float32)})
    (tmp_path / "probes" / "step-000000009.new").write_bytes(b"cut short")
    assert list(read_snapshots(tmp_path)) == [7]
    assert (read_snapshots(tmp_path)[7]["v"] == 2).all()
