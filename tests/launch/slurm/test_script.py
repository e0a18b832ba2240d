"""launch/slurm/: scripts that a shell reads as they are meant, whatever a run is called."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from data_pipelines.base.errors import ConfigError
from data_pipelines.settings.compose import compose
from launch.slurm.environment import rank_environment
from launch.slurm.options import directive, job_options
from launch.slurm.queue import seconds
from launch.slurm.script import Places, array_script, batch_script
from launch.slurm.snapshot import PARTS, contents, snapshot_name, write_snapshot
from tests import golden
from train.config.check import check

ROOT = Path(__file__).parents[3]
SCRIPTS = [
    *(golden.script_file(name).relative_to(ROOT) for name in golden.SCRIPTS),
    *(Path("launch", name) for name in ("slurm/job.sh", "environment.sh", "torchrun.sh", "train.sbatch")),
]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_bash_and_shellcheck_accept_every_script(script: Path) -> None:
    subprocess.run(["bash", "-n", script], cwd=ROOT, check=True)
    if shutil.which("shellcheck") is None:
        pytest.skip("no shellcheck here: apt-get install shellcheck")
    command = ["shellcheck", "--shell=bash", "--severity=warning", "--external-sources", f"--source-path={ROOT}"]
    done = subprocess.run([*command, script], cwd=ROOT, capture_output=True, text=True)
    assert not done.returncode, done.stdout


def test_names_that_mean_something_to_a_shell_are_words(tmp_path: Path) -> None:
    """The script is run, with functions of its own instead of those of job.sh."""
    name = 'it\'s $HOME #1 %j "quoted"'
    run = check(compose(["experiment=smoke", "cluster=cpu_2nodes", f"run.name={golden_text(name)}"]))
    assert run.cluster is not None
    run_dir = tmp_path / name
    job = run_dir / "code/launch/slurm/job.sh"
    job.parent.mkdir(parents=True)
    job.write_text('start() { printf "%s\\n" "${@: -1}" "$RUN_DIR"; }\nfinish() { :; }\n')
    places = Places(run_dir=run_dir, code=run_dir / "code", workdir=tmp_path, venv=tmp_path)
    options = job_options(run, run.cluster, log=places.log)
    script = batch_script(
        run, run.cluster, options=options, overrides=[f"x={name}"], command=f"submit {name}\nrm", places=places
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"x={name}", str(run_dir)]
    assert f"{name.replace('%', '%%')}/slurm/%j.log".replace('"', '\\"') in options_line(script, "output")


def golden_text(name: str) -> str:
    from data_pipelines.base.command import quoted

    return quoted(name).replace("$", "\\$") if "${" in name else quoted(name)


def options_line(script: str, option: str) -> str:
    return next(line for line in script.splitlines() if line.startswith(f"#SBATCH --{option}="))


def test_a_directive_is_quoted_where_sbatch_would_split_it() -> None:
    assert directive("time", "1-0") == "#SBATCH --time=1-0"
    assert directive("requeue", "") == "#SBATCH --requeue"
    assert directive("job-name", 'a "b" #c') == '#SBATCH --job-name="a \\"b\\" #c"'


def test_an_array_starts_the_script_of_its_task(tmp_path: Path) -> None:
    folders = [tmp_path / "a b", tmp_path / "c"]
    for folder in folders:
        folder.mkdir()
        (folder / "job.sbatch").write_text("echo this is $0\n")
    script = array_script({"nodes": "2", "job-name": "a", "output": "x"}, folders)
    assert "#SBATCH --array=0-1\n" in script
    environment = {"SLURM_ARRAY_TASK_ID": "0", "SLURM_JOB_ID": "9", "PATH": "/bin:/usr/bin"}
    subprocess.run(["bash", "-c", script], env=environment, check=True)
    assert (folders[0] / "9.log").read_text() == f"this is {folders[0]}/job.sbatch\n"


@pytest.mark.parametrize(
    ("time", "expected"),
    [("30", 1800), ("1:30", 90), ("2:00:00", 7200), ("1-0", 86400), ("1-2:30", 95400), ("infinite", float("inf"))],
)
def test_a_time_is_read_as_slurm_does(time: str, expected: float) -> None:
    assert seconds(time) == expected


# Ranks


def test_a_task_of_srun_becomes_a_rank() -> None:
    task = {"SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "4"}
    script = {"SLURM_NODEID": "1", "MASTER_ADDR": "gpu1", "MASTER_PORT": "29400", "RUN_DIR": "/run"}
    assert rank_environment(task | script) == {
        "RANK": "5",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "8",
        "LOCAL_WORLD_SIZE": "4",
        "GROUP_RANK": "1",
    }


def test_a_task_without_a_head_node_is_refused_and_not_sent_to_localhost() -> None:
    with pytest.raises(
        ConfigError, match=r"MASTER_ADDR, MASTER_PORT, RUN_DIR: not set; launch.rank is started by srun"
    ):
        rank_environment(dict.fromkeys(["SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"], "0") | _sizes())


def _sizes() -> dict[str, str]:
    return {"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2"}


# Snapshots


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    for part in PARTS:
        path = root / part if "." in part else root / part / "a.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {part}\n")
    return root


def git(root: Path, *arguments: str) -> None:
    who = ["-c", "user.name=me", "-c", "user.email=me@localhost"]
    subprocess.run(["git", "-C", str(root), *who, *arguments], check=True, capture_output=True)


def test_a_snapshot_holds_what_is_there_committed_or_not_and_nothing_that_is_ignored(project: Path) -> None:
    (project / ".gitignore").write_text("*.log\n")
    git(project, "init")
    git(project, "add", ".")
    git(project, "commit", "-m", "first")
    (project / "train/a.py").write_text("changed = True\n")
    (project / "train/new.py").write_text("new = True\n")
    (project / "train/a.log").write_text("ignored\n")
    (project / "launch/a.py").unlink()
    files = contents(root=project)
    folder = project / "runs/x/code" / snapshot_name(files)
    write_snapshot(files, folder, root=project)
    assert (folder / "train/a.py").read_text() == "changed = True\n"
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == {
        *("configs/a.py", "data_pipelines/a.py", "train/a.py", "train/new.py", "pyproject.toml", "version.json")
    }
    assert '"train/new.py"' in (folder / "version.json").read_text()
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_the_same_code_is_kept_once_and_another_beside_it(project: Path) -> None:
    before = snapshot_name(contents(root=project))
    assert snapshot_name(contents(root=project)) == before
    (project / "train/a.py").write_text("changed = True\n")
    assert snapshot_name(contents(root=project)) != before


def test_options_of_a_persons_own_belong_to_it(project: Path, own_experiment: Path) -> None:
    assert "own/experiment/mine.yaml" in contents(own_experiment, root=project)


def test_an_installation_without_configs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no configs, data_pipelines.*; submit from a checkout"):
        contents(root=tmp_path)
