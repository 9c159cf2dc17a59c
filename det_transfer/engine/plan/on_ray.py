"""The runs of a plan on the machines of a Ray cluster: ``pip install det_transfer[ray]``.

The cluster's machines need the same paths: the plan's folder, the data and this checkout lie on a
shared file system. Ray decides which machine has room; which runs are open, and what became of
them, is seen from the folders as ever.
"""

import os
import socket
from concurrent.futures import Future
from pathlib import Path

from ...errors import UserError
from .runner import Outcome, execute
from .spec import PlannedRun

__all__ = ["RaySlots"]


class RaySlots:
    """One run at a time on each machine without GPUs, or one a GPU.

    Args:
        address: of a running cluster, "auto" or "host:port"

    Raises:
        UserError: Ray is not installed, or there is no cluster at the address
    """

    def __init__(self, address: str):
        try:
            import ray
        except ImportError:
            raise UserError("--ray needs Ray: pip install 'det_transfer[ray]'") from None
        self._ray = ray
        if not ray.is_initialized():
            _check_reachable(address)
            try:
                ray.init(address, log_to_driver=False, logging_level="warning")
            except (ConnectionError, ValueError, RuntimeError) as error:
                first = str(error).splitlines()[0]
                raise UserError(f"--ray {address}: no cluster there: {first}") from error
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = int(sum(resources.get("GPU", 0) for resources in machines))
        self.count = gpus or len(machines)
        # All CPUs of the smallest machine: two trainings on one would only slow each other.
        cpus = min(resources.get("CPU", 1) for resources in machines)
        self._needs = {"num_gpus": 1} if gpus else {"num_cpus": cpus}

    def submit(self, run: PlannedRun, command: list[str]) -> Future[Outcome]:
        # A run is resumed by the plan, with --resume; Ray must not start it a second time itself.
        task = self._ray.remote(**self._needs, max_retries=0)(_work)
        console = str((run.folder / "console.txt").resolve())
        return _future(task.remote(command, console, os.getcwd()))


def _check_reachable(address: str) -> None:
    """Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():  # "auto", "local"
        return
    try:
        socket.create_connection((host, int(port)), timeout=5.0).close()
    except OSError as error:
        raise UserError(f"--ray {address}: no cluster there: {error}") from error


def _work(command: list[str], console: str, folder: str) -> Outcome:
    """On a machine of the cluster. Ray sets CUDA_VISIBLE_DEVICES there."""
    os.chdir(folder)
    return execute(command, Path(console), {})


def _future(reference) -> Future[Outcome]:
    """Ray's own future; a machine that is lost is a failed run."""
    result: Future[Outcome] = Future()

    def done(answer: Future) -> None:
        error = answer.exception()
        if error is None:
            result.set_result(answer.result())
        else:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            result.set_result(Outcome(1, lines[0]))

    reference.future().add_done_callback(done)
    return result
