"""Encoding of the teacher's maps as PNG, against Pillow, which earlier versions used. Both use one core."""

import statistics

import torch
from timing import SHARED_DATA, Row, print_table, ratios, require_path, time_cases

from common.images import decode_jpeg
from common.png import encode_gray_png
from common.shards import encode_map
from labeler.labeling.label import predict_maps, to_teacher_input
from labeler.teacher.weights import load_teacher

BAR_MILLISECONDS = 0.3
MAPS, SIDE = 64, 224


def main() -> None:
    torch.set_num_threads(1)
    teacher = load_teacher("bundled")
    paths = sorted(require_path(SHARED_DATA / "imagenet-sample").rglob("*.JPEG"))[:MAPS]
    inputs = (to_teacher_input(decode_jpeg(path.read_bytes()), 1) for path in paths)
    maps = [predict_maps(teacher, pixels[None], SIDE).stored[0].numpy() for pixels in inputs]
    seconds = time_cases(
        7,
        ours=lambda: [encode_gray_png(attention) for attention in maps],
        pillow=lambda: [encode_map(attention, "pillow") for attention in maps],
    )
    milliseconds = {name: [value / len(maps) * 1e3 for value in values] for name, values in seconds.items()}
    ours = statistics.mean(len(encode_map(attention, "isal")) for attention in maps)
    pillow = statistics.mean(len(encode_map(attention, "pillow")) for attention in maps)
    print_table(
        f"{len(maps)} maps of {SIDE} x {SIDE} to PNG",
        [
            Row("ours", milliseconds["ours"], "ms per map", at_most=BAR_MILLISECONDS),
            Row("Pillow", milliseconds["pillow"], "ms per map"),
            Row("Pillow / ours", ratios(seconds["pillow"], seconds["ours"]), "x"),
            Row("size, ours and Pillow's", f"{ours:,.0f} and {pillow:,.0f} bytes"),
        ],
    )


if __name__ == "__main__":
    main()
