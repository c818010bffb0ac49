"""What runs in each Ray Train worker that trains a classifier."""

from typing import Any

from bt_ray.checkpoints.checkpoint import last_checkpoint
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.stream.plan import build_plan
from bt_ray.evaluation.labelled import read_labels
from bt_ray.evaluation.scorer import Scorer
from bt_ray.training.supervised import Task, train_classifier
from bt_ray.training.worker import build_context, telling_failures, worker_batches


def supervised_worker(order: dict[str, Any]) -> None:
    """One worker's part of a classifier's training, from the last checkpoint if there is one.

    Args:
      order: `task`, a Task.
    """
    task: Task = order["task"]
    settings = task.settings
    context = build_context(settings, task.run_folder)
    shards = ShardSet.open(settings.data.train)
    plan = build_plan(settings, shards.manifest)
    resume, start = last_checkpoint(task.run_folder)
    with telling_failures(context):
        train_classifier(
            task,
            steps_per_epoch=plan.steps_per_epoch,
            labels=read_labels(shards),
            num_classes=len(shards.manifest.classes),
            batches=worker_batches(settings, context, plan, start),
            context=context,
            score=Scorer(settings, context.device, context.rank, context.world_size),
            resume=resume,
        )
