"""What is good and wrong between nodes: versions, clocks, network; computed from facts alone."""

from collections.abc import Mapping

from bt_ray.doctor.examination import ClockFacts, Examination
from bt_ray.doctor.finding import Finding, State
from bt_ray.doctor.network import NetworkFacts
from bt_ray.doctor.node import NodeFacts

_ASKING = "this process"
_NOTE_CLOCK_S, _WRONG_CLOCK_S = 0.25, 1.0
_SLOWEST_MB_S, _SLOW_MB_S = 10.0, 100.0
"""At the first, ResNet-50 and a projector of 8192 (700 MB of gradients) take a minute or two a
step; the second is a network of 1 Gb/s."""
_CHANGES_NO_RESULT = ("numpy", "pyarrow", "mlflow")
"""Packages whose version changes no weight."""


def judge_cluster(examination: Examination) -> list[Finding]:
    """Findings about the cluster as a whole, and about what its nodes have in common."""
    findings = [_unreached(fault) for fault in examination.faults]
    findings += [_silent(place, why) for place, why in examination.silent.items()]
    if examination.is_cluster and examination.nodes:
        findings.append(_present(examination))
    findings += judge_versions(
        {place: node.versions for place, node in examination.nodes.items()}
        | ({_ASKING: examination.own_versions} if examination.own_versions else {})
    )
    findings += [judge_clock(place, clock) for place, clock in examination.clocks.items()]
    findings += judge_network(examination.network, examination.nodes)
    return findings


def _unreached(fault: str) -> Finding:
    return Finding(
        check="cluster", place="RAY_ADDRESS", found="not reached", state="wrong", advice=fault
    )


def _silent(place: str, why: str) -> Finding:
    return Finding(
        check="cluster", place=place, found=why, state="wrong",
        advice=f"Nothing could be run on {place} ({why}): see `ray status` and the logs there, and "
        "have the same packages and code on every node, as `ray job submit --working-dir .` has.",
    )  # fmt: skip


def _present(examination: Examination) -> Finding:
    nodes = examination.nodes.values()
    gpus = sum(len(node.devices.cards) for node in nodes)
    count = len(examination.nodes)
    found = f"{count} node{'s' if count > 1 else ''}, {gpus} GPUs"
    return Finding(check="cluster", place="all nodes", found=found)


def judge_versions(versions: Mapping[str, Mapping[str, str]]) -> list[Finding]:
    """Whether each package has one version everywhere.

    Args:
      versions: by place, and there by package.
    """
    findings, same = [], []
    for package in dict.fromkeys(name for those in versions.values() for name in those):
        places: dict[str, list[str]] = {}
        for place, those in versions.items():
            places.setdefault(those.get(package, "missing"), []).append(place)
        if len(places) == 1:
            same.append(f"{package} {next(iter(places))}")
        else:
            findings.append(_unequal(package, places))
    if same:
        place = "all nodes" if len(versions) > 1 else next(iter(versions))
        findings.append(Finding(check="versions", place=place, found=", ".join(same)))
    return findings


def _unequal(package: str, places: Mapping[str, list[str]]) -> Finding:
    """Versions that differ in what follows "+" alone are builds of one code, as for CPUs."""
    found = "; ".join(f"{version} on {', '.join(on)}" for version, on in places.items())
    is_one_code = len({version.partition("+")[0] for version in places}) == 1
    way_out = (
        "have the job bring the code (`ray job submit --working-dir .`)"
        if package == "bt_ray"
        else "install the same lock file everywhere"
    )
    return Finding(
        check="versions",
        place=package,
        found=found,
        state="note" if package in _CHANGES_NO_RESULT or is_one_code else "wrong",
        advice=f"{package} must be the same on every node ({found}): {way_out}.",
    )


def judge_clock(place: str, clock: ClockFacts) -> Finding:
    """Whether a node's clock shows the time that the asking process has."""
    found = f"{clock.offset_s:+.3f} s (± {clock.error_s:.3f})"
    beyond = max(0.0, abs(clock.offset_s) - clock.error_s)
    if beyond <= _NOTE_CLOCK_S:
        return Finding(check="clock", place=place, found=found)
    advice = (
        f"The clock of {place} is {abs(clock.offset_s):.1f} s "
        f"{'ahead' if clock.offset_s > 0 else 'behind'}, which object stores, tokens and the order "
        "of logs do not bear: let chrony or another NTP client set it."
    )
    if beyond > _WRONG_CLOCK_S:
        return Finding(check="clock", place=place, found=found, state="wrong", advice=advice)
    return Finding(check="clock", place=place, found=found, state="note", advice=advice)


def judge_network(
    network: Mapping[str, NetworkFacts | None], nodes: Mapping[str, NodeFacts]
) -> list[Finding]:
    """Whether nodes can add up their gradients, and how fast."""
    faults = {
        place: "no answer in time" if facts is None else facts.fault
        for place, facts in network.items()
        if facts is None or facts.fault is not None
    }
    if faults:
        return [_cut_off(place, str(fault), network, nodes) for place, fault in faults.items()]
    seen = [facts for facts in network.values() if facts is not None]
    if not seen or not seen[0].sums:
        return []
    facts = seen[0]
    found = f"{facts.backend}, all-reduce over {facts.num_nodes} nodes: " + ", ".join(
        f"{s.num_bytes >> 10:,} KiB in {1e3 * s.seconds:.3g} ms" for s in facts.sums
    )
    found += f" ({facts.sums[-1].bus_mb_s:,.0f} MB/s)"
    rate = facts.sums[-1].bus_mb_s
    if not all(one.is_right for one in seen):
        advice = "The nodes' sum is not that of their numbers: look for a faulty card or link."
        return [_between(found, "wrong", advice)]
    if rate >= _SLOW_MB_S:
        return [_between(found, "good", "")]
    advice = (
        f"Nodes exchange {rate:.3g} MB/s, and every step adds up the whole gradient: name the "
        "fastest network by GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME in the environment of "
        "`ray start`, or use nodes that lie nearer to each other."
    )
    return [_between(found, "wrong" if rate < _SLOWEST_MB_S else "note", advice)]


def _between(found: str, state: State, advice: str) -> Finding:
    return Finding(check="network", place="all nodes", found=found, state=state, advice=advice)


def _cut_off(
    place: str,
    fault: str,
    network: Mapping[str, NetworkFacts | None],
    nodes: Mapping[str, NodeFacts],
) -> Finding:
    backend = next((facts.backend for facts in network.values() if facts is not None), "gloo")
    name = f"{backend.upper()}_SOCKET_IFNAME"
    interface = nodes[place].interface if place in nodes else None
    which = f"{name}={interface}" if interface else f"{name}, the interface of the node's address,"
    advice = (
        f"{place} could not add up with the other nodes by {backend} ({fault}): set {which} in "
        "the environment of `ray start` on every node, and let nodes reach each other on all ports."
    )
    return Finding(check="network", place=place, found=fault, state="wrong", advice=advice)
