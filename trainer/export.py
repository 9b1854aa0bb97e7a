"""Export a trained model to a file that other programs can load without this project.

python -m trainer.export CHECKPOINT --to FILE

The suffix of FILE selects the format:

  .safetensors  The weights of torchvision's ResNet, for `load_state_dict(strict=True)`. Input: images normalized with
                ImageNet's mean and standard deviation, as for torchvision's own weights. `fc` is the probe or
                classifier; if the run had none, `fc` is zero, with 1,000 classes. torchvision's ResNet has no attention
                block: for recipes with a block, the file contains the ResNet without it, and `fc` is zero.
  .onnx         The model as an ONNX graph.
  .pt2          The model as an exported program, for `torch.export.load`.

The graph and the program take `images`, float32 [B, 3, H, W] in [0, 1], of any batch size, height and width; they apply
mean and standard deviation themselves. They return `features` [B, channels], `attention` [B, H, W] (a map of where
people look; not for ContraCAM, whose map depends on the other images of the batch) and, if the run had a probe or
classifier, `logits` [B, classes].

The metadata of all three formats name the recipe, the classes, mean and standard deviation, and the checkpoint's
SHA-256.
"""

import argparse
from pathlib import Path

from common.errors import UserError, run_program
from common.storage.files import write_atomically

SUFFIXES = (".safetensors", ".onnx", ".pt2")


def main(argv: list[str] | None = None) -> int:
    """Export a checkpoint and print the code that loads the file. Raises UserError."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="checkpoint of trainer.run, such as RUN/checkpoints/best, local or s3://BUCKET/KEY",
    )
    parser.add_argument(
        "--to",
        metavar="FILE",
        type=Path,
        required=True,
        help=f"local file to write, with the suffix {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}",
    )
    arguments = parser.parse_args(argv)
    path: Path = arguments.to
    if path.suffix not in SUFFIXES:
        raise UserError(f"--to {path}: expected a name that ends in {', '.join(SUFFIXES)}")
    if not path.absolute().parent.is_dir():
        raise UserError(f"--to {path}: expected an existing folder, found no {path.parent}; create it first")
    from trainer.checkpoint import load_trained  # import torch: not needed for --help, nor to reject arguments
    from trainer.formats import encode_model, format_loading_code

    trained = load_trained(arguments.checkpoint)
    content = encode_model(path.suffix, trained)
    try:
        write_atomically(path, content)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    print(f"wrote {path}; load it with\n{format_loading_code(path, trained)}")
    return 0


if __name__ == "__main__":
    run_program(main)
