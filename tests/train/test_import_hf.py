"""Weights in and out of Hugging Face folders: train/import_hf.py, checkpoint.initial_load_path and train/export.py.

The real program on 1, 2 and 4 ranks starts at a folder that transformers wrote, takes one step that changes no weight,
and saves. What it saved is compared bit by bit, directly and by way of another folder.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.checkpoint.state_dict_loader import load
from transformers import AfmoeConfig, AfmoeForCausalLM

from data_pipelines.base.errors import CONFIG_EXIT, ConfigError
from data_pipelines.settings.compose import compose
from data_pipelines.tokenizer.bpe import save_tokenizer, train_tokenizer
from tests.train.runs import run
from tests.train.small import SEQ_LEN, mesh, small_settings
from train.__main__ import main as train_main
from train.afmoe.config import ModelConfig
from train.checkpoint.initial import check_initial, positions_of
from train.checkpoint.reader import CheckpointReader
from train.config.check import check
from train.export import export
from train.export import main as export_main
from train.formats.hf_names import hf_config
from train.import_hf import import_hf, main
from train.loop.build import trainer_config
from train.metrics.jsonl import read_rows
from train.process.stop import StopWish

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")  # DCP, in this process: as intended

NO_CHANGE = ["optimizer.muon.lr=1e-30", "optimizer.adamw.lr=1e-30", "balance=none", "run.stop_after_step=1"]
"""One step whose update is below the resolution of float32 for every weight larger than 1e-22."""

MESHES = {  # name -> replicas, shards, expert ranks
    "1 rank": (1, 1, 1),
    "1 x 2, EP 1": (1, 2, 1),
    "2 x 2, EP 2": (2, 2, 2),
    "1 x 4, EP 4": (1, 4, 4),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("import")


@pytest.fixture(scope="module")
def small(folder: Path) -> list[str]:
    return small_settings(folder)


@pytest.fixture(scope="module")
def model(small: list[str]) -> ModelConfig:
    return check(compose([*small, *mesh(shards=1, expert_ranks=1)])).model


@pytest.fixture(scope="module")
def published(model: ModelConfig, folder: Path) -> Path:
    """A folder that transformers wrote: random weights, random selection biases."""
    torch.manual_seed(0)
    keys = hf_config(model, max_positions=SEQ_LEN, speed=1e-3, token_ids={}, dtype="float32")
    reference = AfmoeForCausalLM(AfmoeConfig(**{key: keys[key] for key in keys if key != "model_type"}))
    for parameter in reference.parameters():
        torch.nn.init.normal_(parameter)
    reference.save_pretrained(folder / "published", max_shard_size="100KB")
    return folder / "published"


@pytest.fixture(scope="module")
def imported(published: Path, folder: Path) -> Path:
    import_hf(published, folder / "imported")
    return folder / "imported"


@pytest.fixture(scope="module")
def trained(small: list[str], folder: Path) -> Path:
    """A checkpoint of another run: after two real steps on 4 ranks, with biases and momentum that are not zero."""
    command = [*small, *mesh(replicas=2, shards=2, expert_ranks=2), "run.stop_after_step=2"]
    result = run(command, run_dir=folder / "trained", num_ranks=4)
    assert result.exit_codes == [0] * 4, result.output
    return folder / "trained/checkpoint/step-2"


@pytest.fixture(scope="module")
def started(small: list[str], published: Path, imported: Path, folder: Path) -> dict[str, Path]:
    """Mesh -> directory of a run that started at the published folder; one at its import."""
    runs = {}
    for number, (name, (replicas, shards, expert_ranks)) in enumerate(MESHES.items()):
        source = imported if name == "2 x 2, EP 2" else published
        command = [*small, *mesh(replicas=replicas, shards=shards, expert_ranks=expert_ranks), *NO_CHANGE]
        runs[name] = folder / f"mesh{number}"
        result = run(
            [*command, f"checkpoint.initial_load_path={source}"], run_dir=runs[name], num_ranks=replicas * shards
        )
        assert not any(result.exit_codes), result.output
    return runs


@pytest.fixture(scope="module")
def taken_out(trained: Path, folder: Path) -> Path:
    """That checkpoint, without its run."""
    shutil.copytree(trained, folder / "taken out")
    return folder / "taken out"


def load_folder(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def load_checkpoint(folder: Path) -> dict[str, Tensor]:
    reader = CheckpointReader(folder)
    return {name: reader.read(name) for name in reader.shapes}


def assert_same_bits(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert got[name].dtype == tensor.dtype, name
        assert torch.equal(got[name].view(torch.int32), tensor.view(torch.int32)), name


# There and back


@pytest.mark.parametrize("name", MESHES)
def test_theirs_to_ours_to_theirs_is_the_same_bits_on_every_mesh(started, published, name, tmp_path):
    export(started[name], tmp_path / "hf", step=1, dtype="float32")
    assert_same_bits(load_folder(tmp_path / "hf"), load_folder(published))


@pytest.mark.parametrize("name", [*MESHES, "trained on 2 x 2, EP 2"])
def test_ours_to_theirs_to_ours_is_the_same_bits_from_every_mesh(started, trained, name, tmp_path):
    run_dir = started.get(name, trained.parent.parent)
    export(run_dir, tmp_path / "hf", step=None, dtype="float32")
    import_hf(tmp_path / "hf", tmp_path / "back")
    (checkpoint,) = (run_dir / "checkpoint").glob("step-*")
    before = load_checkpoint(checkpoint)
    assert before["layers.1.moe.expert_bias_E"].abs().max() > 0
    assert_same_bits(load_checkpoint(tmp_path / "back"), before)


@pytest.mark.parametrize("name", MESHES)
def test_the_reader_reads_what_dcp_reads_from_every_mesh(started, name):
    reader = CheckpointReader(started[name] / "checkpoint/step-1")
    whole = {tensor: torch.empty(shape) for tensor, shape in reader.shapes.items()}
    load(whole, checkpoint_id=started[name] / "checkpoint/step-1", no_dist=True)
    for tensor, values in whole.items():
        assert torch.equal(reader.read(tensor), values)
        assert torch.equal(reader.read(tensor, slice(3, 7)), values[3:7])


def test_bfloat16_comes_in_without_loss(published, tmp_path):
    shutil.copytree(published, tmp_path / "hf")
    for file in (tmp_path / "hf").glob("*.safetensors"):
        save_file({name: tensor.bfloat16() for name, tensor in load_file(file).items()}, file)
    import_hf(tmp_path / "hf", tmp_path / "checkpoint")
    got = load_checkpoint(tmp_path / "checkpoint")
    assert got["norm.weight"].dtype == torch.float32
    assert torch.equal(got["norm.weight"].bfloat16(), load_folder(published)["model.norm.weight"].bfloat16())


# What else a start takes along


@pytest.fixture(scope="module")
def continued(small: list[str], trained: Path, folder: Path) -> tuple[Path, list[str]]:
    """(directory of a run on 1 rank that started at the checkpoint of another on 4, and has lost it since; command)"""
    shutil.copytree(trained.parent.parent, folder / "copy")
    source = folder / "copy/checkpoint/step-2"
    in_config(max_position_embeddings=131_072)(source)  # as of a run that itself was continued from such weights
    command = [*small, *mesh(shards=1, expert_ranks=1), *NO_CHANGE, f"checkpoint.initial_load_path={source}"]
    result = run(command, run_dir=folder / "continued", num_ranks=1)
    assert result.exit_codes == [0], result.output
    shutil.rmtree(folder / "copy")
    return folder / "continued", command


def test_a_run_takes_weights_and_biases_of_another_and_nothing_else(continued, trained):
    run_dir, _ = continued
    assert_same_bits(load_checkpoint(run_dir / "checkpoint/step-1"), load_checkpoint(trained))
    momentum = {f"layers.{layer}.moe.bias_momentum_E": torch.ones(8) for layer in (1, 2, 3)}
    before = {name: tensor.clone() for name, tensor in momentum.items()}
    load(before, checkpoint_id=trained, no_dist=True)
    load(momentum, checkpoint_id=run_dir / "checkpoint/step-1", no_dist=True)
    assert all(tensor.abs().max() > 0 for tensor in before.values())
    assert all(tensor.abs().max() == 0 for tensor in momentum.values())


def test_a_run_that_starts_at_another_begins_its_own_schedule_and_data(continued):
    run_dir, _ = continued
    (row,) = read_rows(run_dir)
    assert (row["step"], row["tokens"]) == (1, 4 * SEQ_LEN)


def test_a_resume_does_not_read_where_the_run_started(continued):
    run_dir, command = continued
    result = run([*command, "run.stop_after_step=2"], run_dir=run_dir, num_ranks=1)
    assert result.exit_codes == [0], result.output
    assert [row["step"] for row in result.rows] == [1, 2]


def test_an_export_keeps_the_positions_of_the_weights_that_a_run_started_from(continued, tmp_path):
    """Also when they are gone, and after a resume."""
    run_dir, _ = continued
    for number, option in enumerate([[], ["--max-positions", "99"]]):
        hf, file = tmp_path / f"hf{number}", tmp_path / f"{number}.gguf"
        assert export_main([str(run_dir), str(hf), *option]) == 0
        assert export_main([str(run_dir), str(file), *option, "--format", "gguf"]) == 0
        expected = 99 if option else 131_072
        assert json.loads((hf / "config.json").read_text())["max_position_embeddings"] == expected
        assert GGUFReader(file).fields["afmoe.context_length"].contents() == expected


def test_positions_come_through_an_import(published, tmp_path):
    shutil.copytree(published, tmp_path / "hf")
    in_config(max_position_embeddings=131_072)(tmp_path / "hf")
    import_hf(tmp_path / "hf", tmp_path / "imported")
    assert positions_of(tmp_path / "imported") == 131_072


def test_a_checkpoint_that_does_not_say_its_positions_has_those_of_its_run_and_of_where_that_started(
    started, published, tmp_path
):
    shutil.copytree(started["1 rank"], tmp_path / "run")
    shutil.copytree(published, tmp_path / "hf")
    in_config(max_position_embeddings=131_072)(tmp_path / "hf")
    checkpoint, config = tmp_path / "run/checkpoint/step-1", tmp_path / "run/config.yaml"
    config.write_text(config.read_text().replace(str(published), str(tmp_path / "hf")))
    assert positions_of(checkpoint) == SEQ_LEN
    (checkpoint / "config.json").unlink()
    assert positions_of(checkpoint) == 131_072
    shutil.rmtree(tmp_path / "hf")
    assert positions_of(checkpoint) == SEQ_LEN


def test_another_start_than_that_of_the_run_is_refused(continued, published):
    run_dir, command = continued
    result = run([*command, f"checkpoint.initial_load_path={published}"], run_dir=run_dir, num_ranks=1)
    assert result.exit_codes == [CONFIG_EXIT]
    assert "checkpoint.initial_load_path: is " in result.output


# The tokenizer that the weights came with


@pytest.fixture(scope="module")
def foreign(published: Path, folder: Path) -> Path:
    """The published weights beside another tokenizer than that of the data."""
    shutil.copytree(published, folder / "foreign")
    save_tokenizer(train_tokenizer(["hot dogs bark " * 20], vocab_size=270), folder / "foreign")
    return folder / "foreign"


def check_command(small: list[str], source: Path, *overrides: str) -> list[str]:
    return ["--check", *small, *mesh(shards=1, expert_ranks=1), f"checkpoint.initial_load_path={source}", *overrides]


def test_weights_of_another_tokenizer_are_refused_by_the_check_unless_that_is_allowed(small, foreign, folder, capsys):
    assert train_main(check_command(small, foreign)) == CONFIG_EXIT
    (line,) = capsys.readouterr().err.splitlines()
    assert str(foreign / "tokenizer.json") in line
    assert str(folder / "tokenizer/tokenizer.json") in line
    assert train_main(check_command(small, foreign, "data.tokenizer_may_differ=true")) == 0


def test_the_check_of_a_start_reads_its_architecture_and_says_what_it_cannot_compare(small, published, capsys):
    assert train_main(check_command(small, published)) == 0
    assert "note           checkpoint.initial_load_path=" in capsys.readouterr().out
    assert train_main(check_command(small, published, "model.top_k=4")) == CONFIG_EXIT
    assert "num_experts_per_tok=2 contradicts model.top_k=4" in capsys.readouterr().err


def test_an_import_keeps_the_tokenizer_that_its_weights_came_with(small, foreign, tmp_path, capsys):
    import_hf(foreign, tmp_path / "imported")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        assert (tmp_path / "imported" / name).read_bytes() == (foreign / name).read_bytes()
    assert train_main(check_command(small, tmp_path / "imported")) == CONFIG_EXIT
    assert f"the tokenizer {tmp_path / 'imported/tokenizer.json'}" in capsys.readouterr().err


def test_every_rank_refuses_weights_of_another_tokenizer_and_keeps_nothing_of_them(small, foreign, tmp_path):
    command = [*small, *mesh(shards=2, expert_ranks=1), f"checkpoint.initial_load_path={foreign}"]
    result = run(command, run_dir=tmp_path / "run", num_ranks=2)
    assert result.exit_codes == [CONFIG_EXIT] * 2, result.output
    assert result.output.count("in which the same ids mean other texts") == 2
    written = {file.name for file in (tmp_path / "run").iterdir() if file.suffix != ".log"}
    assert written == {"config.yaml", "starts.jsonl"}  # the settings, and that there was a start


# Bad input


def test_a_run_refuses_what_it_cannot_start_from_on_every_rank(small, published, tmp_path):
    source = tmp_path / "hf"
    shutil.copytree(published, source)
    next(source.glob("*.safetensors")).unlink()
    command = [*small, *mesh(shards=2, expert_ranks=1), f"checkpoint.initial_load_path={source}"]
    result = run(command, run_dir=tmp_path / "run", num_ranks=2)
    assert result.exit_codes == [CONFIG_EXIT] * 2
    assert "model.safetensors.index.json names model-00001-of-" in result.output
    assert not (tmp_path / "run/checkpoint").exists()


def test_torchtitans_flag_for_hugging_face_folders_is_refused(small, published):
    """It would promise that a folder is read by its rules."""
    flags = ["checkpoint.initial_load_in_hf=true", "checkpoint.initial_load_model_only=true"]
    command = [*small, *mesh(shards=1, expert_ranks=1), *flags, f"checkpoint.initial_load_path={published}"]
    with pytest.raises(ConfigError, match=r"checkpoint\.initial_load_in_hf: must be false; the folder shows what"):
        trainer_config(check(compose(command)), StopWish())


Damage = Callable[[Path], object]


def in_config(**changes: Any) -> Damage:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text()) | changes
        config = {key: value for key, value in config.items() if value is not ...}
        (folder / "config.json").write_text(json.dumps(config))

    return change


def in_file(name: str, text: str) -> Damage:
    return lambda folder: (folder / name).write_text(text)


def in_weights(edit: Callable[[dict[str, Tensor]], Any]) -> Damage:
    """Puts all weights into one file, edited."""

    def change(folder: Path) -> None:
        tensors = load_folder(folder)
        for file in [*folder.glob("*.safetensors"), folder / "model.safetensors.index.json"]:
            file.unlink()
        edit(tensors)
        save_file(tensors, folder / "model.safetensors")

    return change


def truncate(folder: Path) -> None:
    file = sorted(folder.glob("*.safetensors"))[1]
    file.write_bytes(file.read_bytes()[:-4])


def remove_weights(folder: Path) -> None:
    for file in [*folder.glob("*.safetensors"), folder / "model.safetensors.index.json"]:
        file.unlink()


INDEX = "model.safetensors.index.json"
EXPERT = "model.layers.2.mlp.experts.5.up_proj.weight"
DAMAGES: dict[str, tuple[Damage, str]] = {
    "another architecture": (in_config(model_type="qwen3_moe"), "model_type='qwen3_moe': another architecture"),
    "groups": (in_config(n_group=4), "n_group=4: not supported, expected 1"),
    "top groups": (in_config(topk_group=2), "topk_group=2: not supported, expected 1"),
    "expert groups": (in_config(num_expert_groups=8), "num_expert_groups=8: not supported, expected 1"),
    "softmax": (in_config(score_func="softmax"), "score_func='softmax': not supported, expected 'sigmoid'"),
    "tied": (in_config(tie_word_embeddings=True), "tie_word_embeddings=True: not supported, expected False"),
    "attention bias": (in_config(attention_bias=True), "attention_bias=True: not supported, expected False"),
    "activation": (in_config(hidden_act="gelu"), "hidden_act='gelu': not supported, expected 'silu'"),
    "quantized": (in_config(quantization_config={"bits": 4}), "quantization_config={'bits': 4}: not supported"),
    "yarn": (in_config(rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}), "rope_scaling={'rope"),
    "yarn, as of old": (
        in_config(rope_parameters=..., rope_theta=1e4, rope_scaling={"type": "yarn", "factor": 4.0}),
        "rope_scaling={'type': 'yarn', 'factor': 4.0}: not supported, expected None",
    ),
    "yarn beside a plain one": (
        in_config(rope_scaling={"type": "yarn", "factor": 4.0}),
        "rope_scaling={'type': 'yarn', 'factor': 4.0}: not supported, expected None",
    ),
    "positions by the kind of layer": (
        in_config(rope_parameters={"sliding_attention": {"rope_type": "default", "rope_theta": 1e6}}),
        "rope_scaling={'sliding_attention': {",
    ),
    "layer types": (in_config(layer_types=["full_attention"] * 4), "layer_types: not supported"),
    "a key is missing": (in_config(num_experts=...), "num_experts: is missing"),
    "no sense": (in_config(num_experts_per_tok=9), "num_experts_per_tok=9 exceeds num_experts=8"),
    "a key of no sense": (in_config(hidden_size=0), "config.json: hidden_size must be at least 1, got 0"),
    "far too deep": (in_config(num_hidden_layers=10**7, layer_types=...), "num_hidden_layers must be at most 1,000"),
    "far too many experts": (in_config(num_experts=10**7), "num_experts must be at most 10,000, got 10000000"),
    "a fraction": (in_config(hidden_size=16.0), "config.json: hidden_size=16.0: expected a whole number"),
    "a number as text": (in_config(hidden_size="16"), "config.json: hidden_size='16': expected a whole number"),
    "a truth as text": (in_config(route_norm="no"), "config.json: route_norm='no': expected true or false"),
    "half a window": (in_config(sliding_window=64.5), "config.json: sliding_window=64.5: expected a whole number"),
    "a truth as a number": (in_config(rms_norm_eps=True), "config.json: rms_norm_eps=True: expected a number"),
    "positions as text": (in_config(rope_parameters="x"), "rope_scaling='x': not supported, expected None"),
    "positions as a list": (in_config(rope_scaling=[1]), "rope_scaling=[1]: not supported, expected None"),
    "layer types as a number": (in_config(layer_types=5), "config.json: layer_types=5: expected a list of words"),
    "a list": (in_file("config.json", "[]"), "config.json: holds no JSON object"),
    "null": (in_file("config.json", "null"), "config.json: holds no JSON object"),
    "a deep list": (in_file("config.json", "[" * 100_000), "config.json: cannot be read"),
    "an index that is a list": (in_file(INDEX, "[]"), f"{INDEX}: holds no JSON object"),
    "an index without names": (in_file(INDEX, '{"weight_map": null}'), f"{INDEX}: weight_map names no files"),
    "an index of a list": (in_file(INDEX, '{"weight_map": ["a"]}'), f"{INDEX}: weight_map names no files"),
    "an index of numbers": (in_file(INDEX, '{"weight_map": {"a": 5}}'), f"{INDEX}: weight_map names no files"),
    "no folder": (shutil.rmtree, "is no folder; name one with config.json"),
    "no JSON": (lambda folder: (folder / "config.json").write_text("{"), "config.json: cannot be read"),
    "no weights": (remove_weights, "has no weights: neither model.safetensors.index.json nor model.safetensors"),
    "a file is missing": (
        lambda folder: sorted(folder.glob("*.safetensors"))[1].unlink(),
        "index.json names model-00002-of-00002.safetensors, which is not there",
    ),
    "a file is truncated": (truncate, "model-00002-of-00002.safetensors: "),
    "a tensor is missing": (in_weights(lambda t: t.pop(EXPERT)), f"{EXPERT}: is missing, expected [12, 16]"),
    "a tensor too many": (
        in_weights(lambda t: t.update({"model.layers.9.mlp.gate.weight": torch.ones(2)})),
        "model.layers.9.mlp.gate.weight: is no tensor of this model",
    ),
    "another shape": (
        in_weights(lambda t: t.update({EXPERT: torch.ones(16, 12)})),
        f"{EXPERT}: got shape [16, 12], expected [12, 16]",
    ),
    "another vocabulary": (
        in_config(vocab_size=300),
        "model.embed_tokens.weight: got shape [288, 16], expected [300, 16]",
    ),
    "8 bits": (in_weights(lambda t: t.update({EXPERT: t[EXPERT].to(torch.float8_e4m3fn)})), f"{EXPERT}: got F8_E4M3"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_no_whole_model_of_the_family_is_refused_by_name(name, published, tmp_path, capsys):
    damage, message = DAMAGES[name]
    shutil.copytree(published, tmp_path / "hf")
    damage(tmp_path / "hf")
    assert main([str(tmp_path / "hf"), str(tmp_path / "out")]) == CONFIG_EXIT
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path / 'hf'}")
    assert message in error
    assert {entry.name for entry in tmp_path.iterdir()} <= {"hf"}


@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
def test_weights_that_are_not_finite_are_refused_by_tensor(value, published, tmp_path, capsys):
    shutil.copytree(published, tmp_path / "hf")
    in_weights(lambda tensors: tensors[EXPERT].view(-1)[:2].fill_(value))(tmp_path / "hf")
    assert main([str(tmp_path / "hf"), str(tmp_path / "out")]) == CONFIG_EXIT
    assert f"{EXPERT} has 2 values that are not finite, such as {value}" in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["hf"]


def test_an_import_does_not_touch_what_is_there(published, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    assert main([str(published), str(tmp_path / "out")]) == CONFIG_EXIT
    assert "out exists; choose another folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 512}, "vocab_size=288 contradicts model.vocab_size=512; set model.vocab_size=288"),
        ({"dim": 64}, "hidden_size=16 contradicts model.dim=64; set model.dim=16"),
        # what no shape shows:
        ({"top_k": 4}, "num_experts_per_tok=2 contradicts model.top_k=4"),
        ({"route_scale": 2.0}, "route_scale=1.414 contradicts model.route_scale=2.0"),
        ({"rope_theta": 1e6}, "rope_theta=10000.0 contradicts model.rope_theta=1000000.0"),
        ({"sliding_window": 8}, "sliding_window=16 contradicts model.sliding_window=8"),
        ({"scale_embedding": False}, "mup_enabled=True contradicts model.scale_embedding=False"),
        ({"global_every": 2}, "global_attn_every_n_layers=4 contradicts model.global_every=2"),
    ],
)
@pytest.mark.parametrize("kind", ["published", "imported", "trained", "taken_out"])
def test_a_run_of_another_model_is_refused_by_the_key(kind, changes, message, model, request):
    source = request.getfixturevalue(kind)
    with pytest.raises(ConfigError) as refusal:
        check_initial(source, replace(model, **changes))
    assert any(message in problem for problem in refusal.value.problems)
    assert all(str(source) in problem for problem in refusal.value.problems)


def test_a_folder_that_is_neither_is_refused(tmp_path, model):
    with pytest.raises(ConfigError, match=r"initial_load_path=.*: neither a checkpoint .* nor a Hugging Face folder"):
        check_initial(tmp_path, model)


def test_a_checkpoint_without_a_tensor_is_refused(imported, model, tmp_path):
    """Of a run whose directory is gone, so that shapes are all there is."""
    shutil.copytree(imported, tmp_path / "step-1")
    (tmp_path / "step-1/config.json").unlink()
    check_initial(tmp_path / "step-1", model)
    with pytest.raises(ConfigError, match=r"layers\.4\.attention_norm\.weight: is missing, expected \[16\]"):
        check_initial(tmp_path / "step-1", replace(model, num_layers=5))
