"""Mutation testing with mutmut: change the code in small ways, and count the changes that the tests of its file notice.

The files are mutated in temporary copies of the project, so the checkout does not change. The exit code is 1 if the
tests notice less than `REQUIRED_SCORE` of the mutants that equivalent.toml does not list.
"""

import argparse
import ast
import contextlib
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mutmut.__main__ import create_mutants_for_file
from mutmut.configuration import reset_config
from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.stats import status_by_exit_code
from mutmut.utils.format_utils import orig_function_and_class_names_from_key

ROOT = Path(__file__).parents[2]
COPIED = ("common", "labeler", "trainer", "tests", "pyproject.toml")
REQUIRED_SCORE = 0.9
TESTS = {  # patterns of test files, in the folder tests, by the file that they test
    "common/gaze.py": "common/test_gaze*.py",
    "common/saliency.py": "common/test_saliency*.py",
    "common/storage/files.py": "common/storage/test_files.py common/storage/test_[di]*.py",
    "common/storage/local.py": "common/storage/test_[do]*.py common/storage/test_s[tw]*.py",
    "common/storage/s3.py": "common/storage/test_[so]*.py",
    "labeler/labeling/resize.py": "labeler/labeling/test_resize.py",
    "labeler/labeling/shard.py": "labeler/labeling/test_shard.py labeler/labeling/test_gpu_backend.py",
    "labeler/publishing/publish.py": "labeler/publishing/test_publish.py",
    "trainer/data/sampler.py": "trainer/data/test_sampler.py",
    "trainer/evaluate/images/corruptions.py": "trainer/evaluate/images/test_corruptions.py",
    "trainer/evaluate/probes.py": "trainer/evaluate/test_probes.py",
    "trainer/losses.py": "trainer/test_losses.py",
    "trainer/model/attention.py": "trainer/model/test_attention.py",
    "trainer/evaluate/offline_probe.py": "trainer/evaluate/test_offline_probe.py",
    "trainer/optim.py": "trainer/test_optim.py",
}
COLUMNS = ("mutants", "killed", "timeout", "survived", "score")


class Mutant(NamedTuple):
    """One change of a file. The first four fields identify it, whatever else changes in the file."""

    file: str
    function: str
    before: str
    after: str
    line: int
    name: str

    @property
    def key(self) -> tuple[str, ...]:
        return self[:4]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sample", type=int, default=300, help="number of mutants, 0 for all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the sample (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="tests running at a time (default: %(default)s)")
    parser.add_argument("--only", default="", help="restrict the run to files whose path contains this text")
    parser.add_argument("--output", type=Path, default=ROOT / "runs/mutants.json", help="results (%(default)s)")
    settings = parser.parse_args()
    missing = [p for patterns in TESTS.values() for p in patterns.split() if not any((ROOT / "tests").glob(p))]
    if missing:
        raise SystemExit(f"no test file matches {', '.join(missing)}: correct the table TESTS")

    equivalent = tomllib.loads(Path(__file__).with_name("equivalent.toml").read_text())["equivalent"]
    excluded = {tuple(entry[field] for field in Mutant._fields[:4]) for entry in equivalent}
    with tempfile.TemporaryDirectory() as temporary:
        folders = {file: Path(temporary, file.replace("/", "-")) for file in TESTS if settings.only in file}
        mutants = [mutant for file, folder in folders.items() for mutant in make_mutants(folder, file)]
        outdated = {key for key in excluded if key[0] in folders} - {mutant.key for mutant in mutants}
        candidates = [mutant for mutant in mutants if mutant.key not in excluded]
        sample = draw_sample(candidates, settings.sample or len(candidates), settings.seed)
        print(f"testing {len(sample)} of {len(candidates)} mutants; {len(mutants) - len(candidates)} are equivalent")
        results = {}
        for file, folder in folders.items():
            chosen = [mutant for mutant in sample if mutant.file == file]
            results |= run_tests(folder, chosen, settings.processes) if chosen else {}
    for key in sorted(outdated):
        print(f"equivalent.toml lists a mutant that does not exist: {key}")
    score = report(results, settings.output)
    return 1 if outdated or score < REQUIRED_SCORE else 0


def make_mutants(folder: Path, file: str) -> list[Mutant]:
    """Copy the project to a folder and make all mutants of a file there, except those of the texts of messages."""
    for name in COPIED:
        copy = shutil.copy if (ROOT / name).is_file() else shutil.copytree
        folder.mkdir(exist_ok=True)
        copy(ROOT / name, folder / name)
    source = adapt(Path(ROOT, file).read_text())
    Path(folder, file).write_text(source)
    paths = [path for pattern in TESTS[file].split() for path in (ROOT / "tests").glob(pattern)]
    tests = sorted(str(path.relative_to(ROOT)) for path in paths)
    selection = f"[tool.mutmut]\nonly_mutate = {[file]}\npytest_add_cli_args_test_selection = {tests}"
    settings = Path(folder, "pyproject.toml")
    settings.write_text(settings.read_text().replace("[tool.mutmut]", selection))
    with contextlib.chdir(folder):
        reset_config()
        Path("mutants", file).parent.mkdir(parents=True)
        create_mutants_for_file(Path(file), Path("mutants", file))
        functions = find_functions(source)
        mutants = [describe_mutant(file, functions, name) for name in read_statuses(folder, file)]
    return [mutant for mutant in mutants if hide_messages(mutant.before) != hide_messages(mutant.after)]


