"""What a reconstruction sets up around itself once its options are known."""
from collections.abc import Iterator
from contextlib import contextmanager

from utils.cli.messages import failures, set_up_logging
from utils.cli.settings import Options
from utils.cli.threads import use_threads


@contextmanager
def process(options: Options) -> Iterator[None]:
    """Messages, threads, and one line at the end where something outside the program goes wrong."""
    set_up_logging(options.verbosity)
    use_threads(options.threads)
    with failures(options.debug):
        yield
