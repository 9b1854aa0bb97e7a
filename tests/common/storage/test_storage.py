import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from common.errors import UserError
from common.storage import LocalStorage, open_storage
from common.storage.local import PARTIAL

REPOSITORY = Path(__file__).parents[3]
WRITER = """
import sys
from pathlib import Path
from common.storage import LocalStorage

with LocalStorage(Path(sys.argv[1])).scratch() as file:
    file.write(b"half a shard")
    file.flush()
    print("writing", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "data")


@contextlib.contextmanager
def live_writer(storage: LocalStorage) -> Iterator[subprocess.Popen[str]]:
    """Start another process that stays in the middle of writing a file until its standard input is closed."""
    command = [sys.executable, "-c", WRITER, str(storage.root)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        try:
            yield process
        finally:
            process.kill()


def partial_files(storage: LocalStorage) -> list[Path]:
    folder = storage.root / PARTIAL
    return sorted(folder.iterdir()) if folder.is_dir() else []


def visible_files(storage: LocalStorage) -> list[str]:
    paths = storage.root.rglob("*")
    return sorted(str(path.relative_to(storage.root)) for path in paths if path.is_file() and PARTIAL not in path.parts)


def write_half(storage: LocalStorage) -> None:
    with storage.scratch() as file:
        file.write(b"half")
        raise RuntimeError


def put_own_number(arguments: tuple[Path, str, int]) -> bool:
    root, name, number = arguments
    return LocalStorage(root).put(name, b"%d" % number * 10_000)


def test_put_content_is_read_back(storage: LocalStorage) -> None:
    assert storage.put("plan.json", b"content")
    assert storage.read("plan.json") == b"content"
    assert storage.exists("plan.json")
    with storage.open("plan.json") as file:
        file.seek(3)
        assert file.read() == b"tent"


def test_put_creates_folders(storage: LocalStorage) -> None:
    assert storage.put("records/deep/x.json", b"1")
    assert storage.list("records/deep") == ["records/deep/x.json"]


def test_put_does_not_overwrite(storage: LocalStorage) -> None:
    storage.put("x", b"first")
    assert not storage.put("x", b"second")
    assert storage.read("x") == b"first"


def test_put_file_stores_scratch_file_once(storage: LocalStorage) -> None:
    for expected in (True, False):
        with storage.scratch() as file:
            file.write(b"shard")
            assert storage.put_file("train-000000.tar", file) is expected
    assert storage.read("train-000000.tar") == b"shard"


def test_put_file_flushes_buffered_content(storage: LocalStorage) -> None:
    with storage.scratch() as file:
        file.write(b"little enough to stay in a buffer")
        storage.put_file("x", file)
        assert storage.read("x") == b"little enough to stay in a buffer"


def test_writes_leave_no_unfinished_files(storage: LocalStorage) -> None:
    storage.put("x", b"1")
    storage.put("x", b"2")
    storage.replace("x", b"3")
    storage.check_writable()
    assert partial_files(storage) == []


def test_exception_while_writing_leaves_no_files(storage: LocalStorage) -> None:
    with pytest.raises(RuntimeError):
        write_half(storage)
    assert partial_files(storage) == []
    assert visible_files(storage) == []


def test_absent_object_is_not_found(storage: LocalStorage) -> None:
    assert not storage.exists("x")
    for read in (storage.read, storage.open):
        with pytest.raises(FileNotFoundError):
            read("x")


def test_list_returns_sorted_names_of_one_folder(storage: LocalStorage) -> None:
    for name in ("b", "a", "records/2.json", "records/1.json", "records/deeper/x"):
        storage.put(name, b"1")
    assert storage.list() == ["a", "b"]
    assert storage.list("records") == ["records/1.json", "records/2.json"]
    assert storage.list("absent") == []


def test_replace_creates_and_overwrites(storage: LocalStorage) -> None:
    for content in (b"first, long", b"second"):
        storage.replace("records/x", content)
        assert storage.read("records/x") == content


def test_read_range_reads_up_to_the_end(storage: LocalStorage) -> None:
    storage.put("x", bytes(range(100)))
    assert storage.read_range("x", 10, 5) == bytes(range(10, 15))
    assert storage.read_range("x", 98, 5) == bytes([98, 99])


def test_one_of_many_threads_that_swap_a_name_succeeds(storage: LocalStorage) -> None:
    storage.put("manifest.json", b"0")
    with ThreadPoolExecutor(8) as pool:
        swapped = list(pool.map(lambda number: storage.swap("manifest.json", b"0", b"%d" % number), range(1, 33)))
    assert swapped.count(True) == 1
    assert storage.read("manifest.json") == b"%d" % (swapped.index(True) + 1)


def test_no_descriptors_stay_open(storage: LocalStorage) -> None:
    storage.put("x", b"1")
    before = sorted(os.listdir("/dev/fd"))
    storage.put("y", b"1")
    storage.replace("x", b"2")
    storage.swap("x", b"2", b"3")
    storage.check_writable()
    storage.sweep()
    assert sorted(os.listdir("/dev/fd")) == before


def test_location_is_the_folder_and_size_is_not_limited(storage: LocalStorage) -> None:
    assert storage.location == str(storage.root)
    assert storage.largest_object == sys.maxsize


def test_open_file_has_old_content_after_replace(storage: LocalStorage) -> None:
    storage.put("x", b"old")
    with storage.open("x") as file:
        storage.replace("x", b"new")
        assert file.read() == b"old"
    assert storage.read("x") == b"new"


def test_readers_see_old_or_new_content_during_replace(storage: LocalStorage) -> None:
    versions = {bytes([65 + version]) * 1000 for version in range(20)}
    storage.put("x", min(versions))
    done = threading.Event()

    def replace() -> None:
        for version in sorted(versions):
            storage.replace("x", version)
        done.set()

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(replace)
        while not done.is_set():
            assert storage.read("x") in versions
        writing.result()


def test_one_of_many_threads_that_put_a_name_succeeds(storage: LocalStorage) -> None:
    for name in range(5):
        with ThreadPoolExecutor(8) as pool:
            jobs = [(storage.root, str(name), number) for number in range(8)]
            won = list(pool.map(put_own_number, jobs))
        assert won.count(True) == 1
        assert storage.read(str(name)) == b"%d" % won.index(True) * 10_000
    assert partial_files(storage) == []


def test_one_of_many_processes_that_put_a_name_succeeds(storage: LocalStorage) -> None:
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = [(storage.root, str(name), number) for name in range(20) for number in range(4)]
        results = list(pool.map(put_own_number, jobs))
    for name in range(20):
        won = results[4 * name : 4 * name + 4]
        assert won.count(True) == 1
        assert storage.read(str(name)) == b"%d" % won.index(True) * 10_000


def test_sweep_removes_unfinished_file_of_killed_writer(storage: LocalStorage) -> None:
    with live_writer(storage) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert visible_files(storage) == []
    assert len(partial_files(storage)) == 1
    storage.sweep()
    assert partial_files(storage) == []
    assert storage.put("x", b"works after a sweep")


def test_sweep_ignores_live_writer_in_another_process(storage: LocalStorage) -> None:
    with live_writer(storage) as process:
        [path] = partial_files(storage)
        storage.sweep()
        assert partial_files(storage) == [path]
        process.communicate("")
        assert process.returncode == 0
    assert partial_files(storage) == []


def test_sweep_ignores_live_writer_in_same_process(storage: LocalStorage) -> None:
    with storage.scratch() as file:
        file.write(b"shard")
        storage.sweep()
        assert storage.put_file("x", file)
    assert storage.read("x") == b"shard"


def test_sweep_removes_only_files_of_dead_writers(storage: LocalStorage) -> None:
    with live_writer(storage) as process:
        process.kill()
        process.wait()
    with storage.scratch() as file:
        storage.sweep()
        assert partial_files(storage) == [Path(file.name)]


def test_sweep_ignores_finished_files(storage: LocalStorage) -> None:
    storage.put("x", b"1")
    storage.put("records/y", b"2")
    storage.sweep()
    assert visible_files(storage) == ["records/y", "x"]


def test_sweep_of_absent_folder_does_nothing(storage: LocalStorage) -> None:
    storage.sweep()
    assert not storage.root.exists()


def test_writers_succeed_during_continuous_sweeps(storage: LocalStorage) -> None:
    done = threading.Event()

    def sweep() -> None:
        while not done.is_set():
            storage.sweep()

    with ThreadPoolExecutor(5) as pool:
        sweeping = pool.submit(sweep)
        jobs = [pool.submit(storage.put, f"{number}", b"x") for number in range(200)]
        assert all(job.result() for job in jobs)
        done.set()
        sweeping.result()
    assert len(storage.list()) == 200


def test_check_writable_creates_folder_and_leaves_it_empty(storage: LocalStorage) -> None:
    storage.check_writable()
    storage.sweep()
    assert list(storage.root.iterdir()) == []


@pytest.mark.parametrize("below", ["", "below", "below/deeper"])
def test_file_instead_of_folder_is_a_user_error(below: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write to .*file.*: (Not a directory|File exists); expected"):
        LocalStorage(tmp_path / "file" / below).check_writable()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux's /proc")
def test_folder_that_cannot_be_created_is_a_user_error() -> None:
    with pytest.raises(UserError, match="cannot write to /proc/imagenet-attn"):
        LocalStorage(Path("/proc/imagenet-attn")).check_writable()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_write_permission_is_a_user_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(UserError, match="Permission denied"):
        LocalStorage(tmp_path).check_writable()


def test_dangling_link_instead_of_folder_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to("absent")
    with pytest.raises(UserError, match="cannot write to"):
        LocalStorage(tmp_path / "data").check_writable()


def test_free_bytes_is_free_space_of_file_system(storage: LocalStorage) -> None:
    storage.check_writable()
    free = os.statvfs(storage.root)
    assert storage.free_bytes() == pytest.approx(free.f_bavail * free.f_frsize, rel=0.1)


def test_unsupported_url_is_a_user_error() -> None:
    with pytest.raises(UserError, match="https://host/x: expected a local folder or s3://"):
        open_storage("https://host/x")


def test_open_storage_of_a_path_is_a_local_folder(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "data"))
    assert storage.put("x", b"1")
    assert (tmp_path / "data" / "x").read_bytes() == b"1"


def test_replaced_file_has_its_new_content_and_leaves_nothing_behind(storage: LocalStorage) -> None:
    for content in (b"first", b"second"):
        with storage.scratch() as file:
            file.write(content)
            storage.replace_file("folder/name", file)
        assert storage.read("folder/name") == content
    assert visible_files(storage) == ["folder/name"]
    assert partial_files(storage) == []


def test_sizes_of_the_files_at_the_top_are_listed(storage: LocalStorage) -> None:
    assert storage.list_sizes() == {}
    for name, size in {"a": 0, "b.tar": 700, "folder/c": 5}.items():
        storage.put(name, bytes(size))
    assert storage.list_sizes() == {"a": 0, "b.tar": 700}
