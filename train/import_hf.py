"""A Hugging Face folder of the Trinity family as a checkpoint that a run starts from.

    python -m train.import_hf Trinity-Mini-Base mini
    torchrun --nproc-per-node 8 -m train experiment=trinity_mini checkpoint.initial_load_path=$PWD/mini ...

A run can start at the folder itself, too; the checkpoint holds what training does, float32, and needs nothing else. The
selection biases come along; the momentum of the balancing rule and the optimizers start anew.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from data_pipelines.base.command import command_parser, run_command
from data_pipelines.base.errors import CONFIG_EXIT, ConfigError, answers_errors
from data_pipelines.base.files import whole_folder


@answers_errors({ValueError: CONFIG_EXIT, OSError: CONFIG_EXIT})
def main(arguments: list[str]) -> int:
    parser = command_parser("python -m train.import_hf", description=__doc__)
    parser.add_argument("folder", metavar="HF_DIR", type=Path, help="folder with config.json and *.safetensors")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to make")
    args = parser.parse_args(arguments)
    num_parameters = import_hf(args.folder, args.out)
    print(f"imported {num_parameters:,} parameters; start with checkpoint.initial_load_path={args.out.absolute()}")
    return 0


def import_hf(folder: Path, out: Path) -> int:
    """Writes the checkpoint `out`, whole or not at all; returns the number of its parameters.

    Raises ConfigError, before anything is written, where `folder` is not a whole model of the family.
    """
    from train.blueprint.shapes import model_shapes
    from train.checkpoint.stream import write_checkpoint
    from train.checkpoint.tokenizer import copy_tokenizer
    from train.formats.hf_folder import PublishedStorage, published_model

    if out.exists():
        raise ConfigError([f"{out} exists; choose another folder"])
    shapes = model_shapes(published_model(folder))
    storage = PublishedStorage(folder, shapes)
    with whole_folder(out) as unfinished:
        write_checkpoint(unfinished, storage.tensors, lambda shard: storage.read(shard).float(), desc="import")
        shutil.copy(folder / "config.json", unfinished)  # this and the tokenizer: what a run that starts here must fit
        copy_tokenizer(folder, unfinished)
    return sum(shape.numel() for name, shape in shapes.items() if not name.endswith("expert_bias_E"))


if __name__ == "__main__":
    run_command(main, first_words="train.import_hf: the engine takes some seconds to load")
