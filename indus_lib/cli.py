"""Two ways in without a notebook: `python -m indus_lib inspect IMAGE` and `python -m indus_lib evaluate --layout ...`.

Bad input is one line on stderr and exit code 2. Results go to stdout or to the file asked for, progress to stderr.
torch and transformers take seconds to import, so each command imports what it needs when it runs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from . import profiles, readers
from .episodes import Episode, write_episodes
from .files import write_text
from .jsonl import encodable
from .samples import Sample
from .selection import balanced_limit

if TYPE_CHECKING:
    from .policies import Policy

ROOT = Path(__file__).resolve().parents[1]
ON_DISK_UNNAMED = ("kolektorsdd", "kolektorsdd-tiles")  # no category folders: --category names the product instead


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line instead of argparse's usage block."""
        self.exit(2, f"indus: {message} (see: python -m indus_lib --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments after `python -m indus_lib`; None = the process's own.

    Returns:
        Exit code: 0, 1 when results are written but images failed, or 2 after one line on stderr.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["serve"]:
        return serve(arguments[1:])
    args = _parser().parse_args(arguments)
    try:
        return args.run(args)
    except (ValueError, OSError) as error:  # bad input; anything else is a bug and shows its traceback
        if args.traceback:
            raise
        print(f"indus: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        what = "the same command goes on from there" if args.run is run_evaluate else "nothing written"
        print(f"indus: interrupted, {what}", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m indus_lib", description="Inspect images for anomalies with IndusAgent.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    inspect = commands.add_parser("inspect", help="look at one image and print the trajectory")
    inspect.add_argument("image", type=Path, metavar="IMAGE")
    inspect.add_argument("--json", action="store_true", help="print the episode as one JSON object")
    inspect.add_argument("--html", type=Path, metavar="OUT", help="also write the trace as one self-contained page")
    inspect.set_defaults(run=run_inspect)
    evaluate = commands.add_parser("evaluate", help="inspect a data set, write its metrics; goes on when cut off")
    evaluate.add_argument("--layout", required=True, choices=[x for x in readers.LAYOUTS if x != "folder"])
    evaluate.add_argument("--root", required=True, type=Path, metavar="DIR", help="folder of the data set")
    evaluate.add_argument("--out", required=True, type=Path, metavar="FILE.json", help="metrics")
    evaluate.add_argument("--episodes", type=Path, metavar="OUT.jsonl", help="also write every episode")
    evaluate.add_argument("--limit", type=_positive, metavar="N", help="at most N images, both classes alike")
    evaluate.set_defaults(run=run_evaluate)
    for command in (inspect, evaluate):
        command.add_argument("--category", default="", metavar="NAME", help="product name as the data set spells it")
        _common(command)
    world = commands.add_parser("world", help="make the profile's data sets, or check that the real ones are there")
    world.add_argument("--profile", default="tiny", metavar="P")
    world.set_defaults(run=run_world)
    base = commands.add_parser("base-model", help="train indus-tiny's base weights from nothing; resumes")
    base.add_argument("--out", type=Path, metavar="DIR", help="default: where the tiny profile looks for them")
    base.add_argument("--tower", type=Path, metavar="DIR", help="a base whose vision tower is trained further")
    base.set_defaults(run=run_base_model)
    for command in (inspect, evaluate, world, base):
        command.add_argument("--traceback", action="store_true", help="show where an error came from")
    commands.add_parser("serve", help="transformers serve MODEL [options], with our processor known to it")
    return parser


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--profile", default="tiny", metavar="P", help=f"{', '.join(profiles.NAMES)} (default: tiny)")
    parser.add_argument("--model", default="", metavar="PATH", help="folder or hub name; default: the profile's agent")
    parser.add_argument("--endpoint", default="", metavar="URL", help="ask --model at an OpenAI-compatible server")
    parser.add_argument("--api-key-env", default="", metavar="VAR", help="environment variable with the server's key")
    parser.add_argument("--mode", default="agent", choices=("agent", "direct"), help="direct: one prompt, no tools")
    parser.add_argument("--seed", type=int, default=0, metavar="N")


def _positive(text: str) -> int:
    value = int(text) if text.isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return value


def run_inspect(args: argparse.Namespace) -> int:
    """`inspect`: one image, verdict unknown beforehand."""
    from . import images, loop, trace_html

    profile = profiles.get(args.profile)
    images.load_image(args.image)  # a bad file is told before a model is loaded
    sample = Sample(id=args.image.stem, image=args.image, category=args.category)
    (episode,) = loop.inspect(_policy(profile, args), [sample], profile=profile, mode=args.mode, seed=args.seed)
    if episode.error:
        raise ValueError(episode.error)
    if args.html:
        _writable(args.html)
        write_text(args.html, encodable(trace_html.static_page(episode, sample)))
    print(json.dumps(episode.to_json(), ensure_ascii=False) if args.json else describe(episode))
    return 0


def run_evaluate(args: argparse.Namespace) -> int:
    """`evaluate`: the test split of a data set. What was inspected lies beside `--out` until all of it is; 1 where some
    images could not be."""
    from . import loop
    from .corpus_work import WorkLog

    profile = profiles.get(args.profile)
    for path in (args.out, args.episodes):
        _writable(path)
    samples = _samples(args)
    policy = _policy(profile, args)
    kept = balanced_limit(samples, args.limit)
    work = WorkLog(args.out.with_name(args.out.name + ".work.jsonl"), _identity(args, profile, kept))
    done = {key: Episode.from_json(result) for key, result in work.results.items()}
    if done:
        print(f"indus: {len(done)} of {len(kept)} images were inspected before, going on", file=sys.stderr)
    episodes = loop.inspect(
        policy, kept, profile=profile, mode=args.mode, seed=args.seed, progress=f"{args.layout} ({args.profile})",
        done=done, on_batch=lambda new: work.add({e.sample_id: e.to_json() for e in new if not e.error}),
    )  # fmt: skip
    if args.episodes:
        write_episodes(args.episodes, episodes)
    result = evaluation(args, profile, policy.name, samples, episodes)
    text = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
    write_text(args.out, encodable(text))  # a folder's name may be no UTF-8
    print(_summary_line(result))
    failed = [e for e in episodes if e.error]
    if failed:  # what was inspected stays where it is
        first = f"the first, {failed[0].sample_id}: {' '.join(failed[0].error.split())}"
        print(f"indus: {len(failed)} of {len(episodes)} images failed and count as wrong; {first}", file=sys.stderr)
        print("indus: the same command asks for them again, and for no other", file=sys.stderr)
        return 1
    work.path.unlink()
    return 0


def _identity(args: argparse.Namespace, profile: profiles.Profile, samples: Sequence[Sample]) -> str:
    """Hash of all that decides an episode: model, code, settings, images. A changed one is not gone on with."""
    from .training_runs import identity

    model = f"{args.model} at {args.endpoint}" if args.endpoint else args.model or weights_of(profile)
    code = ["loop", "endpoint_policy" if args.endpoint else "local_policy"]
    images = [(s.id, s.category, s.label, str(s.image), s.image.stat().st_size) for s in samples]
    return identity(model, code, profile=profile.hash, mode=args.mode, seed=args.seed, images=images)


def _samples(args: argparse.Namespace) -> list[Sample]:
    named = args.layout in ON_DISK_UNNAMED
    options: dict[str, Any] = {"category": args.category} if named else {"categories": args.category or None}
    return readers.read(args.layout, args.root, **options)


def evaluation(
    args: argparse.Namespace, profile: profiles.Profile, model: str, samples: Sequence[Sample], episodes: list[Episode]
) -> dict[str, Any]:
    """The JSON object that `evaluate` writes: what was run, metrics with 95 % intervals, counts, tools, time.

    `count_report` compares all of `samples`, the data set as read, with its protocol card; `episodes` may be fewer.
    """
    from dataclasses import asdict

    from . import cards, metrics, report, worlds

    data = metrics.outcomes(episodes)
    intervals = {f"{name}_ci": metrics.interval(data, name) for name in metrics.METRICS}
    card = cards.load_card(args.layout, standins=worlds.FROZEN.is_file() and (args.root / worlds.RECORD).is_file())
    counts = asdict(cards.check_counts(card, samples)) | {"card": card.title, "card_hash": card.hash()}
    ran = {
        "layout": args.layout, "category": args.category, "profile": profile.name, "config_hash": profile.hash,
        "model": model, "mode": args.mode, "seed": args.seed, "limit": args.limit, "n": len(episodes),
    }  # fmt: skip
    return ran | report.summary(episodes) | intervals | {"count_report": counts}


def _summary_line(result: dict[str, Any]) -> str:
    value, bounds = result["balanced_accuracy"], result["balanced_accuracy_ci"]
    shown = "not defined (one class is empty)" if value is None else f"{100 * value:.1f} %"
    between = f" (95 %: {100 * bounds[0]:.1f} to {100 * bounds[1]:.1f})" if bounds else ""
    counts = f"{result['n_normal']} normal, {result['n_anomalous']} anomalous, {result['n_unparsed']} unparsed"
    return f"balanced accuracy {shown}{between}; {counts}; {result['seconds']:.3f} s per image"


def _policy(profile: profiles.Profile, args: argparse.Namespace) -> Policy:
    if args.endpoint:
        from .endpoint_policy import EndpointPolicy

        if not args.model:
            raise ValueError("--endpoint needs --model NAME, the model's name at that server")
        return EndpointPolicy(args.endpoint, args.model, api_key_env=args.api_key_env)
    from transformers.utils import logging

    from .local_policy import LocalPolicy

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return LocalPolicy.from_path(args.model or weights_of(profile), batch=profile.inspection.batch)


def weights_of(profile: profiles.Profile) -> str:
    """The profile's trained agent if it ships, else its base; a path of the checkout works from any directory."""
    for name in (profile.model.agent, profile.model.base):
        if name and (ROOT / name).is_dir():
            return str(ROOT / name)
    return profile.model.base


def describe(episode: Episode) -> str:
    """A trajectory for reading: turns, tool results, verdict and margin."""
    lines = [f"{episode.image} ({episode.policy}, profile {episode.profile})"]
    for number, turn in enumerate(episode.turns, 1):
        lines += ["", f"--- turn {number}", turn.text]
        lines += [f"[{c.name}{'' if c.ok else ', refused'}, {c.ms:.0f} ms] {c.text}" for c in turn.calls]
    return "\n".join([*lines, "", _verdict_line(episode)])


def _verdict_line(episode: Episode) -> str:
    margin = "" if episode.margin is None else f"; margin {episode.margin:+.2f} (log p(Yes) - log p(No))"
    if episode.verdict is None:
        return f"no readable verdict: {', '.join(episode.violations) or 'no answer'}{margin}"
    if not episode.verdict.anomalous:
        return f"normal{margin}"
    where = f" at {list(episode.verdict.box)}" if episode.verdict.box else ""
    return f"anomalous: {episode.verdict.type or 'type not named'}{where}{margin}"


def _writable(path: Path | None) -> None:
    """Raises OSError before hours of inspection, not after."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir() or not os.access(path.parent, os.W_OK):
            raise OSError(f"{path}: cannot be written, choose another file")


def run_world(args: argparse.Namespace) -> int:
    """`world`: what `make reproduce` needs on disk before the second notebook."""
    from . import notebook_runs, worlds

    profile = profiles.get(args.profile)
    if profile.data.standins:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        worlds.write_world(ROOT / profile.data.root, scale=profile.data.scale, n_workers=cores)
    elif line := notebook_runs.missing_data(profile):
        raise FileNotFoundError(line)
    return 0


def run_base_model(args: argparse.Namespace) -> int:
    """`base-model`: the committed base weights again, from random ones."""
    from . import base_training

    print(base_training.train(ROOT, args.out or ROOT / profiles.get("tiny").model.base, tower=args.tower))
    return 0


def serve(arguments: Sequence[str]) -> int:
    """`transformers serve` in this process, after making our processor known to `AutoProcessor`."""
    from transformers.cli.transformers import main as transformers_main

    from .processing import register

    register()
    sys.argv = ["transformers", "serve", *arguments]
    transformers_main()
    return 0
