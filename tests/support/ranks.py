"""Several ranks of a process group, each in a process of its own."""

import multiprocessing
import queue
import socket
from datetime import timedelta

import torch

TIMEOUT = 120  # seconds


def run_ranks(world_size, function, *arguments):
    """Call `function(*arguments, rank, world_size)` on the ranks of a process group; return their results in order.

    Raises RuntimeError as soon as a rank has died or raised an exception, which it prints.
    """
    processes, results = _start_ranks(world_size, function, arguments)
    found = {}
    while len(found) < world_size:
        try:
            found.update([results.get(timeout=0.5)])
        except queue.Empty:
            codes = [process.exitcode for process in processes]
            if any(codes):
                for process in processes:
                    process.kill()
                raise RuntimeError(f"exit codes of the ranks: {codes}") from None
    for process in processes:
        process.join()
    return [found[rank] for rank in range(world_size)]


def exit_codes_of_ranks(world_size, function, *arguments):
    """Do the same with ranks that may die or raise exceptions; return the exit codes of their processes in order.

    The code of a rank that has not ended in two minutes is None; it is killed.
    """
    processes, _ = _start_ranks(world_size, function, arguments)
    for process in processes:
        process.join(TIMEOUT)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
        process.join()
    return codes


def _start_ranks(world_size, function, arguments):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [
        context.Process(target=_run_rank, args=(function, rank, world_size, port, results, arguments), daemon=True)
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    return processes, results


def _run_rank(function, rank, world_size, port, results, arguments):
    torch.set_num_threads(1)
    address, timeout = f"tcp://127.0.0.1:{port}", timedelta(seconds=TIMEOUT)
    torch.distributed.init_process_group("gloo", address, timeout, rank=rank, world_size=world_size)
    results.put((rank, function(*arguments, rank, world_size)))
    torch.distributed.destroy_process_group()
