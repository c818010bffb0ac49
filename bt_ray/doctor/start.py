"""What a run is told of its cluster before it starts: the doctor's cheap part."""

from bt_ray.config import Settings
from bt_ray.doctor.examine import glance, judge
from bt_ray.errors import LaunchError
from bt_ray.ray_start import check_cluster


def check_start(settings: Settings) -> list[str]:
    """A sentence for each fault that the run may go on with, though not well.

    Raises: LaunchError if the cluster does not answer, or if nodes have other versions than each
      other, as their results would differ.
    """
    if settings.scaling.min_workers == 0:
        return []
    check_cluster()
    examination = glance()
    if examination.faults:
        raise LaunchError(" ".join(examination.faults))
    wrong = [finding for finding in judge(examination) if finding.state == "wrong"]
    versions = [finding.advice for finding in wrong if finding.check == "versions"]
    if versions:
        raise LaunchError(" ".join(versions))
    if not examination.is_cluster:  # Ray, which starts here, takes what there is
        wrong = [finding for finding in wrong if finding.check == "devices"]
    return [finding.advice for finding in wrong]
