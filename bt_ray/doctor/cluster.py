"""Looks at all nodes of the Ray cluster at once, each question for some seconds at most."""

import time
import uuid
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bt_ray.doctor.examination import ClockFacts, Examination, local_folders
from bt_ray.doctor.examiner import Examiner
from bt_ray.doctor.images import measure_images
from bt_ray.doctor.network import Backend, free_port, measure_network
from bt_ray.doctor.node import look_at_node
from bt_ray.doctor.storage import (
    is_new,
    measure_storage,
    remove_trial,
    trial_folder,
    unseen_markers,
)

_LOOK_S, _STORAGE_S, _IMAGES_S, _MEET_S, _NETWORK_S = 20.0, 20.0, 8.0, 10.0, 20.0
_BRIEF_S, _PINGS = 5.0, 5


class Cluster:
    """The nodes that are up, and an examiner on each.

    Args:
      deadline: of all questions, by `time.monotonic`.
    """

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        up = [node for node in ray.nodes() if node["Alive"]]
        count = Counter(node["NodeManagerAddress"] for node in up)
        self._nodes = {
            node["NodeManagerAddress"]
            if count[node["NodeManagerAddress"]] == 1
            else f"{node['NodeManagerAddress']} {node['NodeID'][:6]}": node
            for node in up
        }
        self._actors: dict[str, Any] = {}

    def look(self, examination: Examination) -> None:
        """Notes which nodes answer, what they are like, and how their clocks go."""
        self._actors = {place: self._hire(place) for place in self._nodes}
        folders = local_folders(examination.orders)
        asked = {}
        for place, node in self._nodes.items():
            session = str(Path(node["ObjectStoreSocketName"]).parents[1])
            asked[place] = self._actors[place].ask.remote(
                look_at_node,
                place,
                node["NodeManagerAddress"],
                int(node["Resources"].get("object_store_memory", 0)) or None,
                {"what Ray spills": session, **folders},
            )
        answers, faults = self._gather(asked, _LOOK_S)
        for place, facts in answers.items():
            known = self._nodes[place]["Resources"].get("GPU", 0.0)
            devices = replace(facts.devices, known_to_ray=known)
            examination.nodes[place] = replace(facts, devices=devices)
        examination.silent.update(faults)
        self._actors = {place: self._actors[place] for place in examination.nodes}
        for place, actor in self._actors.items():
            if (clock := self._clock(actor)) is not None:
                examination.clocks[place] = clock

    def _hire(self, place: str, **options: float) -> Any:
        actor: Any = ray.remote(Examiner)
        return actor.options(
            num_cpus=0,
            max_concurrency=4,  # a question that hangs does not keep the others
            scheduling_strategy=NodeAffinitySchedulingStrategy(
                self._nodes[place]["NodeID"], soft=False
            ),
            **options,
        ).remote()

    def _gather(
        self, asked: dict[str, Any], limit_s: float
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """What came back in time, and why the rest did not."""
        limit_s = max(0.1, min(limit_s, self._deadline - time.monotonic()))
        if not asked:
            return {}, {}
        done, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=limit_s)
        answers, faults = {}, {}
        for place, question in asked.items():
            if question not in done:
                faults[place] = f"no answer within {limit_s:.0f} s"
                continue
            try:
                answers[place] = ray.get(question)
            except RayError as error:
                faults[place] = _reason(error)
        return answers, faults

    def _clock(self, actor: Any) -> ClockFacts | None:
        """The clock by the quickest of some questions."""
        best = None
        for _ in range(_PINGS):
            sent = time.time()
            answers, _ = self._gather({"": actor.ask.remote(time.time)}, _BRIEF_S)
            came = time.time()
            if answers:
                half = (came - sent) / 2
                if best is None or half < best.error_s:
                    best = ClockFacts(offset_s=answers[""] - sent - half, error_s=half)
        return best

    def measure_storage(self, examination: Examination) -> None:
        """Has every node write and read, and look for what the others wrote."""
        storage = examination.orders.storage
        if storage is None:
            return
        new = is_new(storage)
        folder = trial_folder(storage, uuid.uuid4().hex[:8])
        asked = {p: a.ask.remote(measure_storage, folder, p) for p, a in self._actors.items()}
        answers, _ = self._gather(asked, _STORAGE_S)
        wrote = tuple(place for place, facts in answers.items() if facts.fault is None)
        looks = {
            p: a.ask.remote(unseen_markers, folder, wrote)
            for p, a in self._actors.items()
            if p in wrote
        }
        unseen, _ = self._gather(looks, _BRIEF_S)
        for place in self._actors:
            facts = answers.get(place)
            if facts is not None and place in unseen:
                facts = replace(facts, unseen=unseen[place])
            examination.storage[place] = facts
        asked = {p: self._actors[p].ask.remote(remove_trial, folder, new) for p in answers}
        self._gather(asked, _BRIEF_S)

    def measure_images(self, examination: Examination) -> None:
        """Has every node read some of the images."""
        name = examination.orders.images
        if name is None:
            return
        asked = {p: a.ask.remote(measure_images, name) for p, a in self._actors.items()}
        answers, _ = self._gather(asked, _IMAGES_S)
        examination.images.update({place: answers.get(place) for place in self._actors})

    def measure_network(self, examination: Examination) -> None:
        """Has the nodes that can train add up numbers together, if there are several."""
        gpus = {p: len(examination.nodes[p].devices.cards) for p in self._actors}
        kind = "GPU" if any(gpus.values()) else "CPU"
        places = [p for p in self._actors if self._nodes[p]["Resources"].get(kind, 0) > 0]
        if len(places) < 2:
            return
        actors = {place: self._actors[place] for place in places}
        backend: Backend = "gloo"
        if kind == "GPU" and (hired := self._hire_on_gpus(places)) is not None:
            actors, backend = hired, "nccl"
        self._add_up(examination, actors, backend)

    def _hire_on_gpus(self, places: list[str]) -> dict[str, Any] | None:
        """An examiner with a GPU on each node; none if other programs have taken all of one."""
        hired = {place: self._hire(place, num_gpus=1) for place in places}
        answers, _ = self._gather({p: a.ask.remote(time.time) for p, a in hired.items()}, _MEET_S)
        if len(answers) == len(hired):
            return hired
        for actor in hired.values():
            ray.kill(actor)
        return None

    def _add_up(self, examination: Examination, actors: dict[str, Any], backend: Backend) -> None:
        places = list(actors)
        first = self._nodes[places[0]]["NodeManagerAddress"]
        ports, _ = self._gather({"": actors[places[0]].ask.remote(free_port)}, _BRIEF_S)
        if not ports:
            return
        asked = {
            place: actor.ask.remote(
                measure_network, backend, first, ports[""], rank, len(actors), _MEET_S
            )
            for rank, (place, actor) in enumerate(actors.items())
        }
        answers, _ = self._gather(asked, _NETWORK_S)
        examination.network.update({place: answers.get(place) for place in places})

    def leave(self) -> None:
        """Ends the examiners, also those that hang."""
        for actor in self._actors.values():
            ray.kill(actor)


def _reason(error: RayError) -> str:
    """The last line that says something: of a failed import, which module is missing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "Error:" in line]
    return (telling or lines or [type(error).__name__])[-1][:300]
