"""Command line: `python -m search index|query|ask|describe|serve|forget|move|...`; each has --help."""

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch

from dataset.decoding import known_endings
from evaluation.calibration import FALSE_ALARMS, require_rate
from evaluation.description.phrases import read_phrase_table
from evaluation.results import read_metrics
from search.access.addresses import open_sockets
from search.access.commands import add_secret_arguments, run_password, run_token
from search.arguments import (
    add_ask_arguments,
    add_benchmark_arguments,
    add_describe_arguments,
    add_export_arguments,
    add_forget_arguments,
    add_frames_arguments,
    add_index_arguments,
    add_move_arguments,
    add_query_arguments,
    add_rebuild_arguments,
    add_serve_arguments,
)
from search.describing.commands import Questioner, describe_images
from search.describing.describer import Describer, GalleryDescriber
from search.encoder import Encoder
from search.files.images import ImageSource, open_images
from search.files.metadata import read_metadata
from search.frames.detector import open_detector
from search.gallery.address import Address
from search.gallery.gallery import open_gallery
from search.gallery.indexing import index
from search.gallery.moving import move_images
from search.gallery.searchable_gallery import SearchableGallery, open_shared_gallery, recorded_encoder
from search.gallery.selection import select_images
from search.likelihood import why_unknown
from search.milvus.index_types import require_index_type
from search.results.formats import ResultRow, results_as_csv, search_result_as_json
from search.results.lines import in_a_line, print_answer, print_warnings
from search.results.sheet import is_image_of, require_sheet, write_sheet
from search.searcher import CANDIDATES, Searcher
from utils.errors import CommandParser, UserError, one_line, run_command_line
from utils.files import atomic_write, print_json, require_writable_file
from utils.interruption import Interruption
from utils.logs import set_up_logging
from utils.text import agreeing, counted

Command = Callable[[argparse.Namespace], None]


def open_encoder(options: argparse.Namespace) -> Encoder:
    """The encoder that made the gallery, or another copy of it; for a new gallery the one of the command line."""
    if options.checkpoint is not None and not Address.parse(options.gallery, options.files).exists():
        return Encoder.open(options.checkpoint, options.config, options.device, options.overrides)
    source = recorded_encoder(options.gallery, options.checkpoint, options.files)
    overrides = list(dict.fromkeys([*source["overrides"], *options.overrides]))
    return Encoder.open(source["checkpoint"], options.config or source.get("config"), options.device, overrides)


def open_both(options: argparse.Namespace) -> tuple[Encoder, Encoder | None]:
    """The encoder of the gallery, and the model of --rerank, which computes in the same precision."""
    if options.rerank_config and not options.rerank:
        raise UserError("--rerank_config is of the checkpoint of --rerank: which one is it?")
    encoder = open_encoder(options)
    if options.rerank is None:
        return encoder, None
    same = [f"precision={encoder.precision}"]
    return encoder, Encoder.open(options.rerank, options.rerank_config, options.device, same)


def false_alarms(options: argparse.Namespace) -> float:
    """The rate of --false_alarms, or the usual one. Raises UserError unless it is between 0 and 1."""
    rate = FALSE_ALARMS if options.false_alarms is None else options.false_alarms
    require_rate(rate)
    return rate


def tell_if_unknown(options: argparse.Namespace, searcher: Searcher, candidates: int = CANDIDATES) -> None:
    """Say so on stderr when --false_alarms is asked of a model whose scores are not calibrated."""
    reranked = bool(candidates) and searcher.reranker.model.reranks
    if searcher.calibration(reranked) is None and options.false_alarms is not None:
        print(one_line(why_unknown(searcher.reranker if reranked else searcher.encoder)), file=sys.stderr)


# ---- commands --------------------------------------------------------------------------


def run_index(options: argparse.Namespace) -> None:
    """Encode the images below a folder; called again, follow what is new, changed or gone."""
    require_one_source(options)
    if options.index_type is not None:
        require_index_type(options.index_type)
    metadata = read_metadata(options.metadata) if options.metadata else None
    images = open_images(str(options.folder), "FOLDER")
    if not images.exists():
        raise UserError(f"{options.folder} is not a folder of images")
    if not Address.parse(options.gallery, options.files).exists():
        if options.checkpoint is None:
            raise UserError(f"--checkpoint is missing: which model shall make the gallery {options.gallery}?")
        require_images(images)  # before a model is opened
    detector = open_detector(options.detector, options.least_score, options.device) if options.detector else None
    encoder = open_encoder(options)
    chosen = options.index_type
    with open_gallery(options.gallery, encoder, images, files=options.files, index_type=chosen) as gallery:
        report = index(gallery, encoder, metadata, options.gone, options.boxes, detector)
        for path, fault in (report.found.unreachable | report.unreadable).items():
            print(f"unreadable: {in_a_line(path)} {fault}")
        if report.found.left_out:
            print(report.found.describe_left_out())
        print(f"{report}; the gallery holds {counted(len(gallery.records), 'image')}")


