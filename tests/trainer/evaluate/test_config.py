import subprocess
import sys

import pytest

from common.errors import UserError
from common.settings import load_settings
from tests.support.jobs import ROOT
from trainer.evaluate.config import EvaluateSettings


def test_help_imports_neither_torch_nor_ray():
    program = (
        "import sys\nfrom common.settings import load_settings\nfrom trainer.evaluate.config import EvaluateSettings\n"
        "try:\n    load_settings(EvaluateSettings, ['--help'])\n"
        "except SystemExit as end:\n    sys.exit(end.code or ('torch' in sys.modules or 'ray' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    flags = "suite train val imagenet-c cifar cifar-c queries human-data compare image-size seed output backbone"
    assert all(f"--{flag} " in done.stdout for flag in flags.split())


def test_command_exits_with_2_on_a_mistake():
    command = [sys.executable, "-m", "trainer.evaluate", "x", "--suite", "linear"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "error: --suite linear needs --val\n")


def test_mistake_in_a_list_names_its_flag():
    with pytest.raises(UserError, match=r"^--severities: .* less than or equal to 5, found 9$"):
        load_settings(EvaluateSettings, ["checkpoint", "--severities=1,9"])
