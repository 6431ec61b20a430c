"""The arguments of the commands of `python -m search`."""

import argparse
from pathlib import Path

from evaluation.calibration import FALSE_ALARMS
from search.access.arguments import add_access_arguments
from search.describing.questions import AMONG
from search.files.storage import is_url
from search.frames.detector import MIN_SCORE
from search.gallery.grouping import ALIKE
from search.milvus.index_types import AUTO, CHOICES, EXACT, EXACT_BELOW, GRAPH
from search.searcher import CANDIDATES
from utils.paths import path_argument

OWN_SETTINGS = "default: config.yaml beside the checkpoint, else what it records"


def path_or_url(text: str) -> Path | str:
    """Where images are: a path, or a URL such as s3://bucket/photos."""
    return text if is_url(text) else path_argument(text)


def add_index_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", type=path_or_url, help="images below it, in linked folders too; or a URL such as s3://bucket/photos"
    )
    parser.add_argument("--metadata", type=Path, metavar="CSV", help="`image`, and columns to filter by (camera, ...)")
    gone = "folders of it whose images are gone for good, all of them (. = any folder)"
    boxes = "index the people in frames: tables (.csv), COCO (.json) or MOT Challenge (.txt)"
    parser.add_argument("--boxes", type=Path, nargs="+", default=[], metavar="FILE", help=boxes)
    finder = "index the people that it finds in frames: torchvision:MODEL=WEIGHTS.pth, or MODULE:FUNCTION"
    parser.add_argument("--detector", metavar="NAME", help=finder)
    least = "from which score what a detector finds is a person (%(default)s)"
    parser.add_argument("--least_score", type=float, default=MIN_SCORE, metavar="S", help=least)
    add_index_type(parser, f"of a new gallery ({AUTO}: {EXACT} below {EXACT_BELOW:,} images, else {GRAPH})")
    parser.add_argument("--gone", nargs="+", action="extend", default=[], metavar="FOLDER", help=gone)
    add_gallery_and_model(parser)


def add_frames_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "videos", type=Path, nargs="+", metavar="VIDEO", help="what the package av reads (mp4, mkv, ...)"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="where their frames are written")
    every = "seconds from one frame to the next (%(default)s; 0: all frames)"
    parser.add_argument("--every", type=float, default=1.0, metavar="S", help=every)


def add_query_arguments(parser: argparse.ArgumentParser) -> None:
    add_search(parser)
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write a table of the images, with ranks and scores")
    parser.add_argument("--sheet", type=Path, metavar="FILE.png", help="draw the images")
    add_false_alarms(parser)
    add_reranker(parser)
    add_gallery_and_model(parser)


def add_describe_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="pictures of one person each")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_phrases(parser)
    add_model(parser, needed=True)


def add_ask_arguments(parser: argparse.ArgumentParser) -> None:
    add_search(parser)
    given = "answers to the questions, such as yes,no,unknown; without it, questions are asked one after the other"
    parser.add_argument("--answers", metavar="A,B", help=given)
    among = "best images that questions tell apart (%(default)s)"
    parser.add_argument("--among", type=int, default=AMONG, metavar="N", help=among)
    add_phrases(parser)
    add_reranker(parser)
    add_gallery_and_model(parser)


def add_search(parser: argparse.ArgumentParser) -> None:
    """What is searched for, and how it is printed."""
    parser.add_argument("text", help="a sentence, such as: a woman in a red coat")
    parser.add_argument("--top", type=int, default=10, help="images to print (%(default)s)")
    parser.add_argument("--candidates", type=int, default=CANDIDATES, help="images to re-rank (%(default)s)")
    parser.add_argument("--where", default="", help="filter on metadata, such as: camera == 'c3' and time < 900")
    group = f"one hit for all images with the same value of metadata, such as track, or that look the same ({ALIKE})"
    parser.add_argument("--group", default="", metavar="NAME", help=group)
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_phrases(parser: argparse.ArgumentParser) -> None:
    table = "YAML file of categories and phrases that describe people, on top of the built-in ones"
    parser.add_argument("--phrases", type=Path, metavar="FILE", help=table)


