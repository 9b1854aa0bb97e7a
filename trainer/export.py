"""A trained model for use elsewhere, without this project.

python -m trainer.export CHECKPOINT --to FILE; the ending of FILE says what it becomes:

  .safetensors  the state dict of torchvision's ResNet, which it loads strictly. Its input is images normalised by
                ImageNet's mean and std, as with torchvision's own weights. `fc` is the probe or classifier where
                the run had one, else zeros for 1,000 classes. An attention block has no place in it: of recipes that
                have one this is the ResNet below the block, with zeros for `fc`
  .onnx         the model as an ONNX graph
  .pt2          the model as a program of torch.export, which torch.export.load reads without this project

The graph and the program take `images`, float32 [B, 3, H, W] in [0, 1]: they apply mean and std themselves. They give
`features` [B, channels], `attention` [B, H, W], the map of where people look (but not ContraCAM's, which depends on the
other images of a batch), and, where the run had a probe or classifier, `logits` [B, classes]. Any batch will do, and
any height and width from 33 pixels.

All three name recipe, classes, mean and std, and the checkpoint's sha256 in their metadata.
"""

import argparse
from pathlib import Path

from common.errors import UserError, run_program
from common.storage.files import write_atomically

ENDINGS = (".safetensors", ".onnx", ".pt2")


def main(argv: list[str] | None = None) -> int:
    """Write the file. Raises UserError."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="such as RUN/checkpoints/best, local or s3://BUCKET/PREFIX/..."
    )
    parser.add_argument("--to", metavar="FILE", type=Path, required=True, help=f"ends in {', '.join(ENDINGS)}")
    arguments = parser.parse_args(argv)
    if arguments.to.suffix not in ENDINGS:
        raise UserError(f"--to {arguments.to}: expected a name that ends in {', '.join(ENDINGS)}")
    if not arguments.to.absolute().parent.is_dir():
        raise UserError(
            f"--to {arguments.to}: expected a folder that is there, found no {arguments.to.parent}; make it"
        )
    from trainer.checkpoint import load_trained
    from trainer.formats import encode_model, how_to_load

    trained = load_trained(arguments.checkpoint)
    keep(arguments.to, encode_model(arguments.to.suffix, trained))
    print(f"wrote {arguments.to}; load it with\n{how_to_load(arguments.to, trained)}")
    return 0


def keep(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all. Raises UserError."""
    try:
        write_atomically(path, content)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None


if __name__ == "__main__":
    run_program(main)
