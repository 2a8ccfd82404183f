"""What lies where a run is to write: whose plan counts there, and what goes before it begins or goes on.

Results are withdrawn before the parts that they are made of, so that a ``run.json`` always stands beside its own rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from glomedge.cases.text import counted
from glomedge.cluster.plan import AGAIN_FILE, PLAN_FILE, PREDICTIONS, RESULTS, Plan, differences
from glomedge.cluster.store import Store
from glomedge.errors import OutputError
from glomedge.results.folder import WORK_FOLDER


def agreed(
    store: Store, own: Plan, inputs: Callable[[], bytes], *, resume: bool, overwrite: bool
) -> tuple[Plan, list[str]]:
    """The plan of the run that is resumed, or this run's own, written; and what the user should know.

    Two drivers may start at once, and object storage has no locks: there can be one plan only, and whoever is second
    follows it or ends.

    Args:
        own: of this run.
        inputs: makes the list of inputs of ``own``.
        resume: go on with the run that is there.
        overwrite: discard it.

    Raises:
        OutputError: another run is there, or files of others are.
    """
    there_now = {*store.names(""), *([PREDICTIONS] if store.names(PREDICTIONS) else [])}
    # Read after the list was made: whoever writes results has written a plan before.
    data = store.read(PLAN_FILE)
    if data is not None and not overwrite:
        return _resumed(store, data, own.identity, resume=resume)
    if not overwrite and (names := [name for name in (*RESULTS, PREDICTIONS) if name in there_now]):
        raise OutputError(
            f"{store.where} holds {', '.join(names)}, and no plan that says that glomedge infer-ray wrote "
            f"{'it' if len(names) == 1 else 'them'}. Choose another --output, or replace what is there with "
            "--overwrite."
        )
    if overwrite:
        _start_over(store)
    store.write(own.inputs_file, inputs())
    if not store.create(PLAN_FILE, own.as_json()):
        data = store.read(PLAN_FILE)
        # Where it is the same, another driver has begun the same run, or a retry found what it had written itself.
        if data != own.as_json():
            store.remove(own.inputs_file)
            if data is None or overwrite:
                raise OutputError(
                    f"Another run began in {store.where} at the same time. Wait for it to end, or choose another "
                    "--output."
                )
            return _resumed(store, data, own.identity, resume=resume)
    return own, ["There was no run to resume; a new run was started."] if resume else []


def _resumed(store: Store, data: bytes, identity: Mapping[str, Any], *, resume: bool) -> tuple[Plan, list[str]]:
    there = Plan.read(data)
    if there is None:
        raise OutputError(
            f"{store.where}/{PLAN_FILE} is damaged or of another version of glomedge. Choose another --output, or "
            "start over with --overwrite."
        )
    if not resume:
        done = len(there.done(store))
        raise OutputError(
            f"{store.where} contains a run with {done} of {counted(there.parts, 'part')} answered. Run again with "
            "--resume to continue it, or with --overwrite to start over."
        )
    if other := differences(there.identity, identity):
        raise OutputError(
            f"The run in {store.where} cannot be resumed with other settings: {'; '.join(other)}. Use the same "
            "settings, another --output, or start over with --overwrite."
        )
    again = forget_again(store, there)
    return there, [f"Parts with errors of the storage were answered again: {again}."] if again else []


def _start_over(store: Store) -> None:
    """Remove the run that is there. Without its plan, its workers end before they write (``Plan.require_current``)."""
    withdraw(store)
    store.remove(PLAN_FILE)
    store.remove(AGAIN_FILE)
    for folder in (PREDICTIONS, f"{WORK_FOLDER}/pictures", f"{WORK_FOLDER}/stamps"):
        for name in store.names(folder):
            if name.endswith(".parquet"):
                store.remove(f"{folder}/{name}")


def withdraw(store: Store) -> None:
    """Remove what was made of the parts, the record first: without it nothing there counts as finished."""
    for name in RESULTS:
        store.remove(name)


def drop(store: Store, plan: Plan, parts: Iterable[int]) -> None:
    """Remove parts, to be answered once more, and before them what was made of them."""
    for number, part in enumerate(parts):
        if not number:
            withdraw(store)
        store.remove(plan.part_file(part))


def note_again(store: Store, plan: Plan, parts: list[int]) -> None:
    """Leave for ``--resume`` which parts have errors that may pass."""
    store.write(AGAIN_FILE, json.dumps({"run": plan.run_id, "parts": parts}).encode())


def forget_again(store: Store, plan: Plan) -> int:
    """Remove the parts that the last publication noted, to be answered once more; how many there were."""
    data = store.read(AGAIN_FILE)
    try:
        said = json.loads(data or b"{}")
        parts = [int(part) for part in said["parts"]] if said.get("run") == plan.run_id else []
    except (ValueError, KeyError, TypeError, AttributeError):
        parts = []
    drop(store, plan, (part for part in parts if 0 <= part < plan.parts))
    store.remove(AGAIN_FILE)
    return len(parts)