def add_forget_arguments(parser: argparse.ArgumentParser) -> None:
    conditions = "only those whose metadata have all of these"
    parser.add_argument("images", nargs="*", help="images, or folders of them (all images, with --where alone)")
    parser.add_argument("--where", nargs="+", default=[], metavar="NAME=VALUE", help=conditions)
    add_gallery_and_model(parser)


def add_rebuild_arguments(parser: argparse.ArgumentParser) -> None:
    add_index_type(parser, "as which it is built, and is from now on (default: as it was)")
    add_gallery_and_model(parser)


def add_benchmark_arguments(parser: argparse.ArgumentParser) -> None:
    every = "build an index of every type too, beside the one in use, and measure it"
    parser.add_argument("--every_type", action="store_true", help=every)
    candidates = "images that a query asks of the index, as those that are re-ranked (%(default)s)"
    parser.add_argument("--candidates", type=int, default=CANDIDATES, help=candidates)
    parser.add_argument("--queries", type=int, default=100, help="sentences, at most (%(default)s)")
    source = "a text file with a sentence in each line (default: drawn descriptions)"
    parser.add_argument("--sentences", type=Path, metavar="FILE", help=source)
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_gallery_and_model(parser)


def add_index_type(parser: argparse.ArgumentParser, about: str) -> None:
    parser.add_argument("--index_type", metavar="TYPE", help=f"{', '.join(CHOICES)}: {about}")


def add_move_arguments(parser: argparse.ArgumentParser) -> None:
    images = "where the images of the gallery are now, a folder or URL"
    parser.add_argument("--images", type=path_or_url, metavar="NEW_FOLDER", help=images)
    add_gallery(parser)
    add_model(parser)


def add_serve_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="where to serve (%(default)s: this machine alone)")
    parser.add_argument("--port", type=int, default=7860, help="port to serve on (%(default)s)")
    parser.add_argument("--allow_upload", action="store_true", help="let users of the page add images")
    parser.add_argument("--allow_forget", action="store_true", help="let users erase images from the gallery")
    add_phrases(parser)
    add_access_arguments(parser)
    add_false_alarms(parser)
    add_reranker(parser)
    add_gallery_and_model(parser)


def add_false_alarms(parser: argparse.ArgumentParser) -> None:
    about = f"share of searches for people who are not here that may show them as if they were ({FALSE_ALARMS})"
    parser.add_argument("--false_alarms", type=float, metavar="RATE", help=f"{about}; of calibrated models")


def add_reranker(parser: argparse.ArgumentParser) -> None:
    source = "a checkpoint that re-ranks what the gallery's model finds (default: that model itself, if it can)"
    parser.add_argument("--rerank", type=Path, metavar="CHECKPOINT", help=source)
    config = f"YAML file of that checkpoint ({OWN_SETTINGS})"
    parser.add_argument("--rerank_config", type=Path, metavar="CONFIG", help=config)


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("output", type=Path, help="a new folder, or one file NAME.safetensors")
    parser.add_argument("--bf16", action="store_true", help="weights in bfloat16: half as large")
    parser.add_argument("--onnx", action="store_true", help="write image_encoder.onnx and text_encoder.onnx too")
    parser.add_argument("--open_clip", action="store_true", help="a folder that open_clip loads (of CLIP and IRRA)")
    add_model(parser, needed=True)


def add_gallery_and_model(parser: argparse.ArgumentParser) -> None:
    add_gallery(parser)
    add_model(parser)


def add_gallery(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gallery", required=True, metavar="G", help="its folder, or http://host:19530 of a server")
    files = "where the plain files of a gallery on a server are: a folder, or a URL such as s3://bucket/gallery"
    parser.add_argument("--files", metavar="F", help=f"{files} (default: a folder named after the server)")


def add_model(parser: argparse.ArgumentParser, needed: bool = False) -> None:
    source = "a checkpoint of a run, an export, a folder of open_clip, or the name of a file in checkpoints/"
    source += "" if needed else " (default: as the gallery was made)"
    parser.add_argument("--checkpoint", required=needed, type=Path, help=source)
    parser.add_argument("--config", type=Path, help=f"YAML file ({OWN_SETTINGS})")
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY.PATH=VALUE",
        dest="overrides",
        help="settings on top of it, such as precision=fp32",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
