"""Images with the teacher's maps, to fit read-outs on: drawn from a labeled data set, never from human attention."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from common.errors import UserError
from common.parallel import available_cores, in_order
from common.progress import progress_bar
from common.saliency import resize_maps
from trainer.data.crops import resize_frame
from trainer.data.dataset import open_dataset
from trainer.data.decoding import DecodedSample, Members, decode_sample
from trainer.data.shard_reader import ShardReader
from trainer.evaluate.alignment.readout import FitData
from trainer.evaluate.models import EvaluatedModel
from trainer.evaluate.suite import Context
from trainer.model.attention import Selection, stack_stage_maps

FIT_IMAGES = 2000
# Side of the maps in a fit, in pixels. At 224 px the finest stage has 28 positions per side, and human attention maps
# have a sigma of 3 % of their width: larger maps would hold nothing more. 2,000 images take 100 MB.
FIT_SIDE = 56


def draw_samples(location: str, seed: int) -> list[Members]:
    """Draw up to 2,000 samples of a labeled data set at random, not decoded.

    They come from as few shards as possible, drawn at random: a labeling job deals images to shards at random, and few
    shards are soon read. What cannot be read of a damaged shard is skipped. Raises UserError if there is no such data
    set, or if nothing of it can be read.
    """
    data = open_dataset(location, unfinished=True)
    generator = np.random.default_rng([seed, data.samples])
    reader = ShardReader(data, skip_damaged=True)
    samples: list[Members] = []
    for shard in generator.permutation(len(data.shards)).tolist():
        if len(samples) >= FIT_IMAGES:
            break
        stored = reader.read(shard)
        chosen = generator.permutation(len(stored))[: FIT_IMAGES - len(samples)]
        samples += [stored[index] for index in np.sort(chosen).tolist()]
    if not samples:
        raise UserError(f"{location}: expected samples with attention maps, found none that can be read")
    return samples


@torch.no_grad()
def collect_fit_data(context: Context, model: EvaluatedModel, select: Selection, samples: Sequence[Members]) -> FitData:
    """Compute what a read-out of a model is fitted on: whole frames, resized to the model's input size.

    Samples that cannot be decoded are skipped. Raises UserError if none can be decoded.
    """
    size, side = context.store.image_size(model), (FIT_SIDE, FIT_SIDE)
    stage_maps, attention, gaze = [], [], []
    decoded = progress_bar(_decode(samples), desc=f"read-out of {model.name}", total=len(samples), unit=" images")
    for batch in _batches(decoded, context.settings.batch_size):
        images = torch.stack([resize_frame(sample.pixels, size) for sample in batch]).to(context.device).float() / 255
        stage_maps.append(stack_stage_maps(model.network.encode(images), select, side).float())
        for sample in batch:
            target = sample.annotations.attention.to(context.device)[None].float()
            attention.append(resize_maps(target, side)[0])
            gaze.append(sample.annotations.gaze)
    if not gaze:
        raise UserError(f"none of {len(samples):,} samples can be decoded")
    return FitData(torch.cat(stage_maps), torch.stack(attention), gaze)


def _decode(samples: Sequence[Members]) -> Iterator[DecodedSample]:
    """Decode samples in threads, and skip those that cannot be decoded."""

    def decode(sample: Members) -> DecodedSample | None:
        try:
            return decode_sample(sample, None)
        except Exception:  # decoders raise many types for damaged bytes
            return None

    threads = available_cores()
    with ThreadPoolExecutor(threads) as pool:
        yield from (sample for sample in in_order(pool, decode, samples, ahead=4 * threads) if sample is not None)


def _batches(samples: Iterable[DecodedSample], size: int) -> Iterator[list[DecodedSample]]:
    remaining = iter(samples)
    while batch := list(itertools.islice(remaining, size)):
        yield batch