def require_one_source(options: argparse.Namespace) -> None:
    """Raises UserError when two options say who is in frames."""
    if options.boxes and options.detector:
        raise UserError("--boxes and --detector both say who is in frames; give one of them")


def require_images(images: ImageSource) -> None:
    """Raises UserError unless there is one."""
    found = images.walk()
    if not found.images:
        endings = " ".join(sorted(ending[1:] for ending in known_endings()))
        raise UserError(f"there is no image ({endings}) below {images}{found.describe_left_out('; ')}")


def run_query(options: argparse.Namespace) -> None:
    """Rank a gallery for a sentence."""
    if options.sheet:
        require_sheet(options.sheet)
    if options.csv:
        require_writable_file(options.csv, "--csv")
    rate = false_alarms(options)
    encoder, reranker = open_both(options)
    with open_for_search(options, encoder) as gallery:
        for flag, file in (("--sheet", options.sheet), ("--csv", options.csv)):
            if file and is_image_of(gallery, file.resolve()):
                raise UserError(f"{flag} {file} is an image of the gallery; name another file")
        searcher = Searcher(encoder, gallery, reranker=reranker, false_alarms=rate)
        tell_if_unknown(options, searcher, options.candidates)
        answer = searcher.search(options.text, options.top, options.candidates, options.where, options.group)
        print_warnings(answer)
        found = search_result_as_json(answer, gallery, with_files=True)
        if options.json:
            print_json({"query": answer.query.text, **found})
        else:
            print_answer(answer, gallery)
        if options.csv:
            write_csv(found["hits"], options.csv)
        if options.sheet:  # last: a disk that is full by now does not lose the answer
            write_sheet(answer, gallery, options.sheet)


def run_describe(options: argparse.Namespace) -> None:
    """Say what pictures of people show."""
    table = read_phrase_table(options.phrases)
    encoder = Encoder.open(options.checkpoint, options.config, options.device, options.overrides)
    describe_images(Describer(encoder, table), options.images, options.json)


def run_ask(options: argparse.Namespace) -> None:
    """Rank a gallery for a sentence, and ask what tells the best images apart."""
    questioner = Questioner.parse(options)
    encoder, reranker = open_both(options)
    with open_for_search(options, encoder) as gallery:
        searcher = Searcher(encoder, gallery, reranker=reranker)
        questioner.run(GalleryDescriber(searcher, questioner.table))


def open_for_search(
    options: argparse.Namespace, encoder: Encoder, changes: bool = False
) -> AbstractContextManager[SearchableGallery]:
    """The gallery, one on a server beside others that search or change it; unless this process `changes` it itself."""
    if changes or not Address.parse(options.gallery, options.files).is_server:
        return open_gallery(options.gallery, encoder, files=options.files)
    return open_shared_gallery(options.gallery, encoder, options.files)


def write_csv(results: Sequence[ResultRow], path: Path) -> None:
    """A table of the hits."""
    with atomic_write(path) as temporary:
        temporary.write_text(results_as_csv(results), encoding="utf-8", newline="")


def run_forget(options: argparse.Namespace) -> None:
    """Erase images from a gallery."""
    encoder = open_encoder(options)
    with open_gallery(options.gallery, encoder, files=options.files) as gallery:
        paths = select_images(gallery, options.images, options.where)
        if not paths:
            raise UserError("no image of the gallery has all of these metadata; nothing was forgotten")
        gallery.forget(paths)
        files = agreeing(len(paths), "its file", "their files")
        are = agreeing(len(paths), "is", "are")
        print(f"{counted(len(paths), 'image')} forgotten; {files} in {gallery.image_source} {are} left alone")


def run_serve(options: argparse.Namespace) -> None:
    """Serve a web page and an HTTP API for a gallery."""
    from search.access.options import Access  # with what it brings slow to import, and needed here alone
    from search.site import build_site

    rate = false_alarms(options)
    table, address = read_phrase_table(options.phrases), Address.parse(options.gallery, options.files)
    if not address.exists():
        raise address.missing()
    access = Access.parse(options, address.folder)
    sockets = open_sockets(options.host, options.port)
    encoder, reranker = open_both(options)
    changes = options.allow_upload or options.allow_forget
    with open_for_search(options, encoder, changes) as gallery:
        searcher = Searcher(encoder, gallery, reranker=reranker, false_alarms=rate, authorize=access.authorize)
        tell_if_unknown(options, searcher)
        allowed = {"allow_upload": options.allow_upload, "allow_forget": options.allow_forget}
        site = build_site(searcher, table=table, **allowed, **access.site_settings())
        print(f"{access.url_of(sockets[0].getsockname()[1])} (page), /docs (HTTP API); Ctrl-C ends it", flush=True)
        try:
            access.server(site).run(sockets)
        finally:
            gallery.clear_page()