def adapt(source: str) -> str:
    """Change code that mutmut skips or breaks to equivalent code. Line numbers do not change.

    Decorated functions are skipped: `@decorator` becomes `function = decorator(function)`, in the empty line below the
    function. Each method is repeated for each of its mutants, so below a method called `list`, annotations must not be
    evaluated.
    """
    module = ast.parse(source)
    lines = [*source.splitlines(), ""]
    lines[module.body[0].end_lineno - 1] += "; from __future__ import annotations"
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef) and node.decorator_list:
            [decorator] = node.decorator_list
            lines[decorator.lineno - 1] = ""
            lines[node.end_lineno] = f"{' ' * node.col_offset}{node.name} = {ast.unparse(decorator)}({node.name})"
    return "\n".join(lines) + "\n"


def find_functions(source: str) -> dict[str, int]:
    """Return the lines of functions and methods by their qualified name."""
    scopes = [(node, f"{node.name}.") for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    scopes.append((ast.parse(source), ""))
    return {
        prefix + node.name: node.lineno
        for scope, prefix in scopes
        for node in scope.body
        if isinstance(node, ast.FunctionDef)
    }


def describe_mutant(file: str, functions: dict[str, int], name: str) -> Mutant:
    diff = get_diff_for_mutant(name, path=file).splitlines()[2:]
    header = re.match(r"@@ -(\d+)", diff[0])
    assert header, "a diff begins with the line in the function"
    first_changed = next(number for number, line in enumerate(diff) if line.startswith("-"))
    before, after = (" ".join(line[1:].strip() for line in diff if line.startswith(sign)) for sign in "-+")
    function, owner = orig_function_and_class_names_from_key(name)
    qualified = f"{owner}.{function}" if owner else function
    line = functions[qualified] + int(header[1]) + first_changed - 2
    return Mutant(file, qualified, before, after, line, name)


def hide_messages(code: str) -> str:
    """Empty the strings that hold several words."""
    return re.sub(r'"[^"]*"', lambda match: '""' if " " in match[0] else match[0], code)


def draw_sample(mutants: Sequence[Mutant], size: int, seed: int) -> list[Mutant]:
    """Draw mutants at random. A changed file only changes the part of the sample that comes from its changed lines."""
    return sorted(mutants, key=lambda mutant: hashlib.sha256(f"{seed} {mutant.key}".encode()).digest())[:size]


def run_tests(folder: Path, mutants: Sequence[Mutant], processes: int) -> dict[Mutant, str]:
    """Run the tests of a file on each of its mutants. Returns killed, timeout or survived for each."""
    file = mutants[0].file
    print(f"{file}: {len(mutants)} mutants ...", flush=True)
    command = [Path(sys.executable).with_name("mutmut"), "run", "--max-children", str(processes)]
    with Path(folder, "log").open("w") as log:
        names = [mutant.name for mutant in mutants]
        finished = subprocess.run([*command, *names], cwd=folder, stdout=log, stderr=log, check=False)
    statuses = read_statuses(folder, file)
    if finished.returncode or None in statuses.values():
        raise SystemExit(f"mutmut failed for {file}: {Path(folder, 'log').read_text()[-3000:]}")
    summary = {"survived": "survived", "no tests": "survived", "timeout": "timeout"}
    return {mutant: summary.get(statuses[mutant.name], "killed") for mutant in mutants}


def read_statuses(folder: Path, file: str) -> dict[str, str]:
    with contextlib.chdir(folder):
        data = SourceFileMutationData(path=file)
        data.load()
    return {name: status_by_exit_code[code] for name, code in data.exit_code_by_key.items()}


def report(results: dict[Mutant, str], output: Path) -> float:
    """Print and write the results. Returns the fraction of mutants that the tests noticed."""
    files = sorted({mutant.file for mutant in results})
    rows = {file: count([status for mutant, status in results.items() if mutant.file == file]) for file in files}
    rows["all"] = count(list(results.values()))
    survivors = [mutant for mutant, status in results.items() if status == "survived"]
    for mutant in sorted(survivors, key=lambda mutant: (mutant.file, mutant.line)):
        print(f"\n{mutant.file}:{mutant.line} {mutant.function}\n- {mutant.before}\n+ {mutant.after}")
    print(f"\n| file | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 1)}")
    for name, row in rows.items():
        print(f"| {name} | {' | '.join(str(row[column]) for column in COLUMNS)} |")
    output.parent.mkdir(parents=True, exist_ok=True)
    mutants = [{**mutant._asdict(), "status": status} for mutant, status in results.items()]
    output.write_text(json.dumps({"files": rows, "mutants": mutants}, indent=1))
    return rows["all"]["score"]


def count(statuses: Sequence[str]) -> dict[str, float]:
    numbers = Counter(statuses)
    score = round(1 - numbers["survived"] / len(statuses), 3)
    return {"mutants": len(statuses), **{name: numbers[name] for name in COLUMNS[1:-1]}, "score": score}


if __name__ == "__main__":
    sys.exit(main())
