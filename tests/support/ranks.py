"""Several ranks of a process group, each in a process of its own."""

import multiprocessing
import socket

import torch


def _run_rank(function, rank, world_size, port, queue, arguments):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size)
    queue.put((rank, function(*arguments, rank, world_size)))
    torch.distributed.destroy_process_group()


def run_two_ranks(function, *arguments):
    """Call `function(*arguments, rank, world_size)` on two ranks of a process group; return their results in order."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    ranks = [context.Process(target=_run_rank, args=(function, rank, 2, port, queue, arguments)) for rank in range(2)]
    for process in ranks:
        process.start()
    results = dict(queue.get(timeout=120) for _ in ranks)
    for process in ranks:
        process.join()
    return [results[rank] for rank in range(2)]
