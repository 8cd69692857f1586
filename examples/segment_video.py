"""Segment a video or a camera and follow its objects: python segment_video.py clip.mp4 "ball, table" followed.mp4"""

import argparse

import cv2

from ovseg_ros.api import Tracker, build_segmenter, draw_segments, segment_appearance, words


def main() -> None:
    parser = argparse.ArgumentParser(description="Segment a video and follow its objects.")
    parser.add_argument("source", help="video file, or a camera's number such as 0 (end with Ctrl-C)")
    parser.add_argument("words", help='such as "red cube, blue ball, table"')
    parser.add_argument("out", help="video to write, such as followed.mp4")
    parser.add_argument("--preset", default="tabletop", help="for real scenes: eomt_l_convnext")
    options = parser.parse_args()

    segmenter = build_segmenter(options.preset)
    prompt = segmenter.prepare(words(options.words))
    tracker, writer, count = Tracker(), None, 0
    capture = cv2.VideoCapture(int(options.source) if options.source.isdigit() else options.source)
    rate = capture.get(cv2.CAP_PROP_FPS) or 30.0
    try:
        while (read := capture.read())[0]:
            image = cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB)
            result = segmenter.segment(image, prompt)
            result = tracker.update(result, count / rate, segment_appearance(image, result))
            names = {s.id: f"{s.label} {s.track_id}" if s.is_thing else s.label for s in result.segments}
            picture = draw_segments(image, result.segment_ids, names)
            if writer is None:
                size = (picture.shape[1], picture.shape[0])
                writer = cv2.VideoWriter(options.out, cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
                if not writer.isOpened():
                    raise SystemExit(f"cannot write {options.out}; name an .mp4 file in a folder that exists")
            writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
            count += 1
    except KeyboardInterrupt:
        pass  # what was read so far is a video, too
    finally:
        capture.release()
        if writer is not None:
            writer.release()
    print(f"{count} frames written to {options.out}" if count else f"{options.source} gave no frame")


if __name__ == "__main__":
    main()