def run_move(options: argparse.Namespace) -> None:
    """Tell a gallery where its images, or its model, were moved to; nothing is encoded again."""
    if options.images is None and options.checkpoint is None:
        raise UserError("move what? Give --images NEW_FOLDER, --checkpoint NEW, or both")
    encoder = open_encoder(options)
    with open_gallery(options.gallery, encoder, files=options.files) as gallery:
        if options.images is not None:
            found = move_images(gallery, open_images(str(options.images), "--images"))
            for path, fault in found.unreadable.items():
                print(f"unreadable: {in_a_line(path)} {fault}")
            for path in found.changed:
                print(f"another content: {in_a_line(path)}")
            for path in found.missing:
                print(f"not found: {in_a_line(path)}")
            print(f"{found}; the images of the gallery are in {gallery.image_source}")
        if options.checkpoint is not None:
            gallery.record_encoder(encoder.source)
            print(f"the model of the gallery is {encoder.source['checkpoint']}")


def run_rebuild(options: argparse.Namespace) -> None:
    """Build the index again from the records."""
    if options.index_type is not None:
        require_index_type(options.index_type)
    encoder = open_encoder(options)
    chosen = options.index_type
    with open_gallery(options.gallery, encoder, anew=True, files=options.files, index_type=chosen) as gallery:
        print(f"the index of {counted(len(gallery.records), 'image')} is built again: {gallery.store.index_type}")


def run_benchmark(options: argparse.Namespace) -> None:
    """Measure what the index of a gallery finds of the exact neighbours, how fast, and what it takes."""
    from search.gallery.benchmark import measure_gallery, sentences_of

    texts = sentences_of(options)
    encoder = open_encoder(options)
    with open_gallery(options.gallery, encoder, files=options.files) as gallery:
        measure_gallery(options, gallery, encoder, texts)


def run_export(options: argparse.Namespace) -> None:
    """Write a model as one file, or as a folder with a model card and, if asked for, its two encoders as ONNX."""
    from search.export import export, export_file, export_open_clip

    one_file, dtype = options.output.suffix == ".safetensors", torch.bfloat16 if options.bf16 else torch.float32
    if one_file and (options.onnx or options.open_clip):
        flag = "--onnx" if options.onnx else "--open_clip"
        raise UserError(f"{flag} writes files beside the weights; name a folder, not a .safetensors file")
    if options.onnx and options.open_clip:
        raise UserError("--onnx and --open_clip write a folder each; give one of them")

    beside = options.checkpoint.parent / "metrics.json"
    metrics = read_metrics(beside) if beside.is_file() else None
    encoder = Encoder.open(options.checkpoint, options.config, options.device, options.overrides)
    if one_file:
        export_file(encoder, options.output, dtype)
        print(f"written: {options.output}")
        return
    if options.open_clip:
        names = export_open_clip(encoder, options.output, metrics, dtype)
    else:
        names = export(encoder, options.output, metrics, options.onnx, dtype)
    print(f"written to {options.output}: {', '.join(names)}")


def run_frames(options: argparse.Namespace) -> None:
    """Write frames of videos as images to be indexed, and a table of what camera and second each is from."""
    from search.frames.video import TABLE, write_frames

    count = write_frames(options.videos, options.output, options.every)
    print(f"{counted(count, 'frame')} in {options.output}, and {options.output / TABLE}")


# ---- their arguments -------------------------------------------------------------------


def build_parser() -> CommandParser:
    parser = CommandParser(prog="python -m search", description="Search one's own photos by text.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, run: Command) -> argparse.ArgumentParser:
        about = (run.__doc__ or "").splitlines()[0]
        command = commands.add_parser(name, help=about, description=about)
        command.set_defaults(run=run)
        return command

    add_index_arguments(add("index", run_index))
    add_query_arguments(add("query", run_query))
    add_ask_arguments(add("ask", run_ask))
    add_describe_arguments(add("describe", run_describe))
    add_forget_arguments(add("forget", run_forget))
    add_move_arguments(add("move", run_move))
    add_rebuild_arguments(add("rebuild", run_rebuild))
    add_benchmark_arguments(add("benchmark", run_benchmark))
    add_serve_arguments(add("serve", run_serve))
    add_export_arguments(add("export", run_export))
    add_frames_arguments(add("frames", run_frames))
    add_secret_arguments(add("password", run_password), "a user")
    add_secret_arguments(add("token", run_token), "what the token is called")
    return parser


def main() -> None:
    options = build_parser().parse_args()
    Interruption().listen()
    options.run(options)


def command_line() -> None:
    """What `python -m search` and the installed command `person-search` run."""
    set_up_logging(is_main=True)
    run_command_line(main)


if __name__ == "__main__":
    command_line()
