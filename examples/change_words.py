"""Ask one image for different words, then for the best match of one phrase; the model is loaded once.

python change_words.py photo.jpg out/ "red ball" "cube, ball, table" "toy, furniture"
"""

import argparse
from pathlib import Path

import numpy as np

from ovseg_ros.api import build_segmenter, draw_overlay, read_image, words, write_image


def main() -> None:
    parser = argparse.ArgumentParser(description="One image under several vocabularies, and the best mask of a phrase.")
    parser.add_argument("image")
    parser.add_argument("out", type=Path, help="folder for the pictures")
    parser.add_argument("phrase", help='what to look for by itself, such as "red ball"')
    parser.add_argument("words", nargs="+", help='vocabularies, such as "cube, ball, table"')
    parser.add_argument("--preset", default="tabletop", help="for photographs: eomt_l_convnext")
    options = parser.parse_args()

    segmenter = build_segmenter(options.preset)
    image = read_image(options.image)
    for number, text in enumerate(options.words, start=1):
        vocabulary = words(text)
        result = segmenter.segment(image, segmenter.prepare(vocabulary))  # new words cost a moment, known ones nothing
        write_image(options.out / f"words_{number}.png", draw_overlay(image, result, vocabulary))
        print(f"{text}: {', '.join(segment.label for segment in result.segments) or 'nothing'}")

    prompt = segmenter.prepare(words(f"{options.phrase},"))  # with a comma it is a word, whatever files there are
    result = segmenter.segment(image, prompt)
    if not result.segments:
        raise SystemExit(f"nothing is taken for {options.phrase!r}")
    best = max(result.segments, key=lambda segment: segment.score)
    mask = result.segment_ids == best.id
    write_image(options.out / "best.png", np.where(mask[..., None], image, image // 4))
    print(f"{options.phrase}: score {best.score:.2f} at x, y, width, height {best.box}")


if __name__ == "__main__":
    main()
