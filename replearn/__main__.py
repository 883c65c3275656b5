"""The command line: python -m replearn pretrain --recipe shapes --folder runs/shapes --minutes 5"""

from collections.abc import Sequence

from replearn import _command
from replearn.pretrain.cli import add_evaluate, add_finetune, add_pretrain
from replearn.serve.cli import add_export, add_serve


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one of the commands pretrain, evaluate, finetune, export and serve.

    Args:
        arguments: The words after `python -m replearn`; None for those of this process.

    Raises:
        SystemExit: The words are not understood, or there is a problem that a person can mend; it
            is said in one sentence, without a traceback.
    """
    parser = _command.Parser(prog="python -m replearn", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    add_pretrain(commands)
    add_evaluate(commands)
    add_finetune(commands)
    add_export(commands)
    add_serve(commands)
    args = parser.parse_args(arguments)
    _command.run(args.run, args)


if __name__ == "__main__":
    main()
