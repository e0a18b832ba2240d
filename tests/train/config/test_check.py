"""train/config/: what is wrong with a configuration is said at once, by path."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from data_pipelines.base.errors import ConfigError
from data_pipelines.settings.compose import compose
from train.afmoe.config import ModelConfig
from train.config.binding import is_bound
from train.config.check import check, check_some, load_run
from train.config.rules.numbers import leaves
from train.config.run import Run


@pytest.fixture(autouse=True)
def outside_of_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


@dataclass
class OnlyModel:
    model: ModelConfig


def check_smoke(*overrides: str) -> Run:
    return check(compose(["experiment=smoke", *overrides]))


def problems_of(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as refusal:
        check_smoke(*overrides)
    return refusal.value.problems


def only_problem_of(*overrides: str) -> str:
    (problem,) = problems_of(*overrides)
    return problem


@pytest.mark.parametrize(
    ("experiment", "ranks", "steps"),
    [
        ("smoke", 4, 114),
        # 7T / 4096 = 1,708,984,375 windows = 417,233.5 steps of 4,096, so 417,234; 10T / 4096 = 2,441,406,250, of
        # which 596,046 quanta of 4,096; the 178,812 quanta that are left are 89,406 steps of 8,192
        ("trinity_nano", 512, 506_640),
        ("trinity_mini", 512, 506_640),
        ("trinity_large", 2048, 138_830),
        ("trinity_large_h200", 2048, 138_830),
        ("trinity_large_h100", 2048, 138_830),
    ],
)
def test_every_experiment_is_clean(experiment: str, ranks: int, steps: int) -> None:
    run = check(compose([f"experiment={experiment}"]))
    assert run.world_size == ranks
    assert run.timeline.num_steps == steps


def test_an_unknown_key_is_named_with_its_neighbour() -> None:
    assert only_problem_of("training.seq_lenn=128") == "training.seq_lenn: unknown key (did you mean seq_len?)"
    assert only_problem_of("balance.sped=1") == "balance.sped: unknown key (did you mean speed?)"
    assert only_problem_of("schedule.decay.flor=0") == "schedule.decay.flor: unknown key (did you mean floor?)"


def test_an_unknown_key_without_a_neighbour_lists_what_there_is() -> None:
    problem = only_problem_of("validation.zzz=1")
    assert problem == "validation.zzz: unknown key (there are: windows)"


def test_an_unknown_section_is_named_with_its_neighbour() -> None:
    assert only_problem_of("modl.dim=3") == "modl: unknown section (did you mean model?)"


def test_an_unknown_key_of_data_is_looked_up_in_the_class_of_its_kind() -> None:
    assert only_problem_of("data.vocab_sizes=512") == "data.vocab_sizes: unknown key (did you mean vocab_size?)"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["balance=sign", "balance.sharpness=3"],
            "balance.sharpness: belongs to kind=smebu or linear; with kind=sign there are: "
            "speed, sequence_loss_weight, alarm, kind",
        ),
        (["data.sources.web=1"], "data.sources: belongs to kind=files or shards; with kind=stdlib there are: mix, "),
        (
            ["balance.kind=lineer"],
            "balance.kind: got 'lineer', allowed: smebu, sign, linear, none (did you mean linear?)",
        ),
        (["~balance.kind"], "balance.kind: is required and missing; allowed: smebu, sign, linear, none"),
    ],
)
def test_what_the_kind_of_a_section_does_not_know_is_named_with_what_it_does(overrides: list[str], said: str) -> None:
    assert only_problem_of(*overrides).startswith(said)


def test_two_problems_are_both_named() -> None:
    problems = problems_of("training.seq_lenn=128", "model.top_k=99", "parallelism.tensor_parallel_degree=2")
    paths = [problem.split(":")[0] for problem in problems]
    assert paths == ["model", "training.seq_lenn", "parallelism"]
    assert "top_k=99 exceeds num_experts=16" in problems[0]


def test_a_wrong_type_is_named_with_what_was_got() -> None:
    problem = only_problem_of("model.dim=wide")
    assert problem.startswith("model.dim: ")
    assert "integer" in problem
    assert "'wide'" in problem


def test_a_wrong_choice_is_named_with_what_is_allowed() -> None:
    problem = only_problem_of("metrics.wandb=maybe")
    assert problem.startswith("metrics.wandb: ")
    assert "'offline'" in problem
    assert "'maybe'" in problem


EMPTY = "must not be empty, got ''; was a variable of the shell not set?"


@pytest.mark.parametrize(
    "override",
    ["run.name=", "run.dir=", "run.dir=' '", "data.dir=", "data.tokenizer=", "checkpoint.initial_load_path="],
)
def test_an_empty_text_is_no_setting(override: str) -> None:
    assert only_problem_of(override) == f"{override.partition('=')[0]} {EMPTY}"


def test_an_empty_pattern_does_not_mean_all_files() -> None:
    assert only_problem_of("data=files", "data.sources.web.glob=") == f"data.sources.web.glob {EMPTY}"


def test_a_run_that_an_older_version_started_with_an_empty_text_can_be_read(tmp_path: Path) -> None:
    settings = check_smoke().settings
    settings["checkpoint"]["initial_load_path"] = ""
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(settings)))
    assert load_run(tmp_path).checkpoint.initial_load_path is None


@pytest.mark.parametrize("experiment", ["trinity_large_h200", "trinity_large_h100"])
def test_a_recipe_for_other_gpus_is_the_same_run(experiment: str) -> None:
    ours, theirs = (dict(leaves(check(compose([f"experiment={e}"])).settings)) for e in ("trinity_large", experiment))
    differing = {path for path in ours | theirs if ours.get(path) != theirs.get(path)}
    assert differing
    assert not [path for path in differing if is_bound(path)]


def test_a_token_amount_is_read_as_people_write_it() -> None:
    assert check_smoke("schedule.warmup_tokens=1.5B").schedule.warmup_tokens == 1_500_000_000
    assert only_problem_of("schedule.warmup_tokens=1.5Q").startswith(
        "schedule.warmup_tokens: '1.5Q' is no token amount"
    )


@pytest.mark.parametrize(
    ("override", "conflict", "remedy"),
    [
        (
            "parallelism.expert_parallel_degree=3",
            "parallelism.expert_parallel_degree=3 does not divide model.num_experts=16",
            "choose one of [1, 2, 4, 8, 16]",
        ),
        (
            "parallelism.expert_parallel_degree=4",
            "parallelism.expert_parallel_degree=4 does not divide data_parallel_shard_degree=2, whose ranks it borrows",
            "choose one of [1, 2]",
        ),
        (
            "parallelism.data_parallel_shard_degree=6",
            "schedule.batch: 12 data-parallel ranks do not divide [32] sequences",  # 12 divides the other stage's 24
            "change the batch, or the ranks to "
            "8 (parallelism.data_parallel_replicate_degree=2 parallelism.data_parallel_shard_degree=4)",
        ),
        (
            "model.vocab_size=4096",
            "data.vocab_size=8192: the tokenizer would have ids beyond model.vocab_size=4096",
            "lower the one or raise the other",
        ),
        (
            "parallelism.data_parallel_replicate_degree=0",
            "parallelism: data_parallel_replicate_degree=0 x data_parallel_shard_degree=2 is no mesh",
            "each must be at least 1, or the shards -1, which takes the ranks that are left",
        ),
    ],
)
def test_numbers_that_do_not_fit_are_named_with_the_remedy(override: str, conflict: str, remedy: str) -> None:
    assert only_problem_of(override) == f"{conflict}; {remedy}"


@pytest.mark.parametrize(("started", "fits"), [(4, True), (1, False), (8, False)])
def test_the_mesh_needs_as_many_ranks_as_were_started(
    monkeypatch: pytest.MonkeyPatch, started: int, fits: bool
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", str(started))
    if fits:
        check_smoke()
    else:
        assert f"needs 4 ranks, but {started} were started" in only_problem_of()


def test_a_shard_degree_of_minus_1_takes_the_ranks_that_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "8")
    run = check_smoke("parallelism.data_parallel_shard_degree=-1")
    assert run.world_size == 8


def test_a_shard_degree_of_minus_1_needs_whole_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    mesh = ["parallelism.data_parallel_replicate_degree=3", "parallelism.data_parallel_shard_degree=-1"]
    assert "needs a multiple of 3 ranks, but 4 were started" in only_problem_of(
        *mesh, "parallelism.expert_parallel_degree=1"
    )


def test_the_mix_names_phases_and_sources_that_exist() -> None:
    problem = only_problem_of("data.mix={genral: {code: 1.0}, stem: {prose: 0.5, cod: 0.5}}")
    assert "genral" in problem
    assert "general" in problem
    assert "cod" in problem


@pytest.mark.parametrize(
    "keys", [["training.steps"], ["training.global_batch_size"], ["training.steps", "training.global_batch_size"]]
)
def test_what_follows_from_the_schedule_cannot_be_set_by_hand(keys: list[str]) -> None:
    problem = only_problem_of(*(f"{key}=100" for key in keys))
    assert problem.startswith(f"{', '.join(keys)}: set by the schedule section, not by hand")
    assert "run.stop_after_step" in problem


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("parallelism.context_parallel_degree=2", "context_parallel_degree=2"),
        ("parallelism.spmd_backend=full_dtensor", "parallelism.spmd_backend"),
        ("training.seq_len=262144", "model.max_seq_len=131072"),
        ("training.local_batch_size=0", "training.local_batch_size: must be at least 1"),
        ("training.dtype=bfloat16", "training.mixed_precision_param"),
        ("training.disable_cuda_graphs=false", "training.disable_cuda_graphs"),
        ("checkpoint.async_mode=async", "checkpoint.async_mode"),
        ("checkpoint.last_save_model_only=true", "checkpoint.last_save_model_only"),
        ("checkpoint.load_only=true", "checkpoint.load_only: must be false; the run would train and save nothing"),
        ("checkpoint.create_seed_checkpoint=true", "checkpoint.create_seed_checkpoint: must be false"),
        ("activation_checkpoint.kind=memory_budget", "activation_checkpoint.kind=memory_budget: the compiler keeps"),
        ("activation_checkpoint.kind=[full]", "activation_checkpoint.kind: got ['full'], allowed: none, selective"),
        ("activation_checkpoint.kind={}", "activation_checkpoint.kind: got {}, allowed: none, selective, full"),
        ("debug.batch_invariant=true", "debug.batch_invariant: must be false"),
        ("profiler.enable_memory_snapshot=true", "profiler.enable_memory_snapshot: needs a CUDA device"),
        ("model.dim=3", "model.dim=3: must be a multiple of 4, the numbers of"),
        ("model.expert_hidden_dim=66", "model.expert_hidden_dim=66: must be a multiple of 4"),
        ("optimizer.muon.weight_decay=1e3", "optimizer.muon.weight_decay=1000.0: times lr=0.02 it must be below 1"),
        ("debug.seed=null", "debug.seed"),
        ("run.stop_after_step=0", "run.stop_after_step=0"),
        ("model.num_dense_layers=8", "model.num_dense_layers=8: no layer has experts; choose 0 to 7"),
        ("model.num_experts=1", "num_experts must be at least 2, got 1"),
        ("model.top_k=17", "top_k=17 exceeds num_experts=16"),
        ("compile.enable=true", "compile.enable: needs training.mixed_precision_param=bfloat16, got float32"),
        ("training.enable_cpu_offload=true", "training.enable_cpu_offload: must be false"),
        ("activation_checkpoint.kind=ful", "did you mean full?"),
        ("balance.speed=-1", "speed must be finite and not negative, got -1.0"),
        ("balance.speed=nan", "speed must be finite and not negative, got nan"),
        ("balance.alarm.dead_share=5", "dead_share must lie in 0..1"),
        ("balance.alarm.dead_shares=0.5", "balance.alarm.dead_shares: unknown key (did you mean dead_share?)"),
        ("metrics.panels_every=-1", "panels_every must not be negative"),
        ("loss.z_loss_weight=-1", "z_loss_weight must not be negative"),
    ],
)
def test_what_cannot_work_is_refused(override: str, expected: str) -> None:
    assert any(expected in problem for problem in problems_of(override))


def test_a_compiler_that_is_not_there_is_refused_with_those_that_are() -> None:
    on = ("compile.enable=true", "training.mixed_precision_param=bfloat16")
    assert only_problem_of(*on, "compile.backend=abc").startswith("compile.backend=abc: allowed: aot_eager, ")


def test_a_run_lies_in_a_file_system() -> None:
    assert "must be a folder of a file system, got 's3://b/x'" in only_problem_of("run.dir=s3://b/x")


def pretend_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a torch that torchtitan runs on there."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.distributed.set_timeout", lambda timeout, group: None, raising=False)


def test_a_torch_without_timeouts_is_refused_where_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpu(monkeypatch)
    check_smoke()
    monkeypatch.delattr("torch.distributed.set_timeout")
    assert "has no torch.distributed.set_timeout, which torchtitan calls on GPUs; install 2.14" in only_problem_of()


def test_compiled_experts_are_not_recomputed_by_a_torch_that_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ("compile.enable=true", "training.mixed_precision_param=bfloat16", "activation_checkpoint.kind=full")
    monkeypatch.setattr("train.config.rules.machine.TORCH", (2, 13))
    check_smoke(*wanted)  # another machine may be the one that trains
    as_one_of(monkeypatch, ranks=4)
    assert "cannot compile activation checkpointing around experts" in only_problem_of(*wanted)
    check_smoke(*wanted[:2])
    check_smoke(*wanted, "compile.components=[loss]")
    monkeypatch.setattr("train.config.rules.machine.TORCH", (2, 14))
    check_smoke(*wanted)
    monkeypatch.setattr("train.config.rules.machine.TORCH", (2, 13))
    as_one_of(monkeypatch, ranks=1)
    check_smoke(*wanted, "parallelism=single", "schedule.batch=[{from_tokens: 0, sequences: 24}]")


def as_one_of(monkeypatch: pytest.MonkeyPatch, *, ranks: int) -> None:
    """As torchrun would have started this process."""
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", str(ranks))


@pytest.mark.parametrize("backend", ["flex", "varlen"])
def test_attention_that_needs_a_gpu_is_refused_without_one(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    problem = only_problem_of(f"model.attention={backend}", "training.mixed_precision_param=bfloat16")
    assert problem.startswith(f"model.attention={backend}: needs a CUDA device, and this machine has none; set auto")


@pytest.mark.parametrize(
    ("generation", "package"),
    [(None, "torch.nn.attention.varlen"), ("FA3", "flash_attn_interface"), ("FA4", "flash_attn")],
)
def test_varlen_attention_without_its_package_is_refused(
    generation: str | None, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_gpu(monkeypatch)
    monkeypatch.setattr("train.config.rules.machine.get_cuda_flash_attention_impl", lambda: generation)
    monkeypatch.setattr("train.config.rules.machine.find_spec", lambda name: None if name == package else object())
    problem = only_problem_of("model.attention=varlen", "training.mixed_precision_param=bfloat16")
    assert problem.startswith(f"model.attention=varlen: needs {package}, which is not installed for this GPU")
    assert problem.endswith("install it or set flex")


def test_the_loss_of_liger_is_refused_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    problem = only_problem_of("loss.kernel=liger")
    assert problem == "loss.kernel=liger: needs a CUDA device, and this machine has none; set torch"


def test_the_loss_of_liger_is_refused_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpu(monkeypatch)
    monkeypatch.setattr(
        "train.config.rules.machine.find_spec", lambda name: None if name == "liger_kernel" else object()
    )
    problem = only_problem_of("loss.kernel=liger")
    assert problem.startswith("loss.kernel=liger: needs liger_kernel, which is not installed; install it (pip install ")
    monkeypatch.setattr("train.config.rules.machine.find_spec", lambda name: object())
    check_smoke("loss.kernel=liger")


DISPATCHED = ("model.dispatcher=hybridep_worst_case", "training.mixed_precision_param=bfloat16")


def test_a_dispatcher_is_refused_without_its_package_or_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("train.config.rules.machine.find_spec", lambda name: None if name == "deep_ep" else object())
    assert problems_of(*DISPATCHED) == [
        "model.dispatcher=hybridep_worst_case: needs a CUDA device, and this machine has none; set standard",
        "model.dispatcher=hybridep_worst_case: needs the package deep_ep, which is not installed; build it from "
        "github.com/deepseek-ai/DeepEP (its branch hybrid-ep) or set standard",
    ]
    pretend_gpu(monkeypatch)
    problem = only_problem_of("model.dispatcher=deepep", DISPATCHED[1])
    assert problem.endswith("build it from github.com/deepseek-ai/DeepEP (version 2 or later) or set standard")
    monkeypatch.setattr("train.config.rules.machine.find_spec", lambda name: object())
    check_smoke(*DISPATCHED)


def test_a_dispatcher_needs_ranks_and_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpu(monkeypatch)
    monkeypatch.setattr("train.config.rules.machine.find_spec", lambda name: object())
    assert "carries bfloat16 only; set that, or standard" in only_problem_of(DISPATCHED[0])
    alone = (*DISPATCHED, "parallelism=single", "schedule.batch=[{from_tokens: 0, sequences: 24}]")
    assert "has all experts on each; set standard, or spread the experts" in only_problem_of(*alone)


def test_a_run_of_another_dispatcher_can_be_read_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    settings = check_smoke(DISPATCHED[1]).settings
    settings["model"]["dispatcher"] = "deepep"
    OmegaConf.save(OmegaConf.create(settings), tmp_path / "config.yaml")
    assert load_run(tmp_path).model.dispatcher == "standard"


def test_varlen_attention_computes_in_bfloat16_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpu(monkeypatch)
    monkeypatch.setattr("train.config.rules.machine.get_cuda_flash_attention_impl", lambda: None)
    problem = only_problem_of("model.attention=varlen", "training.mixed_precision_param=float32")
    assert problem.startswith("training.mixed_precision_param=float32: model.attention=varlen would round to bfloat16")
    check_smoke("model.attention=varlen", "training.mixed_precision_param=bfloat16")


def test_some_sections_are_checked_alone() -> None:
    settings = compose(["experiment=smoke", "schedule.zzz=1", "model.top_k=99", "modl.dim=3"])
    with pytest.raises(ConfigError) as refusal:
        check_some(settings, OnlyModel)
    assert [problem.split(":")[0] for problem in refusal.value.problems] == ["modl", "model"]
    assert check_some(compose(["experiment=smoke", "schedule.zzz=1"]), OnlyModel).model.name == "trinity_smoke"


def test_an_experiment_that_is_not_there_lists_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"smokey[\s\S]*smoke[\s\S]*trinity_large"):
        compose(["experiment=smokey"])


def test_a_value_that_is_required_and_missing_is_named() -> None:
    with pytest.raises(ConfigError, match=r"run\.name"):
        compose([])


def test_a_folder_without_a_run_is_refused(tmp_path: object) -> None:
    with pytest.raises(ConfigError, match=r"is no run directory: it has no config\.yaml"):
        load_run(str(tmp_path))
