"""Segment one image: python segment_image.py photo.jpg "red cube, blue ball, table" overlay.png"""

import argparse

from ovseg_ros.api import build_segmenter, draw_overlay, read_image, words, write_image


def main() -> None:
    parser = argparse.ArgumentParser(description="Segment one image.")
    parser.add_argument("image")
    parser.add_argument("words", help='such as "red cube, blue ball, table"')
    parser.add_argument("out", help="picture to write, .png or .jpg")
    parser.add_argument("--preset", default="tabletop", help="for photographs: eomt_l_convnext")
    options = parser.parse_args()

    segmenter = build_segmenter(options.preset)
    vocabulary = words(options.words)
    image = read_image(options.image)
    result = segmenter.segment(image, segmenter.prepare(vocabulary))

    for segment in result.segments:
        print(f"{segment.label:20} {segment.score:.2f}  {segment.area:7} pixels  x, y, width, height: {segment.box}")
    write_image(options.out, draw_overlay(image, result, vocabulary))


if __name__ == "__main__":
    main()
