"""What every process of the tests finds in its environment, this one before it loads NumPy."""

import os

os.environ |= {
    # One thread for each: small matrices gain nothing from more, threads that wait for a busy core
    # lose much, and what is summed up by one is the same on any number of cores.
    "OMP_NUM_THREADS": "1",
    # Ray's own pace is that of long runs on large clusters; a test has no time for it.
    "RAY_AUTH_MODE": "disabled",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_idle_worker_killing_time_threshold_ms": "60000",  # the next test needs them again
}
